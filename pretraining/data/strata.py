"""Fixed splits of labelled examples, with each class in its share."""

from __future__ import annotations

import numpy as np

from pretraining.random import permuted


def stratified(labels: np.ndarray, *, validation_share: float, test_share: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Split rows so that each class keeps its shares; a function of labels, shares and seed. Sorted int64 row numbers per split."""
    parts: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[permuted(np.arange(len(rows)), len(rows), seed=seed, epoch=int(label), stream="split")]
        test = round(len(rows) * test_share)
        validation = test + round(len(rows) * validation_share)
        for name, part in (("test", rows[:test]), ("validation", rows[test:validation]), ("train", rows[validation:])):
            parts[name].append(part)
    return {name: np.sort(np.concatenate(part)) for name, part in parts.items()}
