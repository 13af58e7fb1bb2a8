"""Images of the user's: folders of image files, and anything that `datasets.load_dataset` takes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretraining.data.files import is_hidden, say, walk
from pretraining.data.folders import split_folders
from pretraining.data.hub import load
from pretraining.data.splits import described, names_of_splits
from pretraining.image.data.decode import Encoded
from pretraining.image.data.encoded import EncodedImages, Table
from pretraining.image.data.tables import hub_tables

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
HASHED_WHOLE = 256 * 2**20  # bytes: images up to this size are known by content, larger ones by files' sizes and times


@dataclass(kw_only=True, eq=False)
class ImageFolder(EncodedImages):
    """A folder of images: path/SPLIT/CLASS/*.png, or path/CLASS/*.png; without the CLASS level there are no labels."""

    path: str | Mapping[str, str]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tables = folder_tables(split_folders(self.path, of="image"), self.path)


def folder_tables(folders: Mapping[str, Path], path: str | Mapping[str, str]) -> dict[str, Table]:
    """List the images of each split's folder; the classes are those of the training split, else of the first one.

    `path` is what errors call the data.
    """
    class_names = _classes(folders.get("train", next(iter(folders.values()))))
    return {split: _listed(folder, class_names, path) for split, folder in folders.items()}


def _classes(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(part.name for part in folder.iterdir() if part.is_dir() and not is_hidden(part.name)))


def _listed(folder: Path, class_names: tuple[str, ...], path: str | Mapping[str, str]) -> Table:
    """List a split's image files in the order of their names."""
    files = [file for file in walk(folder) if file.suffix.lower() in SUFFIXES]
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


@dataclass(kw_only=True, eq=False)
class HubImages(EncodedImages):
    """Whatever `datasets` loads: a name on the hub or a local directory; `name:configuration` where it has several.

    `image` and `label` are its columns; a null `label` leaves classes out.
    """

    name: str
    image: str = "image"
    label: str | None = "label"

    def __post_init__(self) -> None:
        super().__post_init__()
        splits = load(self.name)
        names = names_of_splits(splits)
        if "train" not in names:
            raise ValueError(
                f"data.name={self.name} has the splits {', '.join(splits)}, but no train: choose another data set"
            )
        unused = [part for part in splits if part not in names.values()]
        say(described(f"data.name={self.name}", {split: [part] for split, part in names.items()}, unused))
        found = {split: splits[part] for split, part in names.items()}
        self.tables = hub_tables(found, self.name, image=self.image, label=self.label)
