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
from pretraining.data.splits import SPLITS, carved, missing_shares
from pretraining.image.data.base import ImageExamples, check_split
from pretraining.image.data.decode import Decoding, Encoded, pixels
from pretraining.image.data.files import HASHED_WHOLE
from pretraining.pairs.data.base import PairData, PairExamples, numbers_of
from pretraining.text.raw import RawTexts


class Captioned(NamedTuple):
    """An image that is still encoded, and all that is said of it."""

    name: str  # as it is written, or of its content: what decides its split
    place: str  # where it is from, for errors
    read: Callable[[], bytes]
    identity: str  # changes with its content
    captions: list[str]


@dataclass(kw_only=True, eq=False)
class CaptionedImages(PairData):
    """Images with captions in the splits that they come in; `shares` of the training images stand for missing ones,
    chosen by their names' hash.
    """

    decoding: Decoding
    shares: Mapping[str, float]
    images: dict[str, list[Captioned]] = field(init=False, repr=False)

    @abstractmethod
    def found(self) -> dict[str, list[Captioned]]:
        """List the images of the splits that there are."""

    @property
    @abstractmethod
    def where(self) -> str:
        """Name the source as it is set, for what is told."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.found()
        shares = missing_shares(given, validation=self.shares["validation"], test=self.shares["test"])
        self.images = {}
        for split in SPLITS:
            there = given.get(split, given["train"])
            self.images[split] = list(carved(there, split, given, shares, text=lambda image: image.name))
            if not self.images[split]:
                what = f"{self.where}: {len(there)} images are too few to set some apart for {split}"
                raise ValueError(f"{what}: give more, or a {split} split")
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


class ImageTextSource:
    """A split as rows, one for each image and caption."""

    def __init__(self, images: Any, captions: list[list[str]]) -> None:
        self.images, self.captions = images, captions
        self.numbers = numbers_of(captions, max(map(len, captions)))
        counts = [len(texts) for texts in captions]
        self.image = np.repeat(np.arange(len(captions)), counts)  # of each row
        self.place = np.concatenate([np.arange(count) for count in counts])  # of its caption among the image's

    def count(self, epoch: int) -> int:
        """Count the pairs; the same in each epoch."""
        return len(self.image)

    def read(self, epoch: int, rows: np.ndarray) -> PairExamples:
        """Read pairs by their numbers."""
        image, place = self.image[rows], self.place[rows]
        texts = [self.captions[one][other] for one, other in zip(image, place, strict=True)]
        sides = {"image": ImageExamples(np.asarray(self.images[image]), None), "text": RawTexts.of(texts)}
        return PairExamples(sides, self.numbers[image, place], self.numbers[image])


def captions_of(cell: Any, place: str) -> list[str]:
    """Take a caption or a list of them; what is none is refused with its place."""
    captions = list(cell) if isinstance(cell, list | tuple) else [cell]
    odd = next((text for text in captions if not isinstance(text, str) or not text.strip()), None)
    if odd is not None or not captions:
        told = repr(odd) if captions else "none"
        raise ValueError(f"{place} has an image, but the caption {told:.40}: write one, or drop the row")
    return captions


def merged(images: Iterable[Captioned]) -> list[Captioned]:
    """Bring rows of the same image together, each caption once."""
    found: dict[str, Captioned] = {}
    for one in images:
        known = found.setdefault(one.name, one._replace(captions=[]))
        known.captions.extend(caption for caption in one.captions if caption not in known.captions)
    return list(found.values())


def identities(files: Sequence[Path]) -> dict[Path, str]:
    """Know files by their content where they are small together, else by size and time."""
    stats = {file: file.stat() for file in files}
    whole = sum(stat.st_size for stat in stats.values()) <= HASHED_WHOLE
    return {file: sha256(file) if whole else f"{stat.st_size},{stat.st_mtime_ns}" for file, stat in stats.items()}
