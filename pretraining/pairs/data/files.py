"""Pictures with captions of the user's: tables that name image files, or hold images, and what is said of them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretraining.cache import key, sha256
from pretraining.data.files import TABLES, Paths, say
from pretraining.data.labels import present
from pretraining.data.splits import SPLITS, carved, missing_shares
from pretraining.data.tables import MissingColumnError, Table, read_table
from pretraining.image.data.base import ImageExamples, check_split
from pretraining.image.data.decode import Decoding, Encoded, pixels
from pretraining.image.data.files import HASHED_WHOLE
from pretraining.pairs.data.base import PairData, PairExamples, numbers_of
from pretraining.text.data.files import files_of_splits
from pretraining.text.raw import RawTexts


class Captioned(NamedTuple):
    """An image that is still encoded, and all that is said of it."""

    name: str  # as it is written, or of its content: what decides its split
    place: str  # where it is from, for errors
    source: Path | bytes
    captions: list[str]


@dataclass(kw_only=True, eq=False)
class ImageTextFiles(PairData):
    """Tables (captions.jsonl, .csv, .parquet, ...) with the columns `image` and `text`.

    `image` is a file's path, seen from the table's folder, or holds the image itself (bytes, or {bytes, path}). `text`
    is a caption or a list of them; rows of the same image add up. `path` is a folder, a table, a glob or a list of
    such, in which tables serve the splits that they are named after, or one for each of train, validation and test.
    Splits that are not given are cut out of the training images by their names' hash, `shares` of them.
    """

    path: Paths | Mapping[str, Paths]
    columns: Mapping[str, str]
    decoding: Decoding
    shares: Mapping[str, float]
    images: dict[str, list[Captioned]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {split: self._read(files) for split, files in files_of_splits(self.path, TABLES).items()}
        shares = missing_shares(given, validation=self.shares["validation"], test=self.shares["test"])
        self.images = {}
        for split in SPLITS:
            there = given.get(split, given["train"])
            self.images[split] = list(carved(there, split, given, shares, text=lambda image: image.name))
            if not self.images[split]:
                what = f"data.path={self.path}: {len(there)} images are too few to set some apart for {split}"
                raise ValueError(f"{what}: give more, or a {split} split")
        counts = ", ".join(f"{len(part)} {split}" for split, part in self.images.items())
        captions = sum(len(image.captions) for part in self.images.values() for image in part)
        say(f"data.path={self.path}: {counts} images, {captions} captions")

    def open(self, split: str) -> ImageTextSource:
        """Open a split, decoding its images into the cache when that does not hold them."""
        check_split(split)
        images = self.images[split]
        encoded = Encoded([image.place for image in images], lambda row: _content(images[row].source))
        identity = key({"images": self._identities[split]})
        read = pixels(encoded, self.decoding, cache_dir=self.cache_dir, identity=identity)
        return ImageTextSource(read, [image.captions for image in images])

    def fingerprint(self) -> str:
        """Identify the images and captions of all splits."""
        captions = {split: [image.captions for image in part] for split, part in self.images.items()}
        return key({"images": self._identities, "captions": captions})

    def texts(self, split: str) -> Iterator[str]:
        """Read all captions of a split."""
        return (caption for image in self.images[split] for caption in image.captions)

    @functools.cached_property
    def _identities(self) -> dict[str, str]:
        """Know image files by their content where they are few, else by size and time."""
        files = [image.source for part in self.images.values() for image in part if isinstance(image.source, Path)]
        whole = sum(file.stat().st_size for file in files) <= HASHED_WHOLE

        def known(image: Captioned) -> str:
            if not isinstance(image.source, Path):
                return image.name
            stat = image.source.stat()
            return sha256(image.source) if whole else f"{image.name},{stat.st_size},{stat.st_mtime_ns}"

        return {split: key({"images": list(map(known, part))}) for split, part in self.images.items()}

    def _read(self, files: list[Path]) -> list[Captioned]:
        """Read tables that belong together, and bring rows of the same image together."""
        image, text = self.columns["image"], self.columns["text"]
        try:
            table = read_table(files, [image, text])
        except MissingColumnError as error:
            there = ", ".join(error.there)
            told = f"{error.place} has no column {error.name!r}: set data.columns to two of {there}"
            raise ValueError(told) from error
        table = present({"": table}, {"data.columns.image": image, "data.columns.text": text}, label=None)[""]
        found: dict[str, Captioned] = {}
        for row in range(table.size):
            one = _image(table, row, image, files)
            known = found.setdefault(one.name, one)
            known.captions.extend(caption for caption in _captions(table, row, text) if caption not in known.captions)
        return list(found.values())


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


def _image(table: Table, row: int, column: str, files: list[Path]) -> Captioned:
    """Find what a cell means: a file, or the content of one."""
    cell, place = table.columns[column][row], table.place(row)
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return Captioned(hashlib.sha256(cell).hexdigest(), place, cell, [])
    if not isinstance(cell, str) or not cell:
        raise ValueError(f"{place} has the image {cell!r:.40}: give a file's path, or the bytes of one")
    file = files[table.source[row]].parent / cell
    if not file.is_file():
        raise ValueError(f"{place}: the image {cell} does not exist ({file}): correct its path, or drop the row")
    return Captioned(cell, f"{file} ({place})", file, [])


def _captions(table: Table, row: int, column: str) -> list[str]:
    cell = table.columns[column][row]
    captions = cell if isinstance(cell, list) else [cell]
    odd = next((text for text in captions if not isinstance(text, str) or not text.strip()), None)
    if odd is not None or not captions:
        told = repr(odd) if captions else "none"
        raise ValueError(f"{table.place(row)} has an image, but the caption {told:.40}: write one, or drop the row")
    return captions


def _content(source: Path | bytes) -> bytes:
    return source.read_bytes() if isinstance(source, Path) else source
