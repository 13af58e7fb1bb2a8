"""What a constant answer would give on a finished run's test examples, by the confusion matrix that the run left."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Majority(NamedTuple):
    """The commonest class of the test labels and its share; ``only`` is what is predicted where that is one class."""

    name: str
    share: float
    only: str | None


def read_majority(run_dir: Path) -> Majority | None:
    """Read test_report.json; None where a task left none, or one without classes."""
    path = run_dir / "test_report.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    rows = found.get("confusion_matrix")  # one per true class
    if not rows or not any(map(sum, rows)):
        return None
    names, truth = found["classes"], [sum(row) for row in rows]
    guessed = [name for name, column in zip(names, zip(*rows, strict=True), strict=True) if sum(column)]
    most = max(truth)
    return Majority(names[truth.index(most)], most / sum(truth), guessed[0] if len(guessed) == 1 else None)


def beside(numbers: Mapping[str, Any], metric: str, majority: Majority | None) -> str:
    """Say what a constant answer gives where a run predicts one class, or is not shown to be more accurate."""
    if majority is None:
        return ""
    low = numbers.get(f"{metric}_low", numbers.get(metric))
    no_better = metric.endswith("/accuracy") and low is not None and low <= majority.share
    if majority.only is None and not no_better:
        return ""
    alone = "" if majority.only is None else f"; predicts {majority.only!r} alone"
    return f"{alone}; always {majority.name!r} would give accuracy {majority.share:.3f}"
