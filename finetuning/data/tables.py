"""Read tables from files: parquet, csv, tsv, json lines, or a saved `datasets` directory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from pretraining.data.splits import SPLIT_ALIASES
from pretraining.errors import RunError

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
CARVE = "carve"  # instead of a split's name: take it out of train, even where one of that name exists
Found = TypeVar("Found")


def read_table(path: Path) -> pa.Table:
    """Read one file; a file that cannot be read is an error that names it."""
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        if path.suffix in (".csv", ".tsv"):
            delimiter = "," if path.suffix == ".csv" else "\t"
            multiline = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
            return pyarrow.csv.read_csv(path, parse_options=multiline)
        return pyarrow.json.read_json(path)
    except (pa.ArrowException, OSError) as error:
        what = f"got {path}, which cannot be read as {path.suffix[1:]} ({_first_line(error)})"
        raise RunError(f"{what}: replace the file") from error


def find_splits(path: Path, named: dict[str, str | None]) -> dict[str, list[Path]]:
    """Find the files of each split. `named` gives a file, glob or stem per split; None means the usual names.

    A single file, or a directory in which no file is named after a split, is all "train".
    """
    if not path.exists():
        raise RunError(f"got data.path={path}, which does not exist: give a file or directory of {', '.join(SUFFIXES)}")
    if path.is_file() and path.suffix not in SUFFIXES:
        kind = path.suffix or "nameless"
        raise RunError(f"got data.path={path}, a {kind} file: give one ending in {', '.join(SUFFIXES)}")
    if path.is_file():
        return {"train": [path]}
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and not file.name.startswith("."))
    if not files:
        raise RunError(f"got data.path={path}, which holds no file ending in {', '.join(SUFFIXES)}")
    places = {file.relative_to(path): file for file in files}

    def chosen(split: str, name: str | None) -> list[Path]:
        return [file for place, file in places.items() if (_is_named(place, name) if name else _is_split(place, split))]

    return _by_split(path, named, chosen, places) or {"train": files}


def read_splits(path: Path, named: dict[str, str | None]) -> dict[str, pa.Table]:
    """Read every split that `path` holds; see `find_splits`."""
    if (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists():
        return _saved(path, named)
    splits = {}
    for split, files in find_splits(path, named).items():
        tables = [read_table(file) for file in files]
        try:
            splits[split] = pa.concat_tables(tables, promote_options="default")
        except pa.ArrowException as error:
            what = f"got files of the {split} split whose columns differ ({_first_line(error)})"
            raise RunError(f"{what}: make them agree") from error
    return splits


def _by_split(
    path: Path, named: dict[str, str | None], chosen: Callable[[str, str | None], Found], there: Iterable[object]
) -> dict[str, Found]:
    """Find what belongs to each split that is not to be carved; a name that nothing has is an error."""
    found = {split: chosen(split, name) for split, name in named.items() if name != CARVE}
    for split, part in found.items():
        if named[split] and not part:
            held = list(map(str, there))
            listed = ", ".join(held[:8]) + (" ..." if len(held) > 8 else "")
            raise RunError(f"got data.split.{split}={named[split]}, but {path} holds {listed}: name one of them")
    return {split: part for split, part in found.items() if part}


def column(table: pa.Table, name: str, key: str) -> pa.ChunkedArray:
    """Take the column that the configuration key `key` names; missing columns and missing values are errors."""
    if name not in table.column_names:
        there = ", ".join(table.column_names)
        raise RunError(f"got {key}={name}, but the data has the columns {there}: name one of them")
    values = table[name]
    if values.null_count:
        raise RunError(f"got {values.null_count} empty values in column {name!r} ({key}): fill or drop those rows")
    return values


def class_names(tables: dict[str, pa.Table], name: str) -> list[str] | None:
    """Read the class names that `datasets` stored beside a column of integers, or of lists of them."""
    stored = (next(iter(tables.values())).schema.metadata or {}).get(b"huggingface", b"{}")
    feature = json.loads(stored).get("info", {}).get("features", {}).get(name)
    feature = feature.get("feature", feature) if isinstance(feature, dict) else None
    return list(feature["names"]) if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None


def _saved(path: Path, named: dict[str, str | None]) -> dict[str, pa.Table]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        what = f"got data.path={path}, a datasets directory that cannot be read ({_first_line(error)})"
        raise RunError(f"{what}: save it again") from error
    if isinstance(loaded, datasets.Dataset):
        return {"train": _flat(loaded)}

    def chosen(split: str, name: str | None) -> str | None:
        return next((key for key in ([name] if name else SPLIT_ALIASES[split]) if key in loaded), None)

    splits = {split: _flat(loaded[key]) for split, key in _by_split(path, named, chosen, loaded).items()}
    return splits or {"train": pa.concat_tables([_flat(part) for part in loaded.values()])}


def _flat(dataset: object) -> pa.Table:
    return dataset.with_format("arrow")[:]  # type: ignore[attr-defined]  # honours a stored row selection


def _is_named(file: Path, name: str) -> bool:
    return file.stem == name or file.match(name)


def _is_split(file: Path, split: str) -> bool:
    # `test.csv`, `test-00000-of-00002.parquet` and `test/part0.csv` are all files of "test".
    names = [name for part in (file.stem, file.parent.name) for name in (part, part.partition("-")[0])]
    return any(alias in names for alias in SPLIT_ALIASES[split])


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
