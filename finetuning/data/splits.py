"""Which examples train, select and test: splits by name, carved where they are missing, and small labelled subsets.

How a split is carved depends on `data.split.seed` alone, so every run tests on the same examples; which labels a
few-label run may see depends on the run's `seed`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pretraining.cache import key
from pretraining.data.split_files import CARVE
from pretraining.data.splits import SPLITS
from pretraining.errors import RunError
from pretraining.random import Keys, uniform


class Examples(NamedTuple):
    """Labelled raw examples, as columns of equal length; "label" holds what is to be predicted."""

    columns: dict[str, Sequence]
    rows: np.ndarray  # int64: which of the columns' entries belong to this set, in order
    source: Callable[[int], str] | None = None  # says which file and row an entry is from
    first: int = 0  # the number of its first example, where it is a piece of what is read piece by piece

    @classmethod
    def of(cls, **columns: Sequence) -> Examples:
        """Make a set of everything in `columns`."""
        sizes = {name: len(values) for name, values in columns.items()}
        assert len(set(sizes.values())) == 1, sizes
        return cls(columns, np.arange(next(iter(sizes.values()))))

    def take(self, places: np.ndarray) -> Examples:
        """Select the examples at `places` of this set."""
        return self._replace(rows=self.rows[places])

    def place(self, number: int) -> str:
        """Say where an example of this set is from."""
        row = int(self.rows[number])
        return f"row {row}" if self.source is None else self.source(row)

    def column(self, name: str) -> list:
        """List one column's values in order."""
        values = self.columns[name]
        return [values[row] for row in self.rows]

    def digest(self) -> str:
        """Identify the examples, in their order."""
        digest = hashlib.sha256(self.rows.tobytes())
        for name, values in sorted(self.columns.items()):
            digest.update(name.encode())
            if identity := getattr(values, "identity", None):
                digest.update(identity.encode())
                continue
            for value in self.column(name):
                digest.update(_written(value))
                digest.update(b"\0")
        return digest.hexdigest()

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

    def digest(self) -> str:
        """Identify all examples; of columns that know their `identity`, such as pixels in files, by that."""
        return key({name: getattr(self, name).digest() for name in SPLITS} | {"class_names": self.class_names})


@dataclass(kw_only=True)
class Split:
    """Where the splits come from: names of files or stored splits, and the shares to carve where one is missing."""

    train: str | None = None
    validation: str | None = None
    test: str | None = None
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0

    @property
    def named(self) -> dict[str, str | None]:
        """What each split is called."""
        return {name: getattr(self, name) for name in SPLITS}

    def complete(self, found: dict[str, Examples], class_names: list[str] | None) -> Splits:
        """Carve missing splits out of train, stratified by label where labels are classes; empty splits are errors."""
        splits = {name: examples for name, examples in found.items() if examples.size}
        empty = [name for name in found if name not in splits]
        if empty:
            raise RunError(f"got no examples in {', '.join(empty)}: give data with labelled rows in every split")
        if "train" not in splits:
            what = f"got {', '.join(splits)} and no training examples: name them with data.split.train="
            raise RunError(f"{what}, or set mode=as_is where a task needs none")
        for name in ("test", "validation"):
            if name not in splits:
                splits["train"], splits[name] = self._carve(splits["train"], name)
        return Splits(**splits, class_names=class_names)

    def as_given(self, found: dict[str, Examples], class_names: list[str] | None) -> Splits:
        """Divide nothing, for what learns nothing: test on the test split, else on all of the only one.

        A validation split that is not there is empty. data.split.test=carve divides as for what learns.
        """
        if self.test == CARVE:
            return self.complete(found, class_names)
        test = tested_on(found)
        none = test.take(np.arange(0))
        return Splits(found.get("train", test), found.get("validation", none), test, class_names)

    def _carve(self, examples: Examples, name: str) -> tuple[Examples, Examples]:
        share = getattr(self, f"{name}_fraction")
        if not 0 < share < 1:
            what = f"got data.split.{name}_fraction={share} and no {name} split in the data"
            raise RunError(f"{what}: give a share between 0 and 1")
        # A class keeps at least one example for training.
        count, stream = (lambda size: min(max(1, round(share * size)), size - 1)), f"carve {name}"
        chosen = _drawn(examples, strata(examples), count, self.seed, stream)
        if not 0 < len(chosen) < examples.size:
            what = f"got {examples.size} examples, too few to carve a {name} split of {share:.0%}"
            raise RunError(f"{what}: give more, or the split itself")
        return examples.take(np.setdiff1d(np.arange(examples.size), chosen)), examples.take(chosen)


def tested_on(found: dict[str, Examples]) -> Examples:
    """Choose what a model that learns nothing is measured on: the test split, else all of the only one."""
    if "test" not in found and len(found) > 1:
        raise RunError(f"got the splits {', '.join(found)} and no test split: name one with data.split.test=")
    name = "test" if "test" in found else next(iter(found))
    if not found[name].size:
        raise RunError(f"got no examples in {name}: give data with labelled rows")
    return found[name]


def _written(value: object) -> bytes:
    """Write a value whole: numpy shortens and rounds the arrays that it prints, such as those of an image's objects."""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        fields = (field if isinstance(field, list) else [field] for field in value)
        return b"\1".join(_written(part) for field in fields for part in (len(field), *field))
    return repr(value).encode()


def strata(examples: Examples, *, asked: bool = False) -> np.ndarray | None:
    """Number the examples by class, int64 [N]; None where labels are no classes: real numbers, lists, all different.

    Texts that are written or said are hardly ever repeated, classes are: of text labels there are two examples each on
    average, unless somebody has `asked` for classes, as by a number of examples of each.
    """
    first = examples.columns["label"][examples.rows[0]] if examples.size else None
    if not isinstance(first, (str, int, bool, np.integer)):
        return None
    labels = examples.column("label")
    values, codes = np.unique(np.array(labels), return_inverse=True)
    most = examples.size // 2 if isinstance(first, str) and not asked else examples.size - 1
    return codes if len(values) <= most else None


def subset(examples: Examples, *, fraction: float | None, shots: int | None, seed: int) -> Examples:
    """Draw a few-label training set: `fraction` of each class, or `shots` of each; a larger one contains a smaller."""
    if fraction is not None and shots is not None:
        raise RunError(f"got fraction={fraction} and shots={shots}: give one of them")
    if fraction is None and shots is None:
        return examples
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise RunError(f"got fraction={fraction}: give a share of the training labels, above 0 and at most 1")
        return examples.take(
            _drawn(examples, strata(examples), lambda size: max(1, round(fraction * size)), seed, "labels")
        )
    assert shots is not None
    classes = strata(examples, asked=True)
    if classes is None:
        what = f"got shots={shots}, which counts examples per class, for labels that are not classes"
        raise RunError(f"{what}: give fraction instead")
    counts = np.bincount(classes)
    if not 1 <= shots <= counts.min():
        scarce = examples.column("label")[np.flatnonzero(classes == counts.argmin())[0]]
        what = f"got shots={shots}, but the class {scarce!r} has {counts.min()} training examples"
        raise RunError(f"{what}: give shots between 1 and {counts.min()}")
    return examples.take(_drawn(examples, classes, lambda size: shots, seed, "labels"))


def _drawn(
    examples: Examples, found: np.ndarray | None, count: Callable[[int], int], seed: int, stream: str
) -> np.ndarray:
    """Draw places of as many examples of each class `found` as `count` says of its size; of all, without classes."""
    classes = np.zeros(examples.size, np.int64) if found is None else found
    groups = [np.flatnonzero(classes == value) for value in np.unique(classes)]
    # Each example draws one number, and a class gives its smallest: sets of different sizes nest.
    places = np.zeros(examples.size, np.int64), np.arange(examples.size)
    draws = uniform(Keys(seed, stream, *places), "subset")[:, 0]
    chosen = [group[np.argsort(draws[group], kind="stable")[: count(len(group))]] for group in groups]
    return np.sort(np.concatenate(chosen))
