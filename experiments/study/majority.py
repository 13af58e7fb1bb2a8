"""What a constant answer would give on a finished run's test examples, by the confusion matrix that the run left."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetuning.metrics.reference import Majority
from pretraining.cache import read_object


def read_majority(run_dir: Path) -> Majority | None:
    """Read test_report.json; None where a task left none, or one without classes."""
    path = run_dir / "test_report.json"
    found = read_object(path) if path.exists() else {}
    rows = found.get("confusion_matrix")  # one per true class
    if not rows or not any(map(sum, rows)):
        return None
    labels, given = (
        dict(zip(found["classes"], map(sum, part), strict=True)) for part in (rows, zip(*rows, strict=True))
    )
    return Majority.of(labels, given)


def beside(numbers: Mapping[str, Any], metric: str, majority: Majority | None) -> str:
    """Say what a constant answer gives where a run predicts one class, or is not shown to be more accurate."""
    if majority is None:
        return ""
    low = numbers.get(f"{metric}_low", numbers.get(metric))
    no_better = metric.endswith("/accuracy") and low is not None and low <= majority.share
    if majority.only is None and not no_better:
        return ""
    alone = "" if majority.only is None else f"; predicts {majority.only!r} alone"
    return f"{alone}; {majority.describe()}"
