"""Labelled images: built-in sets, and files or tables of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from finetuning.data.base import LabelledData
from finetuning.data.splits import SPLITS, Examples, Split
from finetuning.data.tables import class_names, find_splits
from pretraining.errors import RunError
from pretraining.image.data.base import ImageData, ImageSet
from pretraining.image.data.builtin import Cifar10, Digits
from pretraining.image.data.decode import Decoding, pixels
from pretraining.image.data.files import ImageFolder, read_parquet
from pretraining.image.modality import IMAGE


class LabelledDigits(LabelledData):
    """scikit-learn's handwritten digits, in the splits of the pretraining data `digits`."""

    modality = IMAGE

    def __init__(self, *, split: Split, batch_size: int, eval_batch_size: int, workers: int) -> None:
        super().__init__(split=split, batch_size=batch_size, eval_batch_size=eval_batch_size, workers=workers)

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Open the three splits."""
        return splits_of(Digits(batch_size=1, eval_batch_size=1, workers=0, cache_dir="."))


class LabelledCifar10(LabelledData):
    """CIFAR-10 from `path`, in the splits of the pretraining data `cifar10`."""

    modality = IMAGE

    def __init__(
        self, *, path: str, cache_dir: str, split: Split, batch_size: int, eval_batch_size: int, workers: int
    ) -> None:
        super().__init__(split=split, batch_size=batch_size, eval_batch_size=eval_batch_size, workers=workers)
        self.path, self.cache_dir = path, cache_dir

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Open the three splits."""
        try:
            images = Cifar10(path=self.path, batch_size=1, eval_batch_size=1, workers=0, cache_dir=self.cache_dir)
        except (ValueError, OSError) as error:
            raise RunError(str(error)) from error
        return splits_of(images)


class LabelledImageFiles(LabelledData):
    """A directory `path` of images by class (path/SPLIT/CLASS/*.png or path/CLASS/*.png), or of parquet tables.

    `columns` names the tables' image and label columns.
    """

    modality = IMAGE

    def __init__(
        self,
        *,
        path: str,
        columns: dict[str, str],
        decoding: Decoding,
        cache_dir: str,
        split: Split,
        batch_size: int,
        eval_batch_size: int,
        workers: int,
    ) -> None:
        super().__init__(split=split, batch_size=batch_size, eval_batch_size=eval_batch_size, workers=workers)
        self.path, self.columns = Path(path).expanduser(), columns
        self.decoding, self.cache_dir = decoding, cache_dir

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Read the splits that are there and carve the others."""
        if self.path.is_file() or next(self.path.rglob("*.parquet"), None) is not None:
            files = find_splits(self.path, self.split.named)
            names = self._class_names(next(iter(files.values()))[0])
            return {name: self._table(parts) for name, parts in files.items()}, names
        try:
            folder = ImageFolder(
                path=str(self.path),
                decoding=self.decoding,
                batch_size=1,
                eval_batch_size=1,
                workers=0,
                cache_dir=self.cache_dir,
            )
            found = {}
            for name, table in folder.tables.items():
                images = pixels(table.encoded, self.decoding, cache_dir=folder.cache_dir, identity=table.identity)
                found[name] = _examples(ImageSet(images, table.labels), f"the {name} split of data.path={self.path}")
        except (ValueError, OSError) as error:
            raise RunError(str(error)) from error
        return found, list(folder.tables["train"].class_names)

    def _class_names(self, file: Path) -> list[str] | None:
        """Check the columns, and give the names that `datasets` stored beside the labels."""
        try:
            table = pyarrow.parquet.read_schema(file).empty_table()
        except (pyarrow.ArrowException, OSError) as error:
            raise RunError(f"got {file}, which cannot be read as parquet: replace the file") from error
        for role, name in self.columns.items():
            if name not in table.column_names:
                raise RunError(
                    f"got data.columns.{role}={name}, but the data has the columns {', '.join(table.column_names)}: name one"
                )
        return class_names({"train": table}, self.columns["label"])

    def _table(self, files: list[Path]) -> Examples:
        try:
            table = read_parquet(files, image=self.columns["image"], label=self.columns["label"])
            images = pixels(
                table.encoded, self.decoding, cache_dir=Path(self.cache_dir).expanduser(), identity=table.identity
            )
        except (ValueError, OSError) as error:
            raise RunError(str(error)) from error
        return _examples(ImageSet(images, table.labels), f"data.path={self.path}")


def splits_of(images: ImageData) -> tuple[dict[str, Examples], list[str] | None]:
    """Open every split of an image data set."""
    try:
        opened = {name: images.split(name) for name in SPLITS}
    except (ValueError, OSError) as error:
        raise RunError(str(error)) from error
    names = list(opened["train"].class_names) or None
    return {name: _examples(part, f"the {name} split") for name, part in opened.items()}, names


def _examples(images: ImageSet, where: str) -> Examples:
    if images.labels is None:
        raise RunError(f"got no labels in {where}: put each class into a folder of its name, or name the label column")
    return Examples.of(image=_Rows(images.images), label=images.labels.tolist())


class _Rows(Sequence):
    """Looks single images up in an array, or in what decodes on demand."""

    def __init__(self, images: object) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, row: int) -> np.ndarray:  # type: ignore[override]
        return np.asarray(self.images[np.array([row])])[0]  # type: ignore[index]
