"""Which files serve which split: by the names that a configuration gives, or else by the usual ones."""

from __future__ import annotations

import glob
from collections.abc import Collection, Mapping
from pathlib import Path

from pretraining.data.files import TABLES, Paths, find, kind_of, places_of, say
from pretraining.data.splits import SPLITS, by_split, described
from pretraining.errors import RunError

CARVE = "carve"  # instead of a split's name: take it out of train, even where one of that name exists
REMEDY = "name them with data.split.train=…, data.split.validation=… and data.split.test=…"


def files_of_splits(
    path: Paths, named: Mapping[str, str | None], kinds: Collection[str] = TABLES, *, needs_train: bool = True
) -> dict[str, list[Path]]:
    """Find the files of each split. `named` gives a file, glob or stem per split; None means the usual names.

    A single file, or files of which none is named after a split, are all "train". `needs_train`: see `by_split`.
    """
    where = f"data.path={path}"
    if isinstance(path, str) and not glob.has_magic(path) and not Path(path).expanduser().exists():
        raise RunError(
            f"got {where}, which does not exist (seen from {Path.cwd()}): give a file, a directory or a glob"
        )
    files = find(path, key="data.path", kinds=kinds)
    places = places_of(files)
    chosen = {split: _named(places, name, split, where) for split, name in named.items() if name not in (None, CARVE)}
    taken = {file for part in chosen.values() for file in part}
    rest = [place for place, file in places.items() if file not in taken]
    alone = len(places) == 1
    usual = (
        {"train": rest} if alone else by_split(rest, where=where, remedy=REMEDY, known=chosen, needs_train=needs_train)
    )
    found = {
        split: [places[place] for place in part] for split, part in usual.items() if part and named.get(split) is None
    }
    found = {split: chosen.get(split) or found[split] for split in SPLITS if split in {*chosen, *found}}
    if len(files) > 1 or chosen:
        names = {file: place for place, file in places.items()}
        used = {split: [names.get(file, str(file)) for file in part] for split, part in found.items()}
        say(described(where, used, [names[file] for file in files if all(file not in part for part in found.values())]))
    return found


def _named(places: Mapping[str, Path], name: str, split: str, where: str) -> list[Path]:
    """Find what the configuration calls a split: by stem or pattern among the files, else a path of its own."""
    found = [file for file in places.values() if _stem(file) == name or file.stem == name or file.match(name)]
    if not found and kind_of(Path(name)) in TABLES and Path(name).expanduser().is_file():
        found = [Path(name).expanduser()]
    return found or refuse_name(split, name, where.removeprefix("data.path="), list(places))


def _stem(file: Path) -> str:
    return file.name.partition(".")[0]


def refuse_name(split: str, name: str, where: str, held: list[str]) -> list[Path]:
    """Say that nothing is called as a configuration says, and what there is."""
    listed = ", ".join(held[:8]) + (" ..." if len(held) > 8 else "")
    remedy = "name one of them, or null or carve to cut the split from train"
    raise RunError(f"got data.split.{split}={name}, but {where} holds {listed}: {remedy}")
