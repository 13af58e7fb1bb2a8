"""Read tables from files or a saved `datasets` directory: which serve which split, and the columns asked for."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pretraining.cli.configuration import as_run_errors
from pretraining.data.files import TABLES, Paths, find, kind_of, parse_json, places_of, say
from pretraining.data.folders import split_folders
from pretraining.data.splits import SPLITS, by_split, described, names_of_splits
from pretraining.data.tables import MissingColumnError, Table, read_rows, read_table
from pretraining.errors import RunError, reason_of

CARVE = "carve"  # instead of a split's name: take it out of train, even where one of that name exists
REMEDY = "name them with data.split.train=…, data.split.validation=… and data.split.test=…"


def find_splits(path: Paths, named: Mapping[str, str | None], kinds: Collection[str] = TABLES) -> dict[str, list[Path]]:
    """Find the files of each split. `named` gives a file, glob or stem per split; None means the usual names.

    A single file, or files of which none is named after a split, are all "train".
    """
    where = f"data.path={path}"
    if isinstance(path, str) and not glob.has_magic(path) and not Path(path).expanduser().exists():
        raise RunError(
            f"got {where}, which does not exist (seen from {Path.cwd()}): give a file, a directory or a glob"
        )
    with as_run_errors():
        files = find(path, key="data.path", kinds=kinds)
        places = places_of(files)
        chosen = {
            split: _named(places, name, split, where) for split, name in named.items() if name not in (None, CARVE)
        }
        taken = {file for part in chosen.values() for file in part}
        rest = [place for place, file in places.items() if file not in taken]
        usual = {"train": rest} if len(places) == 1 else by_split(rest, where=where, remedy=REMEDY, known=chosen)
    found = {split: [places[place] for place in part] for split, part in usual.items() if part and named[split] is None}
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
    return found or _refuse_name(split, name, where.removeprefix("data.path="), list(places))


def _stem(file: Path) -> str:
    return file.name.partition(".")[0]


def _refuse_name(split: str, name: str, where: str, held: list[str]) -> list[Path]:
    listed = ", ".join(held[:8]) + (" ..." if len(held) > 8 else "")
    remedy = "name one of them, or null or carve to cut the split from train"
    raise RunError(f"got data.split.{split}={name}, but {where} holds {listed}: {remedy}")


def read_splits(path: Paths, named: Mapping[str, str | None], columns: Mapping[str, str]) -> dict[str, Table]:
    """Read columns of every split that `path` holds; `columns` gives their names by configuration key."""
    folder = Path(path).expanduser() if isinstance(path, str) else None
    names = list(columns.values())
    try:
        with as_run_errors():
            if folder and ((folder / "dataset_dict.json").exists() or (folder / "dataset_info.json").exists()):
                return _saved(folder, named, names)
            return {split: read_table(files, names) for split, files in find_splits(path, named).items()}
    except RunError as error:
        if (missing := _missing(error.__cause__, columns)) is not None:
            raise missing from error
        raise


def _missing(error: BaseException | None, columns: Mapping[str, str]) -> RunError | None:
    """Word the error of a missing column for the configuration key that names it."""
    if not isinstance(error, MissingColumnError):
        return None
    key = next(key for key, name in columns.items() if name == error.name)
    what = f"got {key}={error.name}, but the data has the columns {', '.join(error.there)}"
    return RunError(f"{what}: name one of them ({error.place})")


def rows_of(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, list]]:
    """Read columns of one table, by configuration key, row by row, each with its number or line."""
    try:
        with as_run_errors():
            yield from read_rows(path, list(columns.values()))
    except RunError as error:
        if (missing := _missing(error.__cause__, columns)) is not None:
            raise missing from error
        raise


def is_text(value: Any) -> bool:
    """Tell whether a value of a table is text."""
    return isinstance(value, str)


def are_texts(value: Any) -> bool:
    """Tell whether a value of a table is a list of texts."""
    return isinstance(value, list) and all(map(is_text, value))


def refusal(field: str, name: str, value: Any, kind: str, needed: str, place: str) -> str:
    """Say which value is not as `needed`, in the column that data.`field` names."""
    shown = str(value).replace("None", "null")[:60]
    return f"got data.{field}={name}, a column of {kind}{needed}; {place} has in {name!r} the value {shown}"


def class_names(metadata: Mapping[bytes, bytes] | None, name: str) -> list[str] | None:
    """Read the class names that `datasets` stored beside a column of integers, or of lists of them.

    A dot in `name` leads into a column of objects.
    """
    stored = (metadata or {}).get(b"huggingface", b"{}").decode("utf-8", "replace")
    with as_run_errors():
        described = parse_json(stored, "what datasets stored in the metadata of the data's table", "write it again")
    for key in ("info", "features", *name.split(".")):
        described = described.get(key) if isinstance(described, dict) else None
    described = described.get("feature", described) if isinstance(described, dict) else {}
    names = described.get("names") if isinstance(described, dict) else None
    return list(map(str, names)) if isinstance(names, list) else None


def _saved(path: Path, named: Mapping[str, str | None], names: list[str]) -> dict[str, Table]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # what the library meets in damaged descriptions: KeyError, AttributeError, ...
        what = f"got data.path={path}, a datasets directory that cannot be read ({reason_of(error)})"
        raise RunError(f"{what}: save it again") from error
    if isinstance(loaded, datasets.Dataset):
        loaded = {"all": loaded}
    for split, name in named.items():
        if name not in (None, CARVE) and name not in loaded:
            _refuse_name(split, str(name), str(path), list(loaded))
    usual = names_of_splits(loaded) if len(loaded) > 1 else {"train": next(iter(loaded))}
    found = {
        split: named[split] or usual[split]
        for split in SPLITS
        if named[split] != CARVE and (named[split] or split in usual)
    }
    if "train" not in found:
        raise RunError(f"got data.path={path} with the splits {', '.join(loaded)}, of which none is train: {REMEDY}")
    unused = [name for name in loaded if name not in found.values()]
    say(described(f"data.path={path}", {split: [str(name)] for split, name in found.items()}, unused))
    return {split: _flat(loaded[name], f"{path}, split {name}, row", names) for split, name in found.items()}


def _flat(dataset: object, where: str, names: list[str]) -> Table:
    for name in names:
        if name not in dataset.column_names:  # type: ignore[attr-defined]
            raise MissingColumnError(where, name, dataset.column_names)  # type: ignore[attr-defined]
    rows: pa.Table = dataset.with_format("arrow")[:]  # type: ignore[attr-defined]  # honours a stored row selection
    columns = {name: rows[name].to_pylist() for name in names}
    types = {name: str(rows.schema.field(name).type) for name in names}
    return Table.of(where, columns, metadata=rows.schema.metadata or {}, types=types)


def find_folders(root: str, named: Mapping[str, str | None], *, of: str) -> dict[str, str]:
    """Find the folder of each split below `root`: `named` gives its name, or null for the usual ones."""
    given = {split: name for split, name in named.items() if name is not None}
    if not given:
        return {split: str(folder) for split, folder in split_folders(root, of=of).items()}
    found = split_folders(root, of=of, known=[split for split in given if given[split] != CARVE])
    found |= {split: Path(root).expanduser() / name for split, name in given.items() if name != CARVE}
    return {split: str(folder) for split, folder in found.items() if given.get(split) != CARVE}
