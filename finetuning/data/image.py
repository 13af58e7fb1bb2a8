"""Labelled images: built-in sets, and files or tables of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from finetuning.data.base import LabelledData
from finetuning.data.splits import Examples
from finetuning.data.tables import class_names, find_folders, find_splits
from pretraining.cache import default_cache
from pretraining.cli.configuration import as_run_errors
from pretraining.data.files import Paths, kind_of, walk
from pretraining.data.splits import SPLITS
from pretraining.data.tables import open_parquet
from pretraining.errors import RunError
from pretraining.image.data.base import ImageData, ImageSet
from pretraining.image.data.builtin import Cifar10, Digits
from pretraining.image.data.decode import Decoding, pixels
from pretraining.image.data.encoded import Table
from pretraining.image.data.files import folder_tables
from pretraining.image.data.tables import read_parquet
from pretraining.image.modality import IMAGE

UNUSED = {"batch_size": 1, "eval_batch_size": 1, "workers": 0}  # of pretraining data, which serve no batches here


@dataclass(kw_only=True)
class LabelledDigits(LabelledData):
    """scikit-learn's handwritten digits, in the splits of the pretraining data `digits`."""

    modality = IMAGE
    eval_batch_size: int = 256
    batch_size: int = 32

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Open the three splits."""
        self.refuse_names()
        return splits_of(Digits(cache_dir=".", **UNUSED))


@dataclass(kw_only=True)
class LabelledCifar10(LabelledData):
    """CIFAR-10 from `path`, in the splits of the pretraining data `cifar10`."""

    modality = IMAGE
    path: str
    cache_dir: str = field(default_factory=default_cache)
    eval_batch_size: int = 512
    batch_size: int = 128

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Open the three splits."""
        self.refuse_names()
        with as_run_errors():
            return splits_of(Cifar10(path=self.path, cache_dir=self.cache_dir, **UNUSED))


@dataclass(kw_only=True)
class LabelledImageFiles(LabelledData):
    """Images by class below `path` (path/SPLIT/CLASS/*.png or path/CLASS/*.png), or tables, with their `columns`."""

    modality = IMAGE
    path: Paths
    columns: dict[str, str] = field(default_factory=lambda: {"image": "image", "label": "label"})
    decoding: Decoding = field(default_factory=lambda: Decoding(size=None))
    cache_dir: str = field(default_factory=default_cache)
    tables: dict[str, list[Path]] = field(init=False, repr=False, default_factory=dict)  # that `found` has read
    eval_batch_size: int = 256
    batch_size: int = 64

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Read the splits that are there."""
        with as_run_errors():
            folder = Path(self.path).expanduser() if isinstance(self.path, str) else None
            if folder is None or not folder.is_dir() or any(kind_of(file) == ".parquet" for file in walk(folder)):
                files = self.tables = find_splits(self.path, self.split.named, (".parquet",))
                names = self._class_names(next(iter(files.values()))[0])
                image, label = self.columns["image"], self.columns["label"]
                tables = read_parquet(files, image=image, label=label, missing=self.missing)
                names = names or list(next(iter(tables.values())).class_names) or None
            else:
                tables = folder_tables(find_folders(str(folder), self.split.named, of="image"), str(self.path))
                names = list(next(iter(tables.values())).class_names)
            return {name: self._examples(table, name) for name, table in tables.items()}, names

    def _class_names(self, file: Path) -> list[str] | None:
        """Check the columns, and read the names that `datasets` stored beside the labels."""
        with open_parquet(file) as table:
            schema = table.schema_arrow
        for role, name in self.columns.items():
            if name not in schema.names:
                there = ", ".join(schema.names)
                raise RunError(f"got data.columns.{role}={name}, but the data has the columns {there}: name one")
        return class_names(schema.metadata, self.columns["label"])

    def _examples(self, table: Table, split: str) -> Examples:
        cache_dir = Path(self.cache_dir).expanduser()
        images = pixels(table.encoded, self.decoding, cache_dir=cache_dir, identity=table.identity)
        where = f"the {split} split of data.path={self.path}"
        return _examples(ImageSet(images, table.labels), where, f"{table.identity} {self.decoding}")


def splits_of(images: ImageData) -> tuple[dict[str, Examples], list[str] | None]:
    """Open every split of an image data set."""
    with as_run_errors():
        opened = {name: images.split(name) for name in SPLITS}
    names = list(opened["train"].class_names) or None
    known = images.fingerprint()
    return {name: _examples(part, f"the {name} split", known) for name, part in opened.items()}, names


def _examples(images: ImageSet, where: str, identity: str) -> Examples:
    if images.labels is None:
        raise RunError(f"got no labels in {where}: put each class into a folder of its name, or name the label column")
    return Examples.of(image=_Rows(images.images, identity), label=images.labels.tolist())


class _Rows(Sequence):
    """Looks single images up in an array, or in what decodes on demand."""

    def __init__(self, images: object, identity: str) -> None:
        self.images, self.identity = images, identity

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, row: int) -> np.ndarray:  # type: ignore[override]
        return np.asarray(self.images[np.array([row])])[0]  # type: ignore[index]
