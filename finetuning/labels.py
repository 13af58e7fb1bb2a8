"""From labels as the data spells them to class numbers and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np

from finetuning.data.splits import Splits
from pretraining.data.splits import SPLITS
from pretraining.errors import RunError


class Classes:
    """The classes of a task: the labels that occur in training, sorted; named where the data names its integers."""

    def __init__(self, values: list[Any], names: list[str]) -> None:
        self.values, self.names, self.size = values, names, len(values)
        self._numbers = {value: number for number, value in enumerate(values)}

    def numbers(self, labels: Iterable[Any]) -> np.ndarray:
        """Look up class numbers. int64 [N]"""
        labels = list(labels)
        unknown = set(labels) - self._numbers.keys()
        if unknown:
            had = f"which training did not have (it had {_some(set(self.values))})"
            raise RunError(f"got the labels {_some(unknown)}, {had}: give others, or finetune with these")
        return np.array([self._numbers[label] for label in labels], np.int64)

    def by_name(self, scores: np.ndarray) -> list[dict[str, float]]:
        """Name the scores of each row. [N, classes]"""
        return [dict(zip(self.names, row, strict=True)) for row in scores.tolist()]


def collect_classes(splits: Splits, *, everywhere: bool = False) -> dict[str, Any]:
    """Collect train's classes and their counts as plain data; fewer than two, or others in other splits, are errors.

    `everywhere`: those of all splits, for what needs no example of each.
    """
    found = count_labels(splits, _single)
    train = sum(found.values(), Counter()) if everywhere else found["train"]
    if len(train) < 2:
        (name,) = name_classes([*train], splits.class_names)
        what = f"got one class only ({name!r}) in the {'' if everywhere else 'training '}labels"
        raise RunError(f"{what}: give data with two or more, or name another column of labels")
    values = sorted(train)
    refuse_unseen(found, values)
    names, counts = name_classes(values, splits.class_names), [train[value] for value in values]
    return {"values": values, "names": names, "counts": counts}


def count_labels(splits: Splits, listed: Callable[[list[Any]], Iterable[Any]]) -> dict[str, Counter]:
    """Count the classes of each split; `listed` lists them in a column of labels."""
    return {name: Counter(listed(getattr(splits, name).column("label"))) for name in SPLITS}


def refuse_unseen(found: Mapping[str, Counter], known: Collection[Any]) -> None:
    """Refuse a split with a class that is not `known` from training."""
    for name, counted in found.items():
        unseen = counted.keys() - set(known)
        if unseen:
            what = f"got {len(unseen)} labels in {name} that training has no example of ({_some(unseen)}; training has"
            raise RunError(f"{what} {_some(known)}): give training examples for them, or drop those rows")


def name_classes(values: list[Any], names: list[str] | None) -> list[str]:
    """Name class values: stored names of integers, else the values themselves."""
    if names is not None and all(isinstance(value, int) and 0 <= value < len(names) for value in values):
        return [names[value] for value in values]
    return [str(value) for value in values]


def _single(labels: list[Any]) -> list[Any]:
    sample = labels[0] if labels else None
    if isinstance(sample, float) and any(label != int(label) for label in labels[:1000]):
        what = f"got real numbers as labels ({sample}, ...), but classes are needed"
        raise RunError(f"{what}: take task=text_regression, or name another data.label")
    if isinstance(sample, (list, dict)):
        what = f"got a {type(sample).__name__} as label ({str(sample)[:60]}), but one class per example is needed"
        raise RunError(f"{what}: lists of classes are task=text_multi_label")
    return labels


def _some(values: Iterable[Any]) -> str:
    listed = sorted(values, key=str)
    return ", ".join(map(repr, listed[:8])) + (" ..." if len(listed) > 8 else "")
