"""The classical reference of a study: what needs no network, fitted on the very labels that its finetunings learn from.

Kept in the study's references.json, one entry per task, amount of labels and seed; whatever the mode, the labels are
the same.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.study.graph import FINETUNING, Cell, Resolve, Study, digest
from pretraining.cache import read_object, replace_text

Fit = Callable[[Sequence[str]], tuple[str, dict[str, float]] | None]
"""Overrides of a finetuning run -> the reference's name and its test metrics; None where a task has none."""
LABELS = ("task", "data", "fraction", "shots")  # what a reference depends on, beside its seed


def reference_key(cell: Cell, seed: int) -> str:
    """Name a reference."""
    return f"{cell.task}, {cell.labels}, seed {seed}"


def read_references(directory: Path) -> dict[str, dict[str, Any]]:
    """Read what was fitted: by key its `name` and `numbers`, or its `error`; neither where a task has none."""
    path = directory / "references.json"
    return read_object(path) if path.exists() else {}


def fit_references(study: Study, resolve: Resolve, fit: Fit, tell: Callable[[str], None]) -> None:
    """Fit the references that the study's runs lack; what fails is written down, as of runs."""
    known, asked = read_references(study.directory), dict[Cell, str]()
    for node in study.nodes:
        if node.cell is None or not node.source.pretrained:
            continue
        if node.cell not in asked:
            config = resolve(FINETUNING, node.overrides)
            asked[node.cell] = digest({name: config.get(name) for name in LABELS})
        key, of = reference_key(node.cell, node.seed), asked[node.cell]
        if known.get(key, {}).get("of") == of:
            continue
        known[key] = {"of": of}
        try:
            if (fitted := fit(node.overrides)) is not None:
                known[key] |= {"name": fitted[0], "numbers": fitted[1]}
        except Exception as error:  # as of a run: the study goes on
            known[key]["error"] = f"{type(error).__name__}: {error}"
            tell(f"no classical reference for {key}: {known[key]['error']}")
        replace_text(study.directory / "references.json", json.dumps(known, indent=1) + "\n")
