"""Encoded images with their classes, in splits of which the missing ones are taken from the training images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from pretraining.data.files import say
from pretraining.data.splits import missing_shares, stratified
from pretraining.image.data.base import ImageData, ImageSet, check_split
from pretraining.image.data.decode import Decoding, Encoded, pixels
from pretraining.image.data.measure import fitting

SHARE = 0.1  # of the training images for a split that the data does not have


@dataclass(frozen=True)
class Table:
    """Encoded images, with classes where there are any."""

    encoded: Encoded
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    identity: str

    def subset(self, rows: np.ndarray) -> Table:
        """Select some rows."""
        labels = None if self.labels is None else self.labels[rows]
        identity = hashlib.sha256(self.identity.encode() + rows.tobytes()).hexdigest()
        return Table(self.encoded.subset(rows), labels, self.class_names, identity)


@dataclass(kw_only=True, eq=False)
class EncodedImages(ImageData):
    """Encoded images in the splits that they come in; a missing one is always the same of the training images."""

    decoding: Decoding
    tables: dict[str, Table] = field(init=False, repr=False)
    eval_batch_size: int = 256

    def split(self, split: str) -> ImageSet:
        """Open a split."""
        check_split(split)
        table = self.tables.get(split)
        if table is None or (split == "train" and len(self.tables) < 3):
            table = self._carved(split)
        if split == "train" and (line := fitting(table.encoded, self.decoding)):
            say(line)
        images = pixels(table.encoded, self.decoding, cache_dir=self.cache_dir, identity=table.identity)
        return ImageSet(images, table.labels, table.class_names)

    def fingerprint(self) -> str:
        """Identify the files of all splits."""
        return hashlib.sha256(
            "".join(f"{name}:{table.identity}" for name, table in sorted(self.tables.items())).encode()
        ).hexdigest()

    def _carved(self, split: str) -> Table:
        """Take the part of the training images that stands for `split`."""
        train = self.tables["train"]
        labels = np.zeros(len(train.encoded), np.int64) if train.labels is None else train.labels
        rows = stratified(labels, **missing_shares(self.tables, validation=SHARE, test=SHARE))[split]
        if not len(rows):
            raise ValueError(
                f"{len(train.encoded)} images are too few to set some apart for {split}: give more, or a {split} split"
            )
        return train.subset(rows)
