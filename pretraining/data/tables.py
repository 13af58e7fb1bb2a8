"""Tables in files: the same strict readers for every command, with the place of each row.

Of a csv every value is text as it is written, an empty one null; the other formats have types. Only the columns that
are asked for matter.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from pretraining.data.files import kind_of, lines, parse_json
from pretraining.errors import RunError, reason_of

DELIMITERS = {".csv": ",", ".tsv": "\t"}
ROWS_PER_BATCH = 1024
JSON_CURE = ".jsonl has one object per line, .json that or a list of objects; correct the file"


class MissingColumnError(ValueError):
    """A table without a column that is asked for."""

    def __init__(self, place: str, name: str, there: Sequence[str]) -> None:
        super().__init__(f"{place} has no column {name!r}, but {', '.join(map(repr, there)) or 'none'}")
        self.place, self.name, self.there = place, name, list(there)


@dataclass(frozen=True)
class Table:
    """Columns of one split, as plain values, and where each row is from."""

    columns: dict[str, list]
    sources: list[str]  # "FILE, line" or "FILE, row"
    source: np.ndarray  # int64, per row
    number: np.ndarray  # int64, per row, in its source
    written: bool = False  # every value as text or None, from csv
    metadata: Mapping[bytes, bytes] = field(default_factory=dict)  # stored by `datasets`
    types: Mapping[str, str] = field(default_factory=dict)  # of columns, where the format has such

    @classmethod
    def of(
        cls,
        where: str,
        columns: dict[str, list],
        metadata: Mapping[bytes, bytes] | None = None,
        types: Mapping[str, str] | None = None,
    ) -> Table:
        """Make a table of columns that are in memory."""
        size = len(next(iter(columns.values())))
        rows = np.arange(size)
        return cls(columns, [where], np.zeros_like(rows), rows, metadata=metadata or {}, types=types or {})

    @property
    def size(self) -> int:
        """Count the rows."""
        return len(self.number)

    def place(self, row: int) -> str:
        """Say where a row is from."""
        return f"{self.sources[self.source[row]]} {self.number[row]}"

    def content(self, cell: Any, row: int) -> Any:
        """Take what a cell of a row holds encoded, see `content_of`."""
        folder = Path(self.sources[self.source[row]].rpartition(",")[0]).parent
        return content_of(cell, folder, self.place(row))

    def take(self, rows: np.ndarray) -> Table:
        """Select some rows."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return dataclasses.replace(self, columns=columns, source=self.source[rows], number=self.number[rows])


def read_table(paths: Sequence[Path], names: Sequence[str], *, quotes: bool = True) -> Table:
    """Read columns of files that belong together; without `quotes` those of a csv are text like any other."""
    names = list(dict.fromkeys(names))
    columns: dict[str, list] = {name: [] for name in names}
    sources, source, number = [], [], []
    for place, path in enumerate(paths):
        sources.append(f"{path}, {word_of(path)}")
        for line, values in read_rows(path, names, quotes=quotes):
            for name, value in zip(names, values, strict=True):
                columns[name].append(value)
            source.append(place)
            number.append(line)
    written = all(kind_of(path) in DELIMITERS for path in paths)
    table = Table(columns, sources, np.array(source, np.int64), np.array(number, np.int64), written)
    if kind_of(paths[0]) != ".parquet":
        return table
    with open_parquet(paths[0]) as first:
        schema = first.schema_arrow
    types = {name: str(schema.field(name).type) for name in names}
    return dataclasses.replace(table, metadata=schema.metadata or {}, types=types)


def word_of(path: Path) -> str:
    """Say what the numbers of a file's rows count."""
    return "row" if kind_of(path) == ".parquet" or (kind_of(path) == ".json" and _is_list(path)) else "line"


def read_rows(path: Path, names: Sequence[str], *, quotes: bool = True) -> Iterator[tuple[int, list]]:
    """Read values of the columns `names`, row by row, with the row's number (0, 1, ...) or line (1, 2, ...)."""
    if kind_of(path) in DELIMITERS:
        return _csv_rows(path, names, quotes)
    return _parquet_rows(path, names) if kind_of(path) == ".parquet" else _json_rows(path, names)


def _csv_rows(path: Path, names: Sequence[str], quotes: bool) -> Iterator[tuple[int, list]]:
    csv.field_size_limit(2**31 - 1)
    options: dict[str, Any] = {} if quotes else {"quoting": csv.QUOTE_NONE}
    rows = csv.reader(_csv_lines(path), delimiter=DELIMITERS[kind_of(path)], strict=True, **options)
    header: list[str] = []
    places: list[int] = []
    ended = 0
    try:
        for row in rows:
            begun, ended = ended + 1, rows.line_num
            if row and not header:
                header, places = row, _places(str(path), row, names)
            elif row and len(row) != len(header):
                fields = f"{len(row)} field{'s' * (len(row) != 1)}"
                remedy = "quote texts with commas" if len(row) > len(header) else "complete the line"
                raise ValueError(f"{path}, line {begun} has {fields}, but the first line has {len(header)}: {remedy}")
            elif row:
                yield begun, [row[place] or None for place in places]
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {ended + 1}: {error}: close each quote, and write a quote inside of quotes twice"
        ) from error
    if not header:
        raise ValueError(f"{path} holds no line: give a table with column names in its first line")


def _csv_lines(path: Path) -> Iterator[str]:
    """Split at the line ends of any system."""
    for line in lines(path):
        if "\r" in line[:-2]:
            yield from re.split(r"(?<=\r)(?=[^\n])", line)
        else:
            yield line


def _places(place: str, header: Sequence[str], names: Sequence[str]) -> list[int]:
    for name in names:
        if name not in header:
            raise MissingColumnError(place, name, header)
        if header.count(name) > 1:
            raise ValueError(f"{place} has the column {name!r} twice: rename one")
    return [header.index(name) for name in names]


def _is_list(path: Path) -> bool:
    return next((line.lstrip()[0] == "[" for line in lines(path) if not line.isspace()), False)


def _json_rows(path: Path, names: Sequence[str]) -> Iterator[tuple[int, list]]:
    word, first = word_of(path), True
    for number, text, record in _json_list(path) if word == "row" else _json_lines(path):
        place = f"{path}, {word} {number}"
        if not isinstance(record, dict):
            raise MissingColumnError(place, names[0], [f"no object but {type(record).__name__}"])
        for name in names if first else ():
            if name not in record:
                raise MissingColumnError(place, name, sorted(record))
        values, first = [record.get(name) for name in names], False
        if "\\u" in text:
            _refuse_surrogates(values, place)
        yield number, values


def _json_lines(path: Path) -> Iterator[tuple[int, str, Any]]:
    for number, line in enumerate(lines(path), start=1):
        if not line.isspace():
            yield number, line, parse_json(line, f"{path}, line {number}", JSON_CURE)


def _json_list(path: Path) -> Iterator[tuple[int, str, Any]]:
    text = "".join(lines(path))
    yield from ((number, text, record) for number, record in enumerate(parse_json(text, str(path))))


def _refuse_surrogates(values: list, place: str) -> None:
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(
            f"{place} holds half a character (the surrogate {half!r} alone), which is no text: write that text again"
        ) from error


def _parquet_rows(path: Path, names: Sequence[str]) -> Iterator[tuple[int, list]]:
    number = 0
    with open_parquet(path) as table:
        _places(str(path), table.schema_arrow.names, names)
        for batch in table.iter_batches(batch_size=ROWS_PER_BATCH, columns=list(names)):
            for values in zip(*(batch[name].to_pylist() for name in names), strict=True):
                yield number, list(values)
                number += 1


@contextlib.contextmanager
def open_parquet(path: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    """Open a parquet file; what is none, or is damaged wherever it is read inside, is an error that names it."""
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            yield table
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} holds text that is not UTF-8: write the file again") from error
    except (pyarrow.ArrowException, OSError, OverflowError) as error:  # the last for dates that Python has not
        raise ValueError(
            f"{path} cannot be read as parquet ({reason_of(error)}): it is damaged or cut short; write it again, or "
            "leave it out"
        ) from error


def content_of(cell: Any, folder: Path, place: str) -> Any:
    """Take what a cell holds encoded: bytes, or {bytes, path} as `datasets` has them. Without bytes the file is read.

    Its path is seen from `folder`.
    """
    if not isinstance(cell, Mapping):
        return cell
    content, path = cell.get("bytes"), cell.get("path")
    if content is not None or not isinstance(path, str):
        return content
    try:
        return (folder / path).read_bytes()
    except (OSError, ValueError) as error:
        what = f"{place} names the file {path}, which cannot be read ({folder / path})"
        raise RunError(f"{what}: correct its path, or drop the row") from error
