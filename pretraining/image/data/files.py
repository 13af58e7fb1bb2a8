"""Images of the user's: folders of image files, and anything that `datasets.load_dataset` takes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretraining.data.files import is_hidden, say, walk
from pretraining.data.hub import load
from pretraining.data.splits import SPLITS, by_split, described, names_of_splits, refuse_lone_train
from pretraining.image.data.decode import Encoded
from pretraining.image.data.encoded import EncodedImages, Table
from pretraining.image.data.tables import hub_tables

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
HASHED_WHOLE = 256 * 2**20  # bytes: images up to this size are known by content, larger ones by files' sizes and times
REMEDY = "say which is which with data.path={train: …, validation: …, test: …}, or take all with data.path={train: …}"


@dataclass(kw_only=True, eq=False)
class ImageFolder(EncodedImages):
    """A folder of images: path/SPLIT/CLASS/*.png, or path/CLASS/*.png; without the CLASS level there are no labels."""

    path: str | Mapping[str, str]

    def __post_init__(self) -> None:
        super().__post_init__()
        folders = split_folders(self.path)
        class_names = _classes(folders["train"])
        self.tables = {split: _listed(folder, class_names, self.path) for split, folder in folders.items()}


def split_folders(path: str | Mapping[str, str], known: Collection[str] = ()) -> dict[str, Path]:
    """Find the folder of each split, by its name where `path` does not give it; and say which serves which.

    `known`: splits whose folders are chosen already.
    """
    if isinstance(path, Mapping):
        if "train" not in path or not set(path) <= set(SPLITS):
            raise ValueError(f"data.path has the splits {sorted(path)}: give train, and validation and test if any")
        return {split: _folder(part, f"data.path.{split}") for split, part in path.items()}
    if not isinstance(path, str):
        raise ValueError(f"data.path={path}: give one folder, or one for each of train, validation and test")
    root, where = _folder(path, "data.path"), f"data.path={path}"
    names = sorted(part.name for part in root.iterdir() if part.is_dir() and not is_hidden(part.name))
    found = by_split(names, where=where, remedy=REMEDY, known=known) if names else {"train": []}
    if found.get("train") == names:
        return {"train": root}
    if not known:
        refuse_lone_train(found, names, where=where, remedy=REMEDY)
    double = next((split for split, parts in found.items() if len(parts) > 1), None)
    if double is not None:
        raise ValueError(f"{where} holds several folders for {double}, {', '.join(found[double])}: {REMEDY}")
    used = [part for parts in found.values() for part in parts]
    say(described(where, found, [name for name in names if name not in used]))
    return {split: root / parts[0] for split, parts in found.items()}


def _folder(path: str, key: str) -> Path:
    root = Path(path).expanduser()
    if not root.is_dir():
        what = "is not a directory" if root.exists() else "does not exist"
        raise FileNotFoundError(f"{key}={path} {what} (seen from {Path.cwd()}): set {key} to a folder of images")
    return root


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
    image: str
    label: str | None

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
