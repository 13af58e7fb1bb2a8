"""Fixed splits of labelled examples, with each class in its share."""

from __future__ import annotations

import hashlib

import numpy as np

from pretraining.random import permuted


def stratified(
    labels: np.ndarray, *, validation_share: float, test_share: float, seed: int = 0
) -> dict[str, np.ndarray]:
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


def split_of(text: str, *, validation_share: float, test_share: float) -> str:
    """Assign a document to a split by its hash: wherever it comes from, in whatever order, equal documents share their split."""
    digest = hashlib.blake2b(text.strip().encode(), digest_size=8, person=b"split").digest()
    place = int.from_bytes(digest, "little") / 2**64
    if place < test_share:
        return "test"
    return "validation" if place < test_share + validation_share else "train"
