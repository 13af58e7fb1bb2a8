"""Read tables from files or a saved `datasets` directory: which serve which split, and the columns asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pyarrow as pa

from pretraining.cli.configuration import as_run_errors
from pretraining.data.columns import missing_column
from pretraining.data.files import TABLES, Paths, parse_json, say
from pretraining.data.folders import split_folders
from pretraining.data.split_files import CARVE, REMEDY, files_of_splits, refuse_name
from pretraining.data.splits import SPLITS, described, names_of_splits
from pretraining.data.tables import MissingColumnError, Table, read_table
from pretraining.errors import RunError, reason_of


def find_splits(path: Paths, named: Mapping[str, str | None], kinds: Collection[str] = TABLES) -> dict[str, list[Path]]:
    """Find the files of each split. `named` gives a file, glob or stem per split; None means the usual names."""
    with as_run_errors():
        return files_of_splits(path, named, kinds, needs_train=False)


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
        if (missing := missing_column(error.__cause__, columns)) is not None:
            raise missing from error
        raise


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
            refuse_name(split, str(name), str(path), list(loaded))
    usual = names_of_splits(loaded) if len(loaded) > 1 else {"train": next(iter(loaded))}
    found = {
        split: named[split] or usual[split]
        for split in SPLITS
        if named[split] != CARVE and (named[split] or split in usual)
    }
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


def find_folders(root: str, named: Mapping[str, str | None], *, of: str) -> dict[str, Path]:
    """Find the folder of each split below `root`: `named` gives its name, or null for the usual ones."""
    known = {split: name for split, name in named.items() if name not in (None, CARVE)}
    found = split_folders(root, of=of, known=known, needs_train=False, remedy=REMEDY)
    given = {split: Path(root).expanduser() / name for split, name in known.items()}
    for split, folder in given.items():
        if not folder.is_dir():
            raise FileNotFoundError(f"data.split.{split}={known[split]}: {folder} does not exist: name another folder")
    found |= given
    return {split: folder for split, folder in found.items() if named[split] != CARVE}
