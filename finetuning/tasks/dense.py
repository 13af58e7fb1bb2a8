"""What tasks with an answer for each place of an image have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetuning.data.splits import Examples
from finetuning.dense.drawing import in_one
from finetuning.dense.pyramid import example_features
from finetuning.inputs.base import EncodedSplit
from finetuning.inputs.dense import DenseInputs, Placement
from finetuning.metrics.bootstrap import Intervals, Numbers
from finetuning.task import Predictions, Task, TaskParts
from pretraining.backbones.base import Features
from pretraining.engine.batch import Batch
from pretraining.errors import RunError


class Judged(NamedTuple):
    """The names of the images, and what was measured of them, once."""

    names: list[str]
    measured: Any


class Dense(Task):
    """A head that reads the whole of a backbone's features; images lie on canvases of `size` pixels.

    `pictures` of the first test images, beside the truth, are drawn into the run directory, and shown by W&B.
    """

    cacheable = False
    reads_layers = False
    inputs: DenseInputs

    def __init__(self, parts: TaskParts, *, inputs: DenseInputs, select: str, pictures: int) -> None:
        super().__init__(parts, inputs=inputs, select=select)
        self.pictures = pictures
        self.size = inputs.size or self.preprocess.size
        self.example = example_features(self.backbone, self.preprocess.channels, self.size)
        self.names: list[str] = self.labels["names"]

    def targets(self, examples: Examples) -> Any:
        """Give the labels as they are, read when they are asked for."""
        return _Taken(examples)

    def score(self, features: Features, batch: Batch) -> Any:
        """Apply the head."""
        return self.head(features)

    @abstractmethod
    def row_of(self, place: int, logits: Any, placement: Placement) -> Any:
        """Read the answer of a batch's image at `place` in the image's own pixels."""

    @torch.no_grad()
    def by_row(self, logits: Any, batch: Batch) -> Iterable[Any]:
        """Read the answers of a batch, image by image."""
        for number, row in enumerate(batch["placements"].tolist()):
            yield self.row_of(number, logits, Placement((row[0], row[1]), *row[2:]))

    def metrics(self, predictions: Predictions) -> Numbers:
        """Compute the main numbers."""
        return predictions.scores.measured.numbers()

    def intervals(self, predictions: Predictions) -> Intervals:
        """Bootstrap them over images."""
        return predictions.scores.measured.intervals()

    def report(self, predictions: Predictions) -> dict[str, Any]:
        """Tabulate each class."""
        return {"per_class": predictions.scores.measured.table(self.names)}

    def save(self, directory: Path, predictions: Predictions, split: EncodedSplit) -> None:
        """Draw the first images, as they are annotated and as they were found."""
        folder = directory / "pictures"
        for number, image, pair in self._first(predictions, split):
            folder.mkdir(exist_ok=True)
            drawn = [self.drawn(image, answer) for answer in pair]
            in_one(drawn, self.legend(pair)).save(folder / f"{number:04d}.png")

    def viewed(self, predictions: Predictions, split: EncodedSplit) -> list[dict[str, Any]]:
        """Describe the same images to W&B."""
        names = predictions.scores.names
        return [self.described(image, names[row], pair) for row, image, pair in self._first(predictions, split)]

    def _first(self, predictions: Predictions, split: EncodedSplit) -> Iterator[tuple[int, np.ndarray, list[Any]]]:
        """Take the first images [C, H, W], each with what is annotated and what was found."""
        for row in range(min(self.pictures, len(split.targets))):
            image = split.examples.columns["image"][int(split.examples.rows[row])]
            yield row, image, [part[row] for part in predictions[:2]]

    @abstractmethod
    def drawn(self, image: np.ndarray, answer: Any) -> Image.Image:
        """Draw what is, or was found, in an image [C, H, W]."""

    @abstractmethod
    def described(self, image: np.ndarray, name: str, pair: list[Any]) -> dict[str, Any]:
        """Describe an image [C, H, W], what is annotated and what was found there, as W&B's viewers take it."""

    def legend(self, pair: list[Any]) -> list[tuple[str, int]]:
        """Name the class numbers that are drawn without their names."""
        return []


class _Taken:
    """The labels of a set of examples, in order, each read when it is asked for."""

    def __init__(self, examples: Examples) -> None:
        self.labels, self.rows = examples.columns["label"], examples.rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Any:
        return self.labels[int(self.rows[place])]


def distinct(names: list[str]) -> list[str]:
    """Refuse classes of one name, which no table could tell apart."""
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise RunError(f"got the class name {twice!r} twice: give each class its own, in the data or data.class_names")
    return names


def names_of(split: EncodedSplit) -> list[str]:
    """Name the images of a split."""
    return [str(name) for name in split.examples.column("name")]


def as_pixels(values: Tensor) -> np.ndarray:
    """Store class numbers in as few bytes as there are classes up to 256, else two. [H, W]"""
    return values.cpu().numpy().astype(np.uint8 if int(values.max()) < 256 else np.uint16)
