"""Pictures with captions, in splits: still encoded, and decoded into the cache when a split is opened."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretraining.cache import key, sha256
from pretraining.data.files import say
from pretraining.image.data.base import ImageExamples, check_split
from pretraining.image.data.decode import Decoding, Encoded, pixels
from pretraining.image.data.files import HASHED_WHOLE
from pretraining.pairs.data.base import PairData
from pretraining.pairs.data.captions import CaptionedSource, in_splits
from pretraining.pairs.data.contents import Content


class Captioned(NamedTuple):
    """An image that is still encoded, and all that is said of it."""

    name: str  # as it is written, or of its content: what decides its split
    place: str  # where it is from, for errors
    read: Callable[[], bytes]
    identity: str  # changes with its content
    content: Content  # the encoded image, to be told from others
    captions: list[str]


@dataclass(kw_only=True, eq=False)
class CaptionedImages(PairData):
    """Images with captions in the splits that they come in; `shares` of the training images stand for missing ones,
    chosen by their names' hash.
    """

    decoding: Decoding
    shares: Mapping[str, float] = field(default_factory=lambda: {"validation": 0.1, "test": 0.1})
    images: dict[str, list[Captioned]] = field(init=False, repr=False)

    @abstractmethod
    def found(self) -> dict[str, Iterable[Captioned]]:
        """List the images of the splits that there are, row by row."""

    @property
    @abstractmethod
    def where(self) -> str:
        """Name the source as it is set, for what is told."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.images = in_splits(self.found(), self.shares, self.where, "images")
        counts = ", ".join(f"{len(part)} {split}" for split, part in self.images.items())
        captions = sum(len(image.captions) for part in self.images.values() for image in part)
        say(f"{self.where}: {counts} images, {captions} captions")

    def open(self, split: str) -> ImageTextSource:
        """Open a split, decoding its images into the cache when that does not hold them."""
        check_split(split)
        images = self.images[split]
        encoded = Encoded([image.place for image in images], lambda row: images[row].read())
        identity = key({"images": self._identity(split)})
        read = pixels(encoded, self.decoding, cache_dir=self.cache_dir, identity=identity)
        return ImageTextSource(read, [image.captions for image in images])

    def fingerprint(self) -> str:
        """Identify the images and captions of all splits."""
        captions = {split: [image.captions for image in part] for split, part in self.images.items()}
        return key({"images": {split: self._identity(split) for split in self.images}, "captions": captions})

    def texts(self, split: str) -> Iterator[str]:
        """Read all captions of a split."""
        return (caption for image in self.images[split] for caption in image.captions)

    def _identity(self, split: str) -> str:
        return key({"images": [image.identity for image in self.images[split]]})


class ImageTextSource(CaptionedSource):
    """A split as rows, one for each image and caption."""

    side = "image"

    def __init__(self, images: Any, captions: list[list[str]]) -> None:
        super().__init__(captions)
        self.images = images

    def examples(self, numbers: np.ndarray) -> ImageExamples:
        """Read images."""
        return ImageExamples(np.asarray(self.images[numbers]), None)


def identities(files: Sequence[Path]) -> dict[Path, str]:
    """Know files by their content where they are small together, else by size and time."""
    stats = {file: file.stat() for file in files}
    whole = sum(stat.st_size for stat in stats.values()) <= HASHED_WHOLE
    return {file: sha256(file) if whole else f"{stat.st_size},{stat.st_mtime_ns}" for file, stat in stats.items()}
