"""Columns of tables whose names are settings: what is missing or of another kind is told by the setting's key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pretraining.cli.configuration import as_run_errors
from pretraining.data.files import say
from pretraining.data.tables import MissingColumnError, read_rows
from pretraining.errors import RunError

ID = "id"


def missing_column(error: BaseException | None, columns: Mapping[str, str]) -> RunError | None:
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
        if (missing := missing_column(error.__cause__, columns)) is not None:
            raise missing from error
        raise


def named_rows(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[Any, int, list]]:
    """Read rows as `rows_of` does, each with what names it before its number: its `id` where the table has that column.

    Of a table without one the number names a row. Rows whose `id` is empty are counted aloud.
    """
    try:
        next(read_rows(path, [ID]), None)
    except MissingColumnError:
        yield from ((number, number, values) for number, values in rows_of(path, columns))
        return
    empty = 0
    for number, (*values, name) in rows_of(path, {**columns, "the row's name": ID}):
        empty += name is None or name != name
        yield name, number, values
    if empty:
        say(f"{path}: rows with an empty id, which is null in what is written: {empty}")


def own_id(item: Any, number: int) -> Any:
    """Name what Python code holds: a row by its `id` where it has one, anything else by its number."""
    return item[ID] if isinstance(item, Mapping) and ID in item else number


def one_type_of_ids(rows: Iterable[Mapping[str, Any]], first: Any = None) -> Any:
    """Return the first id, which is `first` where rows before these had one; no column holds ids of several types."""
    for row in rows:
        name = row.get(ID)
        first = name if first is None else first
        if name is not None and type(name) is not type(first):
            what = f"got the ids {first!r} and {name!r}, of which one column cannot hold both"
            raise RunError(f"{what}: write all as text, or all as numbers")
    return first


def is_text(value: Any) -> bool:
    """Tell whether a value of a table is text."""
    return isinstance(value, str)


def are_texts(value: Any) -> bool:
    """Tell whether a value of a table is a list of texts."""
    return isinstance(value, list) and all(map(is_text, value))


def refusal(key: str, name: str, value: Any, kind: str, needed: str, place: str) -> str:
    """Say which value is not as `needed`, in the column that `key` names."""
    if value is None:
        return f"got {key}={name}, of which {place} has no value{needed}: fill or drop that row"
    shown = str(value).replace("None", "null")[:60]
    return f"got {key}={name}, a column of {kind}{needed}; {place} has in {name!r} the value {shown}"
