"""Mean intersection over union and pixel accuracy of label maps, over a whole set.

Shapes: N images, C classes, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetuning.metrics.bootstrap import Intervals, Numbers, drawn_counts, interval

IGNORED = -1  # the class of pixels that are not judged


def confusion(truth: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """Count pairs of true and predicted class over the pixels of one image that are judged. int64 [C, C]"""
    judged = truth != IGNORED
    pairs = truth[judged].astype(np.int64) * classes + found[judged]
    return np.bincount(pairs.reshape(-1), minlength=classes * classes).reshape(classes, classes)


class Confusions:
    """Per image and class, the pixels that are rightly it, truly it, and said to be it; and the sum of all tables."""

    def __init__(self, truth: Sequence[np.ndarray], found: Sequence[np.ndarray], classes: int) -> None:
        self.total = np.zeros((classes, classes), np.int64)
        self.parts = np.zeros((len(truth), 3, classes), np.int64)
        for part, known, seen in zip(self.parts, truth, found, strict=True):
            matrix = confusion(known, seen, classes)
            self.total += matrix
            part[:] = np.diag(matrix), matrix.sum(1), matrix.sum(0)

    def numbers(self) -> Numbers:
        """Compute both over all images together; classes that are neither true nor predicted anywhere are left out."""
        return {name: float(values[0]) for name, values in _measured(self.parts.sum(0)[None]).items()}

    def intervals(self) -> Intervals:
        """Bootstrap both over images."""
        count = len(self.parts)
        drawn = drawn_counts(np.full(count, 1 / count), count)
        sums = (drawn @ self.parts.reshape(count, -1)).reshape(len(drawn), *self.parts.shape[1:])
        return {name: interval(values) for name, values in _measured(sums).items()}

    def table(self, names: Sequence[str]) -> dict[str, Any]:
        """Tabulate the intersection over union and the share of pixels of each class; null where it is absent."""
        right, true, said = self.parts.sum(0)
        pixels = max(1, int(true.sum()))
        rows = {}
        for number, name in enumerate(names):
            union = int(true[number] + said[number] - right[number])
            rows[name] = {"iou": right[number] / union if union else None, "share": float(true[number] / pixels)}
        return rows


def _measured(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Measure sums [N, 3, C] of pixels. [N] each"""
    right, true, said = (sums[:, place].astype(np.float64) for place in range(3))
    union = true + said - right
    ratios = np.divide(right, union, out=np.zeros_like(right), where=union > 0)
    there, judged = (union > 0).sum(1), true.sum(1)
    return {
        "miou": np.divide(ratios.sum(1), there, out=np.zeros(len(sums)), where=there > 0),
        "pixel_accuracy": np.divide(right.sum(1), judged, out=np.zeros(len(sums)), where=judged > 0),
    }
