"""The three splits of any data: their names, and how examples are divided where a source has fewer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypedDict, TypeVar

import numpy as np

from pretraining.random import permuted

SPLITS = ("train", "validation", "test")
SPLIT_ALIASES = {  # what sources call them, the usual name first
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
T = TypeVar("T")


class Shares(TypedDict):
    """Shares of the training examples that stand for splits which a source lacks; 0 for those it has."""

    validation_share: float
    test_share: float


def names_of_splits(there: Collection[str]) -> dict[str, str]:
    """Map our splits to the names that a source has for them, as far as it has them."""
    found = {split: [name for name in aliases if name in there] for split, aliases in SPLIT_ALIASES.items()}
    return {split: names[0] for split, names in found.items() if names}


def missing_shares(given: Collection[str], *, validation: float, test: float) -> Shares:
    """Keep the shares of the splits that are not `given`."""
    return Shares(validation_share=validation * ("validation" not in given), test_share=test * ("test" not in given))


def stratified(
    labels: np.ndarray, *, validation_share: float, test_share: float, seed: int = 0
) -> dict[str, np.ndarray]:
    """Split rows so that each class keeps its shares: int64 row numbers per split, sorted."""
    parts: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[permuted(np.arange(len(rows)), len(rows), seed=seed, epoch=int(label), stream="split")]
        test = round(len(rows) * test_share)
        validation = test + round(len(rows) * validation_share)
        for name, part in (("test", rows[:test]), ("validation", rows[test:validation]), ("train", rows[validation:])):
            parts[name].append(part)
    return {name: np.sort(np.concatenate(part)) for name, part in parts.items()}


def split_of(text: str, *, validation_share: float, test_share: float) -> str:
    """Assign a text to a split by its hash: equal texts share their split, wherever and in what order they come."""
    digest = hashlib.blake2b(text.strip().encode(), digest_size=8, person=b"split").digest()
    place = int.from_bytes(digest, "little") / 2**64
    if place < test_share:
        return "test"
    return "validation" if place < test_share + validation_share else "train"


def carved(
    examples: Iterable[T], split: str, given: Collection[str], shares: Shares, text: Callable[[T], str] = str
) -> Iterator[T]:
    """Keep what belongs to `split` of the source's split of that name, or of its training examples, by their `text`."""
    if split in given and (split != "train" or not any(shares.values())):
        return iter(examples)
    return (example for example in examples if split_of(text(example), **shares) == split)
