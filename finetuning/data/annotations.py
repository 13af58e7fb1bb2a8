"""Annotated objects as data sets write them, checked: what cannot be meant is an error, what cannot be used is counted.

Shapes: n objects in an image; boxes are (left, top, right, bottom) in pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from finetuning.data.pictures import Pictures
from finetuning.data.splits import Examples
from finetuning.dense.masks import Mask, box_of
from finetuning.dense.objects import Objects
from pretraining.data.files import say
from pretraining.image.data.decode import Encoded

BOXES = {"xyxy": "left, top, right, bottom", "xywh": "left, top, width, height"}


class Record(NamedTuple):
    """One image's annotation as it was read."""

    place: str  # for errors
    size: tuple[int, int]  # height and width of the image
    boxes: Sequence[Any] | None  # None: those around the masks
    classes: Sequence[int]
    crowd: Sequence[bool] | None = None
    ignore: Sequence[bool] | None = None
    masks: list[Mask] | None = None
    name: str = ""  # of the image, in predictions


class Part(NamedTuple):
    """One split: encoded images, and a record of each."""

    encoded: Encoded
    records: list[Record]


@dataclass
class Checker:
    """Turns records into objects, and counts what it leaves out; `boxes` says how they are written."""

    boxes: str
    counts: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.boxes not in BOXES:
            raise ValueError(f"data.boxes={self.boxes}: choose {' or '.join(BOXES)}")

    def examples(self, part: Part, split: str, channels: int) -> Examples:
        """Take a split's examples; says how many annotations were mended or left out."""
        self.counts.clear()
        labels = [self.objects(record) for record in part.records]
        self.counts["images without any object"] += sum(label.size == 0 for label in labels)
        told = ", ".join(f"{count} {what}" for what, count in self.counts.items() if count)
        if told:
            say(f"{split}: {told}")
        names = [record.name for record in part.records]
        found = Examples.of(image=Pictures(part.encoded, channels), label=labels, name=names)
        places = [record.place for record in part.records]
        return found._replace(source=lambda row: places[row])

    def objects(self, record: Record) -> Objects:
        """Check one image's objects."""
        boxes = self._boxes(record)
        count = len(boxes)
        for name in ("classes", "crowd", "ignore", "masks"):
            values = getattr(record, name)
            if values is not None and len(values) != count:
                raise ValueError(f"{record.place} has {count} boxes, but {len(values)} {name}: give one for each box")
        crowd, ignore = (None if part is None else np.array(part, bool) for part in (record.crowd, record.ignore))
        found = Objects(boxes, np.array(record.classes, np.int64).reshape(-1), None, crowd, ignore, record.masks)
        self._check_masks(record)
        return found.take(self._usable(found, record))

    def _boxes(self, record: Record) -> np.ndarray:
        if record.boxes is None:
            return np.stack([box_of(mask) for mask in record.masks or []]) if record.masks else np.zeros((0, 4))
        for box in record.boxes:
            if not isinstance(box, (list, tuple, np.ndarray)) or len(box) != 4 or not _are_numbers(box):
                raise ValueError(f"{record.place} has the box {box}: give four numbers, {BOXES[self.boxes]} in pixels")
        boxes = np.array(record.boxes, np.float64).reshape(-1, 4)
        wrong = boxes[:, 2:] < (0 if self.boxes == "xywh" else boxes[:, :2])
        if wrong.any():
            box = boxes[np.flatnonzero(wrong.any(1))[0]].tolist()
            meant = " (data.boxes=xywh where they are left, top, width, height)" if self.boxes == "xyxy" else ""
            what = f"{record.place} has the box {box}, read as {BOXES[self.boxes]}, which ends before it begins"
            raise ValueError(f"{what}: correct it{meant}")
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1) if self.boxes == "xywh" else boxes

    def _check_masks(self, record: Record) -> None:
        odd = next((mask for mask in record.masks or [] if mask.size != record.size), None)
        if odd is not None:
            what = f"{record.place} has a mask of {odd.size[0]} x {odd.size[1]} pixels"
            raise ValueError(f"{what}, but its image has {record.size[0]} x {record.size[1]}: give masks of that size")

    def _usable(self, found: Objects, record: Record) -> np.ndarray:
        """Cut boxes at the image's edges, in place; tell which objects remain. bool [n]"""
        height, width = record.size
        limit = np.array([width, height, width, height], np.float64)
        empty = (found.boxes[:, 2:] <= found.boxes[:, :2]).any(1)
        if found.masks is not None:
            empty |= np.array([mask.area == 0 for mask in found.masks], bool)
        cut = np.clip(found.boxes, 0, limit)
        outside = (cut[:, 2:] <= cut[:, :2]).any(1) & ~empty
        beyond = (cut != found.boxes).any(1) & ~outside & ~empty
        self.counts["objects without area (left out)"] += int(empty.sum())
        self.counts["objects outside of their image (left out)"] += int(outside.sum())
        self.counts["boxes that reach out of their image (cut)"] += int(beyond.sum())
        found.boxes[:] = cut
        return ~(empty | outside)


def check_classes(splits: dict[str, Examples], names: list[str]) -> None:
    """Refuse a training split without objects; tell of classes that it has none of."""
    counted = {split: Counter(_classes(examples)) for split, examples in splits.items()}
    train = counted["train"]
    if not train:
        raise ValueError("the training images have no object in them: give annotated ones, or name other columns")
    for split, found in counted.items():
        lacking = {number: count for number, count in found.items() if number not in train}
        if lacking:
            listed = ", ".join(f"{names[number]} ({count} in {split})" for number, count in sorted(lacking.items()))
            say(f"classes that training has no object of, so that they cannot be found: {listed}")


def _classes(examples: Examples) -> list[int]:
    return [number for label in examples.column("label") for number in label.classes.tolist()]


def _are_numbers(box: Iterable[Any]) -> bool:
    return all(isinstance(value, (int, float, np.number)) and np.isfinite(value) for value in box)


def numbered(values: Sequence[Any], numbers: dict[Any, int], place: str, listed: Callable[[], str]) -> list[int]:
    """Look up class numbers; an unknown category is an error."""
    unknown = next((value for value in values if value not in numbers), None)
    if unknown is not None:
        raise ValueError(
            f"{place} has the category {unknown!r}, but there are {listed()}: correct it, or name it there"
        )
    return [numbers[value] for value in values]
