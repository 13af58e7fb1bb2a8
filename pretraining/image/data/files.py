"""Images of the user's: folders of image files, and anything that `datasets.load_dataset` takes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pretraining.cache import sha256
from pretraining.data.splits import missing_shares, names_of_splits, stratified
from pretraining.image.data.base import ImageData, ImageSet, check_split
from pretraining.image.data.decode import Decoding, Encoded, pixels

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
HASHED_WHOLE = 256 * 2**20  # bytes: images up to this size are known by content, larger ones by files' sizes and times
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

    def split(self, split: str) -> ImageSet:
        """Open a split."""
        check_split(split)
        table = self.tables.get(split)
        if table is None or (split == "train" and len(self.tables) < 3):
            table = self._carved(split)
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


@dataclass(kw_only=True, eq=False)
class ImageFolder(EncodedImages):
    """A folder of images: path/SPLIT/CLASS/*.png, or path/CLASS/*.png; without the CLASS level there are no labels."""

    path: str

    def __post_init__(self) -> None:
        super().__post_init__()
        root = Path(self.path).expanduser()
        if not root.is_dir():
            what = f"data.path={self.path} {'is not a directory' if root.exists() else 'does not exist'}"
            raise FileNotFoundError(f"{what} (seen from {Path.cwd()}): set data.path to a folder of images")
        names = names_of_splits([part.name for part in root.iterdir() if part.is_dir()])
        folders = {split: root / name for split, name in names.items()}
        folders = folders if "train" in folders else {"train": root}
        class_names = _classes(folders["train"])
        self.tables = {split: _listed(folder, class_names, self.path) for split, folder in folders.items()}


def _classes(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(part.name for part in folder.iterdir() if part.is_dir() and not part.name.startswith(".")))


def _listed(folder: Path, class_names: tuple[str, ...], path: str) -> Table:
    """List a split's image files in the order of their names."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        taken = ", ".join(SUFFIXES)
        raise FileNotFoundError(
            f"data.path={path}: no image in {folder} (we take {taken}): set data.path to a folder of images"
        )
    labels = None
    if class_names:
        places = {name: number for number, name in enumerate(class_names)}
        unknown = next((file for file in files if file.relative_to(folder).parts[0] not in places), None)
        if unknown is not None:
            raise ValueError(
                f"{unknown} lies in none of the class folders {', '.join(class_names[:8])}: move or remove it"
            )
        labels = np.array([places[file.relative_to(folder).parts[0]] for file in files], np.int64)
    names = [str(file) for file in files]
    return Table(Encoded(names, lambda row: files[row].read_bytes()), labels, class_names, _identity(files, folder))


def _identity(files: Sequence[Path], root: Path) -> str:
    stats = [file.stat() for file in files]
    whole = sum(stat.st_size for stat in stats) <= HASHED_WHOLE
    digest = hashlib.sha256()
    for file, stat in zip(files, stats, strict=True):
        digest.update(str(file.relative_to(root)).encode())
        digest.update(
            hashlib.sha256(file.read_bytes()).digest() if whole else f"{stat.st_size},{stat.st_mtime_ns}".encode()
        )
    return digest.hexdigest()


def read_parquet(files: list[Path], *, image: str, label: str) -> Table:
    """Open tables whose `image` column holds encoded images, as bytes or as {bytes, path}. Files are identified by
    their content.

    The images themselves are read when the first of them is asked for: a run that finds their pixels in the cache never
    does.
    """
    import pyarrow
    import pyarrow.parquet

    digest, tables = hashlib.sha256(), []
    for path in files:
        try:
            schema = pyarrow.parquet.read_schema(path)
            for column in (image, label):
                if column not in schema.names:
                    there = ", ".join(schema.names)
                    raise ValueError(
                        f"{path} has no column {column!r}, only {there}: use data=hub_images to name columns"
                    )
            tables.append(pyarrow.parquet.read_table(path, columns=[label]))
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} is not a readable parquet file ({error}): download it again") from error
        digest.update(sha256(path).encode())
    labels = pyarrow.concat_tables(tables)[label].to_numpy().astype(np.int64)
    cells = _LazyColumn(files, image)
    names = [f"row {row} of {files[0].parent}" for row in range(len(labels))]
    return Table(Encoded(names, cells.read), labels, (), digest.hexdigest())


class _LazyColumn:
    """A column of encoded images, loaded when first read; once, although decoding threads ask for it together."""

    def __init__(self, files: list[Path], image: str) -> None:
        self.files, self.image, self.lock = files, image, threading.Lock()
        self.cells: Any = None

    def read(self, row: int) -> bytes:
        """Read one encoded image."""
        with self.lock:
            if self.cells is None:
                self.cells = self._load()
        return self.cells[row].as_py()

    def _load(self) -> Any:
        import pyarrow
        import pyarrow.parquet

        parts = [pyarrow.parquet.read_table(path, columns=[self.image]) for path in self.files]
        column = pyarrow.concat_tables(parts)[self.image].combine_chunks()
        return column.field("bytes") if pyarrow.types.is_struct(column.type) else column


@dataclass(kw_only=True, eq=False)
class HubImages(EncodedImages):
    """Whatever `datasets.load_dataset(name)` gives: a name on the hub or a local directory.

    `image` and `label` are its columns; a null `label` leaves classes out.
    """

    name: str
    image: str
    label: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        splits = _loaded(self.name)
        found = {split: splits[name] for split, name in names_of_splits(splits).items()}
        if "train" not in found:
            what = f"data.name={self.name} has the splits {', '.join(splits)}, but no train"
            raise ValueError(f"{what}: choose another data set")
        chosen = (self.image, self.label)
        self.tables = {split: _hub_table(part, self.name, split, *chosen) for split, part in found.items()}


def _loaded(name: str) -> dict[str, Any]:
    import datasets

    try:
        return dict(datasets.load_dataset(name))
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        raise ValueError(
            f"data.name={name} cannot be loaded ({error}): give the name of a data set on the hub or a local directory"
        ) from error


def _hub_table(part: Any, name: str, split: str, image: str, label: str | None) -> Table:
    import datasets

    for key, column in (("image", image), ("label", label)):
        if column is not None and column not in part.column_names:
            raise ValueError(
                f"data.name={name} has no column {column!r}, only {', '.join(part.column_names)}: set data.{key}"
            )
    if not len(part):
        raise ValueError(f"data.name={name}: the split {split} is empty")
    encoded = part.cast_column(image, datasets.Image(decode=False))

    def read(row: int) -> bytes:
        cell = encoded[row][image]
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()

    labels, class_names = None, ()
    if label is not None:
        values = np.asarray(part[label])
        class_names = tuple(getattr(part.features[label], "names", None) or map(str, np.unique(values)))
        labels = (
            values.astype(np.int64)
            if np.issubdtype(values.dtype, np.integer)
            else np.unique(values, return_inverse=True)[1]
        )
    names = [f"image {row} of {name} ({split})" for row in range(len(part))]
    return Table(Encoded(names, read), labels, class_names, f"{part._fingerprint}:{image}")
