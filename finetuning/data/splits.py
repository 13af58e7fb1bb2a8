"""Which examples train, select and test: splits by name, carved where they are missing, and small labelled subsets.

How a split is carved depends on `data.split.seed` alone, so every run tests on the same examples; which labels a few-label run
may see depends on the run's `seed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pretraining.data.splits import SPLITS
from pretraining.errors import RunError
from pretraining.random import Keys, uniform


class Examples(NamedTuple):
    """Labelled raw examples, as columns of equal length; "label" holds what is to be predicted."""

    columns: dict[str, Sequence]
    rows: np.ndarray  # int64: which of the columns' entries belong to this set, in order

    @classmethod
    def of(cls, **columns: Sequence) -> Examples:
        """Make a set of everything in `columns`."""
        sizes = {name: len(values) for name, values in columns.items()}
        assert len(set(sizes.values())) == 1, sizes
        return cls(columns, np.arange(next(iter(sizes.values()))))

    def take(self, places: np.ndarray) -> Examples:
        """Select the examples at `places` of this set."""
        return Examples(self.columns, self.rows[places])

    def column(self, name: str) -> list:
        """List one column's values in order."""
        values = self.columns[name]
        return [values[row] for row in self.rows]

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(self.rows)


class Splits(NamedTuple):
    """What a task learns from, chooses by and is judged on."""

    train: Examples
    validation: Examples
    test: Examples
    class_names: list[str] | None  # of integer labels, where the data knows them


@dataclass(kw_only=True)
class Split:
    """Where the splits come from: names of files or stored splits, and the shares to carve where one is missing."""

    train: str | None
    validation: str | None
    test: str | None
    validation_fraction: float
    test_fraction: float
    seed: int

    @property
    def named(self) -> dict[str, str | None]:
        """What each split is called."""
        return {name: getattr(self, name) for name in SPLITS}

    def complete(self, found: dict[str, Examples], class_names: list[str] | None) -> Splits:
        """Carve the missing splits out of train, stratified by label where labels are classes; empty splits are errors."""
        splits = {name: examples for name, examples in found.items() if examples.size}
        empty = [name for name in found if name not in splits]
        if empty or "train" not in splits:
            raise RunError(
                f"got no examples in {', '.join(empty) or 'train'}: give data with labelled rows in every split"
            )
        for name in ("test", "validation"):
            if name not in splits:
                splits["train"], splits[name] = self._carve(splits["train"], name)
        return Splits(**splits, class_names=class_names)

    def _carve(self, examples: Examples, name: str) -> tuple[Examples, Examples]:
        share = getattr(self, f"{name}_fraction")
        if not 0 < share < 1:
            raise RunError(
                f"got data.split.{name}_fraction={share} and no {name} split in the data: give a share between 0 and 1"
            )
        classes, keys = strata(examples), Keys(self.seed, f"carve {name}", *_places(examples.size))
        groups = [np.arange(examples.size)] if classes is None else _groups(classes)
        # A class keeps at least one example for training.
        chosen = _smallest(groups, [min(max(1, round(share * len(group))), len(group) - 1) for group in groups], keys)
        if not 0 < len(chosen) < examples.size:
            raise RunError(
                f"got {examples.size} examples, too few to carve a {name} split of {share:.0%}: give more, or the split itself"
            )
        return examples.take(np.setdiff1d(np.arange(examples.size), chosen)), examples.take(chosen)


def strata(examples: Examples) -> np.ndarray | None:
    """Number the examples by class; None where labels are not classes (real numbers, lists, or all different). int64 [N]."""
    labels = examples.column("label")
    if not labels or not isinstance(labels[0], (str, int, bool, np.integer)):
        return None
    values, codes = np.unique(np.array(labels), return_inverse=True)
    return codes if isinstance(labels[0], str) or len(values) < examples.size else None


def subset(examples: Examples, *, fraction: float | None, shots: int | None, seed: int) -> Examples:
    """Draw a few-label training set: `fraction` of each class, or `shots` examples of each; a larger one contains a smaller one."""
    if fraction is not None and shots is not None:
        raise RunError(f"got fraction={fraction} and shots={shots}: give one of them")
    if fraction is None and shots is None:
        return examples
    classes, keys = strata(examples), Keys(seed, "labels", *_places(examples.size))
    groups = [np.arange(examples.size)] if classes is None else _groups(classes)
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise RunError(f"got fraction={fraction}: give a share of the training labels, above 0 and at most 1")
        return examples.take(_smallest(groups, [max(1, round(fraction * len(group))) for group in groups], keys))
    if classes is None:
        raise RunError(
            f"got shots={shots}, which counts examples per class, for labels that are not classes: give fraction instead"
        )
    smallest = min(len(group) for group in groups)
    if not 1 <= shots <= smallest:  # type: ignore[operator]
        scarce = examples.column("label")[next(group for group in groups if len(group) == smallest)[0]]
        raise RunError(
            f"got shots={shots}, but the class {scarce!r} has {smallest} training examples: give shots between 1 and {smallest}"
        )
    return examples.take(_smallest(groups, [shots] * len(groups), keys))  # type: ignore[list-item]


def _places(size: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(size, np.int64), np.arange(size)


def _groups(classes: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(classes == value) for value in np.unique(classes)]


def _smallest(groups: list[np.ndarray], counts: list[int], keys: Keys) -> np.ndarray:
    # Each example draws one number, and a group gives its smallest: sets of different sizes nest.
    draws = uniform(keys, "subset")[:, 0]
    chosen = [
        group[np.argsort(draws[group], kind="stable")[:count]] for group, count in zip(groups, counts, strict=True)
    ]
    return np.sort(np.concatenate(chosen))
