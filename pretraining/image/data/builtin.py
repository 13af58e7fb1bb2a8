"""Image data sets with a fixed form: scikit-learn's digits and CIFAR-10."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pretraining.cache import sha256
from pretraining.data.splits import stratified
from pretraining.image.data.base import ImageData, ImageSet, check_split
from pretraining.image.data.decode import Decoding, Encoded
from pretraining.image.data.encoded import EncodedImages, Table
from pretraining.image.data.tables import read_parquet

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(kw_only=True, eq=False)
class Digits(ImageData):
    """scikit-learn's 1,797 handwritten digits of 8 x 8 grey pixels; the same 10 % of each class validate, 20 % test."""

    eval_batch_size: int = 128

    def split(self, split: str) -> ImageSet:
        """Open a split."""
        check_split(split)
        images, labels = grey_digits()
        rows = stratified(labels, validation_share=0.1, test_share=0.2)[split]
        return ImageSet(images[rows], labels[rows], tuple("0123456789"))

    def fingerprint(self) -> str:
        """Hash the pixels and labels."""
        images, labels = grey_digits()
        return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()


def grey_digits() -> tuple[np.ndarray, np.ndarray]:
    """Load all digits: uint8 [1797, 1, 8, 8] (their 17 grey levels spread over 0 .. 255), int64 [1797]."""
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)
    images = np.round(levels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return images, labels.astype(np.int64)


@dataclass(kw_only=True, eq=False)
class Cifar10(EncodedImages):
    """CIFAR-10 (Krizhevsky 2009) from `path`: train.parquet and test.parquet of encoded images, or data_batch_*.bin.

    Validation is 5,000 of the 50,000 training images, 10 % of each class, always the same ones for the same files.
    """

    decoding: Decoding = field(default=Decoding(size=None), init=False)
    path: Any  # kept as a Path
    eval_batch_size: int = 512
    batch_size: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        given, self.path = self.path, Path(self.path).expanduser()
        if not self.path.is_dir():
            what = f"data.path={given} is not a directory (seen from {Path.cwd()})"
            raise FileNotFoundError(f"{what}: set data.path to a folder with CIFAR-10")
        self.tables = {part: self._table(part) for part in ("train", "test")}

    def split(self, split: str) -> ImageSet:
        """Open a split."""
        images, labels, _ = super().split(split)
        if images.shape[1:] != (3, 32, 32):
            what = f"data.path={self.path} holds images of {images.shape[2]} x {images.shape[3]}"
            raise ValueError(f"{what}, but CIFAR-10 has 32 x 32")
        return ImageSet(images, labels, CIFAR10_CLASSES)

    def _table(self, part: str) -> Table:
        """List a part's images, from parquet before binary files."""
        tables = sorted(self.path.glob(f"{part}*.parquet"))
        if tables:
            return read_parquet({part: tables}, image="image", label="label")[part]
        files = sorted(self.path.glob("data_batch_*.bin" if part == "train" else "test_batch.bin"))
        if not files:
            what = f"data.path={self.path} holds neither train.parquet and test.parquet"
            what += " nor data_batch_1.bin ... data_batch_5.bin and test_batch.bin"
            raise FileNotFoundError(f"{what}: set data.path to a folder with CIFAR-10")
        return _records(files)


def _records(files: list[Path]) -> Table:
    """Read the binary version: records of a class byte and 3,072 pixel bytes, the latter given as portable pixmaps."""
    parts = []
    for path in files:
        content = np.fromfile(path, np.uint8)
        if not len(content) or len(content) % 3073:
            what = f"{path} has {len(content)} bytes, which are no records of 3,073"
            raise ValueError(f"{what}: download the binary version of CIFAR-10 again")
        parts.append(content.reshape(-1, 3073))
    records = np.concatenate(parts)
    names = [f"record {row} of {files[0].parent}" for row in range(len(records))]
    encoded = Encoded(names, lambda row: b"P6 32 32 255\n" + records[row, 1:].reshape(3, -1).T.tobytes())
    identity = hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()
    return Table(encoded, records[:, 0].astype(np.int64), CIFAR10_CLASSES, identity)
