"""Image data sets: pixels as uint8 arrays in splits, and how a run reads them.

Shapes: N images, B of them in a batch, C channels (1 or 3), H height, W width.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pretraining.data.base import Data
from pretraining.data.splits import SPLITS
from pretraining.image.modality import IMAGE


class ImageExamples(NamedTuple):
    """Raw images and, where there are any, their classes."""

    images: np.ndarray  # uint8 [B, C, H, W]
    labels: np.ndarray | None  # int64 [B]


class ImageSet(NamedTuple):
    """One split. `images` may be a memory map or decode on demand: it has length and shape, and takes rows' numbers."""

    images: Any  # uint8 [N, C, H, W]
    labels: np.ndarray | None  # int64 [N]
    class_names: tuple[str, ...] = ()

    @property
    def class_count(self) -> int | None:
        """Count the classes: those with a name, or up to the largest label; None without labels."""
        if self.labels is None:
            return None
        return len(self.class_names) or int(np.max(self.labels)) + 1


class ImageSource:
    """A split as rows that a loader asks for by number."""

    def __init__(self, split: ImageSet) -> None:
        self.split, self.class_count, self.class_names = split, split.class_count, split.class_names

    def count(self, epoch: int) -> int:
        """Count the images; the same in each epoch."""
        return len(self.split.images)

    def read(self, epoch: int, rows: np.ndarray) -> ImageExamples:
        """Read images by their numbers."""
        labels = self.split.labels
        return ImageExamples(np.asarray(self.split.images[rows]), None if labels is None else labels[rows])


@dataclass(kw_only=True, eq=False)
class ImageData(Data):
    """Images in the splits train, validation and test."""

    modality = IMAGE
    batch_size: int = 256

    @abstractmethod
    def split(self, split: str) -> ImageSet:
        """Open a split, decoding it into the cache when that does not hold it."""

    def source(self, split: str) -> ImageSource:
        """Open a split as rows; a training split that does not fill one batch is an error."""
        opened = self.split(split)
        self.refuse_too_few(split, len(opened.images), "images")
        return ImageSource(opened)


def check_split(split: str) -> None:
    """Refuse a split that nobody has."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown: choose {', '.join(SPLITS)}")
