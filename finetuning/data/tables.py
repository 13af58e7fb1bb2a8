"""Read tables from files or a saved `datasets` directory: which serve which split, and the columns asked for."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pretraining.cli.configuration import as_run_errors
from pretraining.data.files import TABLES, Paths, say
from pretraining.data.folders import split_folders
from pretraining.data.split_files import CARVE, REMEDY, files_of_splits, refuse_name
from pretraining.data.splits import SPLITS, described, names_of_splits
from pretraining.data.tables import MissingColumnError, Table, read_rows, read_table
from pretraining.errors import RunError


def find_splits(path: Paths, named: Mapping[str, str | None], kinds: Collection[str] = TABLES) -> dict[str, list[Path]]:
    """Find the files of each split. `named` gives a file, glob or stem per split; None means the usual names."""
    with as_run_errors():
        return files_of_splits(path, named, kinds)


def read_splits(
    path: Paths, named: Mapping[str, str | None], columns: Mapping[str, str], *, quotes: bool = True
) -> dict[str, Table]:
    """Read columns of every split that `path` holds; `columns` gives their names by configuration key.

    `quotes`: whether values in csv may be quoted.
    """
    folder = Path(path).expanduser() if isinstance(path, str) else None
    names = list(columns.values())
    try:
        with as_run_errors():
            if folder and ((folder / "dataset_dict.json").exists() or (folder / "dataset_info.json").exists()):
                return _saved(folder, named, names)
            return {split: read_table(files, names, quotes=quotes) for split, files in find_splits(path, named).items()}
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
    """Read the class names that `datasets` stored beside a column of integers, or of lists of them."""
    feature = json.loads((metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {}).get(name)
    feature = feature.get("feature", feature) if isinstance(feature, dict) else None
    return list(feature["names"]) if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None


def _saved(path: Path, named: Mapping[str, str | None], names: list[str]) -> dict[str, Table]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        what = f"got data.path={path}, a datasets directory that cannot be read ({_first_line(error)})"
        raise RunError(f"{what}: save it again") from error
    if isinstance(loaded, datasets.Dataset):
        loaded = {"all": loaded}
    for split, name in named.items():
        if name not in (None, CARVE) and name not in loaded:
            refuse_name(split, str(name), str(path), list(loaded))
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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def find_folders(root: str, named: Mapping[str, str | None], *, of: str) -> dict[str, str]:
    """Find the folder of each split below `root`: `named` gives its name, or null for the usual ones."""
    given = {split: name for split, name in named.items() if name is not None}
    if not given:
        return {split: str(folder) for split, folder in split_folders(root, of=of).items()}
    found = split_folders(root, of=of, known=[split for split in given if given[split] != CARVE])
    found |= {split: Path(root).expanduser() / name for split, name in given.items() if name != CARVE}
    return {split: str(folder) for split, folder in found.items() if given.get(split) != CARVE}
