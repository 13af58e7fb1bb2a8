"""Images of any size on square canvases, with the boxes, masks or classes of pixels that lie on them.

Shapes: B rows, C channels, S canvas size, H and W an image's own size, n objects in an image, N in a batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finetuning.data.splits import Examples
from finetuning.dense.objects import Objects
from finetuning.inputs.base import EncodedSplit, Inputs, Picked, unknown_classes
from finetuning.metrics.segmentation import IGNORED
from pretraining.backbones.base import Backbone
from pretraining.data.unlabelled import Unlabelled
from pretraining.engine.batch import Batch
from pretraining.errors import RunError
from pretraining.image.data.decode import Decoding
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess
from pretraining.image.unlabelled import images_of
from pretraining.random import Keys, uniform

FLIPS = ("horizontal", "vertical")
UNKNOWN = -2  # the number of a class that the task does not know
LEAST_SIDE = 1.0  # pixels of the canvas: what is left of an object at its edge, and is smaller, is not learnt from


class Placement(NamedTuple):
    """Where an image lies on its canvas: resized to height x width, its corner at (top, left), then flipped."""

    size: tuple[int, int]  # H, W
    height: int
    width: int
    top: int
    left: int
    flips: tuple[bool, bool] = (False, False)  # horizontal, vertical

    def boxes(self, boxes: np.ndarray, canvas: int) -> np.ndarray:
        """Move boxes onto the canvas. float64 [n, 4]"""
        scale = np.array([self.width / self.size[1], self.height / self.size[0]] * 2)
        moved = boxes * scale + np.array([self.left, self.top] * 2)
        for axis, flipped in enumerate(self.flips):
            if flipped:
                moved[:, [axis, axis + 2]] = canvas - moved[:, [axis + 2, axis]]
        return moved.clip(0, canvas)

    def boxes_back(self, boxes: np.ndarray) -> np.ndarray:
        """Move boxes from a canvas, which is not flipped, to the image's own pixels. float64 [n, 4]"""
        scale = np.array([self.size[1] / self.width, self.size[0] / self.height] * 2)
        moved = (boxes.astype(np.float64) - np.array([self.left, self.top] * 2)) * scale
        return moved.clip(0, np.array([self.size[1], self.size[0]] * 2))

    def maps(self, maps: Tensor, canvas: int, *, mode: str, fill: Tensor) -> Tensor:
        """Move maps [C, H, W] onto the canvas, which is `fill` [C] elsewhere. [C, S, S]"""
        antialias = {"antialias": True} if mode in ("bilinear", "bicubic") else {}
        if maps.shape[1:] != (self.height, self.width):
            maps = F.interpolate(maps[None], (self.height, self.width), mode=mode, **antialias)[0]
        drawn = fill[:, None, None].expand(-1, canvas, canvas).to(maps.dtype).clone()
        (top, up, rows), (left, back, columns) = (
            (max(start, 0), max(-start, 0), min(start + side, canvas) - max(start, 0))
            for start, side in ((self.top, self.height), (self.left, self.width))
        )
        drawn[:, top : top + rows, left : left + columns] = maps[:, up : up + rows, back : back + columns]
        axes = [axis for axis, flipped in ((2, self.flips[0]), (1, self.flips[1])) if flipped]
        return drawn.flip(axes) if axes else drawn

    def maps_back(self, maps: Tensor, canvas: int) -> Tensor:
        """Read maps [C, s, s] of the whole canvas, which is not flipped, at the image's own pixels. [C, H, W]"""
        maps = F.interpolate(maps[None], (canvas, canvas), mode="bilinear")
        own = maps[:, :, self.top : self.top + self.height, self.left : self.left + self.width]
        return F.interpolate(own, self.size, mode="bilinear")[0]


def placed(
    size: tuple[int, int], canvas: int, scale: float = 1.0, place: tuple[float, float] = (0.5, 0.5)
) -> Placement:
    """Fit an image's longer side to the canvas, times `scale`; `place` is its share of the room, down and across."""
    factor = canvas / max(size) * scale
    height, width = (max(1, round(side * factor)) for side in size)
    top, left = (round((canvas - side) * share) for side, share in zip((height, width), place, strict=True))
    return Placement(size, height, width, top, left)


@dataclass(kw_only=True, eq=False)
class Canvases(EncodedSplit):
    """Images with what is on them, put onto canvases when they are collated: those of training as their keys say."""

    inputs: DenseInputs
    size: int
    preprocess: ImagePreprocess

    def collate(self, picked: Picked, keys: Keys) -> Batch:
        """Stack canvases [B, C, S, S], and what is to be predicted; `placements` [B, 6] say where the images lie."""
        rows = picked.rows
        images = [torch.from_numpy(self.examples.columns["image"][row]) for row in self.examples.rows[rows]]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        chosen = self.inputs.placements(sizes, self.size, keys)
        fills = [torch.tensor([round(255 * level) for level in self._levels(len(image))]) for image in images]
        drawn = [
            place.maps(image, self.size, mode=self.preprocess.interpolation, fill=fill)
            for place, image, fill in zip(chosen, images, fills, strict=True)
        ]
        return {
            "inputs": {"images": torch.stack(drawn)},
            "placements": torch.tensor([[*place.size, *place[1:5]] for place in chosen]),
            **self.inputs.stack_targets([self.targets[row] for row in rows], chosen, self.size),
        }

    def stack(self, rows: np.ndarray) -> Batch:
        """Stack rows as evaluation does."""
        none = np.zeros_like(rows)
        return self.collate(Picked(rows), Keys(0, "validation", none, none))

    def _levels(self, channels: int) -> list[float]:
        """List each channel's mean, which is zero once it is normalised."""
        mean = self.preprocess.mean
        return mean if len(mean) == channels else [sum(mean) / len(mean)] * channels


@dataclass(kw_only=True)
class DenseInputs(Inputs):
    """Images whose longer side is fitted to a square canvas of `size` pixels; null: as large as the hand-off's images.

    In training each is drawn between `scale`[0] and `scale`[1] times as large, at any place, and flipped in `flips`.
    """

    modality = IMAGE
    columns = ("image",)
    size: int | None = None
    scale: list[float]
    flips: list[str] = field(default_factory=lambda: ["horizontal"])

    def __post_init__(self) -> None:
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise RunError(f"got task.inputs.scale={list(self.scale)}: give a smallest and a largest scale, above 0")
        if not set(self.flips) <= set(FLIPS):
            raise RunError(f"got task.inputs.flips={list(self.flips)}: choose among {', '.join(FLIPS)}, or give []")

    def encode(self, examples: Examples, targets: Any, preprocess: ImagePreprocess, backbone: Backbone) -> Canvases:
        """Leave images and targets as they are."""
        return Canvases(examples, targets, inputs=self, size=self.size or preprocess.size, preprocess=preprocess)

    def placements(self, sizes: Sequence[tuple[int, int]], canvas: int, keys: Keys) -> list[Placement]:
        """Place images: in the middle, but in training as drawn."""
        if keys.stream != "train":
            return [placed(size, canvas) for size in sizes]
        low, high = self.scale
        scales = low * (high / low) ** np.asarray(uniform(keys, "dense scale"))[:, 0]
        places = np.asarray(uniform(keys, "dense place", 2))
        turns = (np.asarray(uniform(keys, "dense flip", 2)) < 0.5) & np.array([name in self.flips for name in FLIPS])
        return [
            placed(size, canvas, float(scale), tuple(place))._replace(flips=(bool(turn[0]), bool(turn[1])))
            for size, scale, place, turn in zip(sizes, scales, places, turns, strict=True)
        ]

    def as_learnt(self, examples: Examples, names: list[str] | None, labels: Mapping[str, Any]) -> Examples:
        """Give other data's classes the numbers that the task has for those of the same names."""
        assert names is not None
        known = {name: number for number, name in enumerate(labels["names"])}
        numbers = np.array([known.get(name, UNKNOWN) for name in names], np.int64)
        changed = self.renumbered(examples.columns["label"], examples.rows, numbers)
        if changed is None:
            raise unknown_classes([name for name in names if name not in known], known)
        return examples._replace(columns=examples.columns | {"label": changed})

    @abstractmethod
    def renumbered(self, labels: Sequence[Any], rows: np.ndarray, numbers: np.ndarray) -> Sequence[Any] | None:
        """Change class numbers for `numbers` of them; None where any in these rows has no number, `UNKNOWN`."""

    @abstractmethod
    def stack_targets(self, targets: list[Any], places: list[Placement], canvas: int) -> Batch:
        """Move what is to be predicted onto the canvases."""

    def on_device(self, inputs: dict[str, Tensor], preprocess: ImagePreprocess) -> dict[str, Tensor]:
        """Normalise."""
        return {"images": preprocess.uncropped(inputs["images"])}

    def read(
        self, path: Path | Sequence[Any], named: Mapping[str, Any], preprocess: ImagePreprocess
    ) -> Iterator[Unlabelled]:
        """Decode one image, all images below a directory, or those in tables, each as large as it is."""
        column = {"data.columns.image": named.get("columns", {}).get("image", "image")}
        for shown, name, pixels in images_of(path, column, Decoding(channels=preprocess.channels, size=None)):
            yield Unlabelled(shown, {"image": pixels, "name": name})


@dataclass(kw_only=True)
class MapInputs(DenseInputs):
    """Images with a class for each pixel: `targets` int64 [B, S, S]."""

    scale: list[float] = field(default_factory=lambda: [1.0, 1.5])

    def renumbered(self, labels: Sequence[Any], rows: np.ndarray, numbers: np.ndarray) -> Sequence[Any] | None:
        """Change maps as they are read; a class that has no number is taken for one that is there."""
        return None if (numbers == UNKNOWN).any() else _Renumbered(labels, np.append(numbers, IGNORED))

    def stack_targets(self, targets: list[np.ndarray], places: list[Placement], canvas: int) -> Batch:
        """Move label maps; what no image covers is `IGNORED`."""
        nothing = torch.tensor([IGNORED])
        maps = [torch.from_numpy(np.ascontiguousarray(target))[None].float() for target in targets]
        moved = [
            place.maps(part, canvas, mode="nearest-exact", fill=nothing)
            for place, part in zip(places, maps, strict=True)
        ]
        return {"targets": torch.cat(moved).long()}


@dataclass(kw_only=True)
class ObjectInputs(DenseInputs):
    """Images with objects: `boxes` float32 [N, 4] and `classes` int64 [N], `objects_per_row` [B] of them in each.

    Where objects have masks, also `masks`, bool [N, S, S]. Crowds and ignored objects are not learnt from.
    """

    scale: list[float] = field(default_factory=lambda: [0.8, 1.25])

    def renumbered(self, labels: Sequence[Any], rows: np.ndarray, numbers: np.ndarray) -> Sequence[Any] | None:
        """Change each image's objects."""
        changed = [objects._replace(classes=numbers[objects.classes]) for objects in labels]
        return None if any((changed[row].classes == UNKNOWN).any() for row in rows) else changed

    def stack_targets(self, targets: list[Objects], places: list[Placement], canvas: int) -> Batch:
        """Move objects; those of which nothing is left on the canvas are dropped."""
        boxes, classes, masks, counts = [], [], [], []
        for objects, place in zip(targets, places, strict=True):
            own = objects.take(~objects.left_out)
            moved = place.boxes(own.boxes, canvas)
            kept = ((moved[:, 2:] - moved[:, :2]) >= LEAST_SIDE).all(1)
            drawn = None if own.masks is None else self._drawn(own.take(kept), place, canvas)
            if drawn is not None:
                there = drawn.flatten(1).any(1).numpy()
                kept, drawn = _narrowed(kept, there), drawn[torch.from_numpy(there)]
                masks.append(drawn)
            boxes.append(moved[kept])
            classes.append(own.classes[kept])
            counts.append(int(kept.sum()))
        batch: Batch = {
            "boxes": torch.from_numpy(np.concatenate(boxes)).float(),
            "classes": torch.from_numpy(np.concatenate(classes)),
            "objects_per_row": torch.tensor(counts),
        }
        return batch | ({"masks": torch.cat(masks)} if masks else {})

    def _drawn(self, objects: Objects, place: Placement, canvas: int) -> Tensor:
        if not objects.size:
            return torch.zeros(0, canvas, canvas, dtype=torch.bool)
        assert objects.masks is not None
        pixels = torch.from_numpy(np.stack([mask.pixels() for mask in objects.masks])).to(torch.uint8)
        nothing = torch.zeros(len(pixels), dtype=torch.uint8)
        return place.maps(pixels, canvas, mode="nearest-exact", fill=nothing).bool()


class _Renumbered(Sequence):
    """Label maps whose classes have other numbers; `IGNORED`, -1, has the last."""

    def __init__(self, maps: Sequence[np.ndarray], numbers: np.ndarray) -> None:
        self.maps, self.numbers = maps, numbers

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, row: int) -> np.ndarray:  # type: ignore[override]
        return self.numbers[self.maps[row]]


def _narrowed(kept: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Keep, of what is kept, what is also among these."""
    narrowed = kept.copy()
    narrowed[kept] = among
    return narrowed
