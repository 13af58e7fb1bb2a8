"""What a loader reads: rows by number, and their classes where there are any."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Source(Protocol):
    """Rows that can be read by number. Where rows have classes, `class_count` and `class_names` say which."""

    def count(self, epoch: int) -> int:
        """Count the rows of an epoch's plan."""
        ...

    def read(self, epoch: int, rows: np.ndarray) -> Any:
        """Read rows as a named tuple of arrays, ready for an objective's collate."""
        ...


class FirstRows:
    """The first rows of a source: a model that learns at all can learn these by heart."""

    def __init__(self, source: Source, rows: int) -> None:
        self.source, self.rows = source, rows

    def count(self, epoch: int) -> int:
        """Count the rows."""
        return min(self.rows, self.source.count(epoch))

    def read(self, epoch: int, rows: np.ndarray) -> Any:
        """Read rows."""
        return self.source.read(epoch, rows)


def class_count(source: Source) -> int | None:
    """Count the classes of a split's labels; None where it has none."""
    return getattr(source, "class_count", None)


def require_classes(source: Source, wanted: int | None) -> int:
    """Decide how many classes to learn: `wanted`, or all of the training data; data without labels are an error."""
    found = class_count(source)
    if found is None:
        cure = "put each class into a folder of its name, name the label column of a table, or choose an objective that"
        raise ValueError(f"this objective learns from labels, but the training data has none: {cure} needs no labels")
    if wanted is not None and wanted < found:
        what = f"objective.classes={wanted}, but the training data has {found}"
        raise ValueError(f"{what}: set objective.classes={found} or null")
    return found if wanted is None else wanted
