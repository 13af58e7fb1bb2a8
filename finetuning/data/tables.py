"""Read tables from files: parquet, csv, tsv, json lines, or a saved `datasets` directory."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from pretraining.data.splits import SPLIT_ALIASES
from pretraining.errors import RunError

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
CARVE = "carve"  # instead of a split's name: take it out of train, even where one of that name exists


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
        raise RunError(
            f"got {path}, which cannot be read as {path.suffix[1:]} ({_first_line(error)}): replace the file"
        ) from error


def find_splits(path: Path, named: dict[str, str | None]) -> dict[str, list[Path]]:
    """Find the files of each split. `named` gives a file, glob or stem per split; None means the usual names.

    A single file, or a directory in which no file is named after a split, is all "train".
    """
    if not path.exists():
        raise RunError(f"got data.path={path}, which does not exist: give a file or directory of {', '.join(SUFFIXES)}")
    if path.is_file():
        return {"train": [_known(path)]}
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and not file.name.startswith("."))
    if not files:
        raise RunError(f"got data.path={path}, which holds no file ending in {', '.join(SUFFIXES)}")
    found = {}
    for split, name in named.items():
        if name == CARVE:
            continue
        chosen = (
            _chosen(files, path, name) if name else [file for file in files if _is_split(file.relative_to(path), split)]
        )
        if name and not chosen:
            raise RunError(f"got data.split.{split}={name}, but {path} holds {_names(files, path)}: name one of them")
        if chosen:
            found[split] = chosen
    return found or {"train": files}


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
            raise RunError(
                f"got files of the {split} split whose columns differ ({_first_line(error)}): make them agree"
            ) from error
    return splits


def column(table: pa.Table, name: str, key: str) -> pa.ChunkedArray:
    """Take the column that the configuration key `key` names; missing columns and missing values are errors."""
    if name not in table.column_names:
        raise RunError(
            f"got {key}={name}, but the data has the columns {', '.join(table.column_names)}: name one of them"
        )
    values = table[name]
    if values.null_count:
        raise RunError(f"got {values.null_count} empty values in column {name!r} ({key}): fill or drop those rows")
    return values


def class_names(tables: dict[str, pa.Table], name: str) -> list[str] | None:
    """Give the class names that `datasets` stored beside an integer column (or list of integers) of the first table, or None."""
    stored = (next(iter(tables.values())).schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return None
    feature = json.loads(stored).get("info", {}).get("features", {}).get(name, {})
    feature = feature.get("feature", feature)
    return list(feature["names"]) if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None


def _saved(path: Path, named: dict[str, str | None]) -> dict[str, pa.Table]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RunError(
            f"got data.path={path}, a datasets directory that cannot be read ({_first_line(error)})"
        ) from error
    if isinstance(loaded, datasets.Dataset):
        return {"train": _flat(loaded)}
    splits = {}
    for split, name in named.items():
        if name == CARVE:
            continue
        match = next((key for key in ((name,) if name else SPLIT_ALIASES[split]) if key in loaded), None)
        if name and match is None:
            raise RunError(
                f"got data.split.{split}={name}, but {path} holds the splits {', '.join(loaded)}: name one of them"
            )
        if match is not None:
            splits[split] = _flat(loaded[match])
    return splits or {"train": pa.concat_tables([_flat(part) for part in loaded.values()])}


def _flat(dataset: object) -> pa.Table:
    return dataset.with_format("arrow")[:]  # type: ignore[attr-defined]  # honours a stored row selection


def _known(path: Path) -> Path:
    if path.suffix not in SUFFIXES:
        raise RunError(
            f"got data.path={path}, a {path.suffix or 'nameless'} file: give one ending in {', '.join(SUFFIXES)}"
        )
    return path


def _chosen(files: list[Path], root: Path, name: str) -> list[Path]:
    return [file for file in files if file.stem == name or file.relative_to(root).match(name)]


def _is_split(file: Path, split: str) -> bool:
    # `test.csv`, `test-00000-of-00002.parquet` and `test/part0.csv` are all files of "test".
    return any(
        part == alias or part.startswith(f"{alias}-")
        for part in (file.stem, file.parent.name)
        for alias in SPLIT_ALIASES[split]
    )


def _names(files: list[Path], root: Path) -> str:
    names = [str(file.relative_to(root)) for file in files]
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
