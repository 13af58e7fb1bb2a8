"""A class for each pixel.

Shapes: B images, C classes, S canvas size, s the finest map's size, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from finetuning.data.splits import Splits
from finetuning.dense.drawing import with_map
from finetuning.dense.masks import encode
from finetuning.dense.objects import Objects
from finetuning.dense.pyramid import Pyramid, grid_of
from finetuning.dense.viewers import with_masks
from finetuning.inputs.base import EncodedSplit
from finetuning.inputs.dense import MapInputs, Placement
from finetuning.metrics.segmentation import IGNORED, Confusions
from finetuning.task import Predictions, TaskParts
from finetuning.tasks.dense import Dense, Judged, as_pixels, distinct, names_of
from pretraining.backbones.base import Features
from pretraining.engine.batch import Batch
from pretraining.errors import RunError


class SemanticSegmentation(Dense):
    """Cross-entropy of each pixel's class, on logits that are interpolated to the canvas.

    `decoder=linear` is batch normalisation, dropout and a 1 x 1 convolution on the last map: the linear evaluation of
    dense features (Oquab et al. 2023, "DINOv2", section 7.4). `decoder=fpn` adds the maps of a pyramid of `width` and
    `strides`, at the finest one's size, before the convolution (Kirillov et al. 2019, "Panoptic feature pyramid
    networks", simplified).
    """

    def __init__(
        self,
        parts: TaskParts,
        *,
        inputs: MapInputs,
        select: str,
        decoder: Literal["linear", "fpn"] = "fpn",
        width: int = 64,
        strides: list[int] | None = None,
        dropout: float = 0.1,
        pictures: int = 12,
    ) -> None:
        super().__init__(parts, inputs=inputs, select=select, pictures=pictures)
        if decoder not in ("linear", "fpn"):
            raise RunError(f"got task.decoder={decoder}: choose linear or fpn")
        if decoder == "linear":
            self.head = LinearDecoder(self.example, len(self.names), dropout)
        else:
            pyramid = Pyramid(self.example, size=self.size, strides=strides, width=width)
            self.head = PyramidDecoder(pyramid, len(self.names), dropout)

    @classmethod
    def collect_labels(cls, splits: Splits) -> dict[str, Any]:
        """Name the classes."""
        assert splits.class_names is not None
        if isinstance(splits.train.columns["label"][0], Objects):
            raise RunError("got objects as labels, but label maps are needed: take task=detection")
        return {"names": distinct(splits.class_names)}

    def placeholder_label(self, example: dict[str, Any]) -> Any:
        """Leave all pixels out."""
        return np.full(example["image"].shape[1:], IGNORED)

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum the cross-entropy over the pixels that have a class."""
        whole = F.interpolate(logits.float(), (self.size, self.size), mode="bilinear")
        return F.cross_entropy(whole, batch["targets"], ignore_index=IGNORED, reduction="sum")

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the pixels that have a class."""
        return {self.term: (batch["targets"] != IGNORED).sum().double()}

    def row_of(self, place: int, logits: Tensor, placement: Placement) -> np.ndarray:
        """Take each pixel's best class. [H, W]"""
        return as_pixels(placement.maps_back(logits[place].float(), self.size).argmax(0))

    def zero_outputs(self, split: EncodedSplit) -> list[np.ndarray]:
        """Say the first class everywhere."""
        return [np.zeros(split.targets[row].shape, np.uint8) for row in range(len(split.targets))]

    def predict(self, outputs: Sequence[np.ndarray], split: EncodedSplit) -> Predictions:
        """Compare the maps with the true ones."""
        judged = Confusions(split.targets, outputs, len(self.names))
        return Predictions(split.targets, outputs, Judged(names_of(split), judged))

    def report(self, predictions: Predictions) -> dict[str, Any]:
        """Tabulate each class, and the confusion matrix (a row per true class) in pixels."""
        matrix = predictions.scores.measured.total.tolist()
        return super().report(predictions) | {"classes": self.names, "confusion_matrix": matrix}

    def table(self, predictions: Predictions) -> dict[str, Any]:
        """Give each image's map as a mask of each class that is in it, in COCO's run lengths."""
        found = [[self._mask(part, number) for number in np.unique(part)] for part in predictions.predictions]
        return {"name": predictions.scores.names, "prediction": found}

    def drawn(self, image: np.ndarray, answer: np.ndarray) -> Image.Image:
        """Lay the classes over the image."""
        return with_map(image, answer)

    def described(self, image: np.ndarray, name: str, pair: list[np.ndarray]) -> dict[str, Any]:
        """Describe both maps."""
        return with_masks(image, name, [np.asarray(part, np.int64) for part in pair], self.names)

    def legend(self, pair: list[np.ndarray]) -> list[tuple[str, int]]:
        """Name the classes that are there, or were found."""
        numbers = np.unique(np.concatenate([np.unique(part) for part in pair]).astype(np.int64))
        return [(self.names[number], number) for number in numbers.tolist() if number >= 0]

    def _mask(self, found: np.ndarray, number: int) -> dict[str, Any]:
        return {"class": self.names[number], **encode(found == number).as_coco()}


class LinearDecoder(nn.Module):
    """Batch normalisation, dropout and a 1 x 1 convolution on the last map."""

    def __init__(self, features: Features, classes: int, dropout: float) -> None:
        super().__init__()
        channels = grid_of(features).shape[1]
        self.layers = nn.Sequential(nn.BatchNorm2d(channels), nn.Dropout2d(dropout), nn.Conv2d(channels, classes, 1))

    def forward(self, features: Features) -> Tensor:
        """Score the classes. [B, C, s, s]"""
        return self.layers(grid_of(features))


class PyramidDecoder(nn.Module):
    """The maps of a pyramid, added at the finest one's size; then a 1 x 1 convolution."""

    def __init__(self, pyramid: Pyramid, classes: int, dropout: float) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.layers = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(pyramid.out_channels, classes, 1))

    def forward(self, features: Features) -> Tensor:
        """Score the classes. [B, C, s, s]"""
        finest, *others = self.pyramid(features)
        for part in others:
            finest = finest + F.interpolate(part, finest.shape[2:], mode="bilinear")
        return self.layers(finest)
