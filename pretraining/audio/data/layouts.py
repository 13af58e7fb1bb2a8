"""Where the recordings of each split lie in a folder: in folders of their own, or as lists of files say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from pretraining.audio.data.clips import SUFFIXES
from pretraining.data.files import is_hidden, lines, say, walk
from pretraining.data.folders import split_folders
from pretraining.data.split_files import CARVE, REMEDY
from pretraining.data.splits import SPLITS, described


class Placed(NamedTuple):
    """A recording, and the folder below which folders are named after classes."""

    file: Path
    base: Path


def audio_files(folder: Path) -> list[Path]:
    """List the audio files below a folder in the order of their names."""
    return [file for file in walk(folder) if file.suffix.lower() in SUFFIXES]


def recordings_by_split(
    path: str | Mapping[str, str],
    named: Mapping[str, str | None],
    exclude: Collection[str] = (),
    *,
    needs_train: bool = True,
) -> dict[str, list[Placed]]:
    """Find the recordings of each split; `exclude` are names of folders to leave aside.

    `named` says what a split is called in `path`: a folder, a glob of folders, or a text file that lists recordings;
    null: as is usual, carve: nothing. What other splits are named to hold is not in the rest. `needs_train`: see
    `by_split`.
    """
    given = {split: name for split, name in named.items() if name is not None}
    if given and not isinstance(path, str):
        raise ValueError(f"got data.split.{next(iter(given))} and data.path={path}: give one folder, or null")
    chosen = {
        split: _called(Path(str(path)).expanduser(), split, name, exclude)
        for split, name in given.items()
        if name != CARVE
    }
    taken = {placed.file for part in chosen.values() for placed in part}
    folders: Mapping[str, Path] = {}
    if set(given) != set(SPLITS):
        known = {split: given[split] for split in chosen}
        folders = split_folders(path, of="recording", known=known, needs_train=needs_train, remedy=REMEDY)
    rest = {
        split: [placed for placed in _below(folder, exclude) if placed.file not in taken]
        for split, folder in folders.items()
        if split not in given
    }
    if given:
        told = {split: [name] for split, name in given.items() if name != CARVE}
        say(described(f"data.path={path}", told | {split: ["the rest"] for split in rest}, []))
    found = {split: (chosen | rest)[split] for split in SPLITS if split in chosen or split in rest}
    for split, files in found.items():
        if not files:
            what = f"data.path={path} holds no recording in its {split} split (we take {', '.join(SUFFIXES)})"
            raise FileNotFoundError(f"{what}: set data.path to a folder of recordings")
    return found


def _below(folder: Path, exclude: Collection[str]) -> list[Placed]:
    return [
        Placed(file, folder) for file in audio_files(folder) if not {*file.relative_to(folder).parts[:-1]} & {*exclude}
    ]


def _called(root: Path, split: str, name: str, exclude: Collection[str]) -> list[Placed]:
    """List what a folder, a glob of folders or a list of files of this name holds."""
    if (root / name).is_file():
        listed = [Placed(root / line.strip(), root) for line in lines(root / name) if line.strip()]
        missing = next((placed.file for placed in listed if not placed.file.is_file()), None)
        if missing is not None:
            raise FileNotFoundError(f"{root / name} lists {missing}, which does not exist: correct the list")
        return listed
    folders = [root / name] if (root / name).is_dir() else sorted(part for part in root.glob(name) if part.is_dir())
    if not folders:
        there = sorted(part.name for part in root.iterdir() if not is_hidden(part.name)) if root.is_dir() else []
        held = ", ".join(there[:8]) + (" ..." if len(there) > 8 else "") or "nothing"
        what = f"got data.split.{split}={name}, but data.path={root} holds {held}"
        raise FileNotFoundError(f"{what}: name a folder, a glob of folders or a list of files of it, or null")
    return [placed for folder in folders for placed in _below(folder, exclude)]
