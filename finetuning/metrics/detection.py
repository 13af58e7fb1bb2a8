"""Average precision of boxes and masks as COCO defines it (Lin et al. 2014; `pycocotools.cocoeval`).

Shapes: D detections and G annotated objects of one class in one image, T thresholds of overlap, K classes, R points of
recall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from finetuning.dense.masks import intersections
from finetuning.dense.objects import Objects
from finetuning.metrics.bootstrap import Intervals, Numbers, drawn_counts, interval

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
RESAMPLES = 200
NAMED = {"ap50": 0, "ap75": 5}  # places in THRESHOLDS


class Matches(NamedTuple):
    """How the detections of one class in one image fared, the best score first."""

    scores: np.ndarray  # float64 [D]
    right: np.ndarray  # bool [T, D]
    counted: np.ndarray  # bool [T, D]: False for those on what is ignored
    objects: int  # that were to be found


@dataclass(frozen=True)
class Evaluation:
    """Every class's detections, in all images, and whether they were right."""

    classes: list[int]
    images: int
    scores: list[np.ndarray]  # per class: float64 [D], descending
    right: list[np.ndarray]  # per class: bool [T, D]
    counted: list[np.ndarray]
    image: list[np.ndarray]  # per class: int64 [D], which image each detection is of
    objects: np.ndarray  # int64 [K, images]

    def per_class(self, drawn: np.ndarray | None = None) -> np.ndarray:
        """Compute the average precision of each class at each threshold; NaN for classes without objects. [K, T]

        `drawn` [images] says how often each image counts.
        """
        times = np.ones(self.images, np.int64) if drawn is None else drawn
        found = np.full((len(self.classes), len(THRESHOLDS)), np.nan)
        for number, (right, counted, image) in enumerate(zip(self.right, self.counted, self.image, strict=True)):
            objects = int(self.objects[number] @ times)
            if objects:
                weight = times[image]
                found[number] = average_precision(right * weight, (counted & ~right) * weight, objects)
        return found

    def numbers(self, drawn: np.ndarray | None = None) -> Numbers:
        """Average over the classes that have objects: AP, AP50 and AP75."""
        return _averaged(self.per_class(drawn))

    def intervals(self) -> Intervals:
        """Bootstrap all of them over images.

        An image that is drawn twice makes ties, which raise interpolated precision: that bias, the mean of what is
        resampled less the number itself, is taken off (Efron and Tibshirani 1993, section 10.6).
        """
        drawn = drawn_counts(np.full(self.images, 1 / self.images), self.images)[:RESAMPLES]
        resampled = [self.numbers(times) for times in drawn]
        found = {}
        for name, value in self.numbers().items():
            values = np.array([numbers[name] for numbers in resampled])
            found[name] = interval(np.clip(values - (values.mean() - value), 0.0, 1.0))
        return found

    def table(self, names: Sequence[str]) -> dict[str, Any]:
        """Tabulate AP, AP50, AP75 and how many objects there are of each class; null where there are none."""
        rows = {}
        for number, (each, objects) in enumerate(zip(self.per_class(), self.objects.sum(1), strict=True)):
            values = _averaged(each[None]) if objects else dict.fromkeys(("ap", *NAMED))
            rows[names[self.classes[number]]] = {**values, "objects": int(objects)}
        return rows


def _averaged(per_class: np.ndarray) -> Numbers:
    """Average [K, T] over the classes that have objects; without any, 0."""
    there = per_class[~np.isnan(per_class[:, 0])]
    if not len(there):
        return dict.fromkeys(("ap", *NAMED), 0.0)
    return {"ap": float(there.mean()), **{name: float(there[:, place].mean()) for name, place in NAMED.items()}}


def evaluate(
    truth: Sequence[Objects], found: Sequence[Objects], *, classes: int, most: int, masks: bool = False
) -> Evaluation:
    """Match detections with objects, image by image and class by class.

    `most` detections of a class count per image, those with the best scores. With `masks` they are compared by masks,
    else by boxes.
    """
    scores, right, counted, image = [], [], [], []
    objects = np.zeros((classes, len(truth)), np.int64)
    for number in range(classes):
        parts = []
        for place, (known, seen) in enumerate(zip(truth, found, strict=True)):
            own, theirs = known.take(known.classes == number), seen.take(seen.classes == number)
            match = match_objects(own, theirs, most=most, masks=masks)
            objects[number, place] = match.objects
            parts.append(match)
        every = np.concatenate([part.scores for part in parts]) if parts else np.zeros(0)
        order = np.argsort(-every, kind="stable")
        scores.append(every[order])
        image.append(np.repeat(np.arange(len(parts)), [len(part.scores) for part in parts])[order])
        right.append(np.concatenate([part.right for part in parts], 1)[:, order])
        counted.append(np.concatenate([part.counted for part in parts], 1)[:, order])
    return Evaluation(list(range(classes)), len(truth), scores, right, counted, image, objects)


def match_objects(truth: Objects, found: Objects, *, most: int, masks: bool) -> Matches:
    """Give each detection, the best score first, the free object that it overlaps most, above each threshold.

    An object that is left out takes a detection only where no other can; a crowd takes any number of them.
    """
    assert found.scores is not None
    found = found.take(np.argsort(-found.scores, kind="stable")[:most])
    truth = truth.take(np.argsort(truth.left_out, kind="stable"))
    left_out, crowd = truth.left_out, truth.crowds
    overlaps = mask_overlaps(found, truth) if masks else box_overlaps(found.boxes, truth.boxes, crowd)
    right = np.zeros((len(THRESHOLDS), found.size), bool)
    counted = np.ones_like(right)
    assert found.scores is not None
    if found.size and truth.size:
        for place, threshold in enumerate(THRESHOLDS):
            taken = _assign(overlaps, left_out, crowd, min(threshold, 1 - 1e-10))
            on_left_out = (taken >= 0) & left_out[taken]
            right[place], counted[place] = (taken >= 0) & ~on_left_out, ~on_left_out
    return Matches(found.scores, right, counted, int((~left_out).sum()))


def _assign(overlaps: np.ndarray, left_out: np.ndarray, crowd: np.ndarray, threshold: float) -> np.ndarray:
    """Find which object each detection takes, -1 for none. int64 [D]; of equal overlaps the later object's counts."""
    free = np.ones(len(left_out), bool)
    taken = np.full(len(overlaps), -1)
    for row, overlap in enumerate(overlaps):
        for kind in (~left_out, left_out):
            among = np.flatnonzero(kind & free & (overlap >= threshold))
            if len(among):
                best = among[np.flatnonzero(overlap[among] == overlap[among].max())[-1]]
                taken[row], free[best] = best, crowd[best]
                break
    return taken


def box_overlaps(found: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Compute intersections over unions [D, G]; over the detection's own area where the object is a crowd."""
    found, truth = (np.concatenate([part[:, :2], part[:, 2:] - part[:, :2]], 1) for part in (found, truth))
    first, second = found[:, None], truth[None]
    sides = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    sides = np.clip(sides - np.maximum(first[..., :2], second[..., :2]), 0, None)
    common, (own, theirs) = sides[..., 0] * sides[..., 1], (part[..., 2] * part[..., 3] for part in (first, second))
    return _ratios(common, np.where(crowd[None], own, own + theirs - common))


def mask_overlaps(found: Objects, truth: Objects) -> np.ndarray:
    """Compute the same of masks."""
    assert found.masks is not None and truth.masks is not None
    common = intersections(found.masks, truth.masks)
    own, theirs = (np.array([mask.area for mask in part], np.int64) for part in (found.masks, truth.masks))
    return _ratios(common, np.where(truth.crowds[None], own[:, None], own[:, None] + theirs[None] - common))


def _ratios(common: np.ndarray, union: np.ndarray) -> np.ndarray:
    return np.divide(common, union, out=np.zeros(common.shape), where=common > 0)


def average_precision(right: np.ndarray, wrong: np.ndarray, objects: int) -> np.ndarray:
    """Average the best precision at 101 recalls or above. [T]

    `right` and `wrong` [T, D] say how often each detection counts as such, the best score first.
    """
    if not right.shape[1]:
        return np.zeros(len(right))
    hits, misses = (np.cumsum(part, 1).astype(np.float64) for part in (right, wrong))
    precision = hits / (hits + misses + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    found = np.zeros((len(right), len(RECALLS)))
    for row, recall in enumerate(hits / objects):
        places = np.searchsorted(recall, RECALLS, side="left")
        reached = places < len(recall)
        found[row, reached] = precision[row, places[reached]]
    return found.mean(1)
