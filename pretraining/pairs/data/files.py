"""Pictures with captions of the user's: tables that name image files or hold images, and shards of tar."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pretraining.data.files import TABLES, Paths, kind_of
from pretraining.data.labels import present
from pretraining.data.tables import MissingColumnError, Table, read_table
from pretraining.pairs.data.base import naming
from pretraining.pairs.data.captioned import Captioned, CaptionedImages, identities
from pretraining.pairs.data.captions import captions_of
from pretraining.pairs.data.contents import Seen, Stored
from pretraining.pairs.data.shards import read_shards
from pretraining.text.data.files import files_of_splits

SHARDS = ".tar"


@dataclass(kw_only=True, eq=False)
class ImageTextFiles(CaptionedImages):
    """Tables (captions.jsonl, .csv, .parquet, ...) with the columns `image` and `text`, or .tar shards.

    `image` is a file's path, seen from the table's folder, or holds the image itself (bytes, or {bytes, path}). `text`
    is a caption or a list of them; rows of the same image, under whatever name, add up. `only` keeps rows with the
    values that it gives. In shards an image has its captions beside it, as NAME.txt, or as the key `text` of NAME.json.
    `path` is a folder, a file, a glob or a list of such, in which files serve the splits that they are named after, or
    one for each of train, validation and test.
    """

    path: Paths | Mapping[str, Paths]
    columns: Mapping[str, str] = field(default_factory=lambda: {"image": "image", "text": "text"})
    only: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """Name the path."""
        return f"data.path={self.path}"

    def found(self) -> dict[str, Iterable[Captioned]]:
        """Read the files of each split."""
        files = files_of_splits(self.path, (*TABLES, SHARDS))
        return {split: self._read(part) for split, part in files.items()}

    def _read(self, files: list[Path]) -> Iterator[Captioned]:
        shards = [file for file in files if kind_of(file) == SHARDS]
        if not shards:
            return self._rows(files)
        if self.only:
            raise ValueError(f"data.only={dict(self.only)}: shards have no columns; give {{}}")
        if len(shards) < len(files):
            other = next(file for file in files if file not in shards)
            raise ValueError(f"{self.where}: {shards[0]} beside {other}: give shards (.tar) or tables, not both")
        return read_shards(shards, self.columns["text"])

    def _rows(self, files: list[Path]) -> Iterator[Captioned]:
        image, text = self.columns["image"], self.columns["text"]
        try:
            table = read_table(files, [image, text, *self.only])
        except MissingColumnError as error:
            there = ", ".join(error.there)
            cure = "set data.only to some of" if error.name in self.only else "set data.columns to two of"
            told = f"{error.place} has no column {error.name!r}: {cure} {there}"
            raise ValueError(told) from error
        table = table.take(np.flatnonzero(_agree(table, self.only)))
        table = present(
            {"": table}, {"data.columns.image": image, "data.columns.text": text}, label=None, droppable=False
        )[""]
        named = naming(files)
        cells = [_cell(table, row, image, files, named) for row in range(table.size)]
        known = identities(sorted({cell for cell, _ in cells if isinstance(cell, Path)}))
        places = list(map(table.place, range(table.size)))
        said = captions_of(zip(table.columns[text], places, strict=True), "an image")
        for (cell, name), place, captions in zip(cells, places, said, strict=True):
            if isinstance(cell, bytes):
                yield Captioned(name, place, functools.partial(bytes, cell), name, Seen.of(cell), captions)
            else:
                told, content = f"{cell} ({place})", Stored.of(cell)
                yield Captioned(name, told, cell.read_bytes, known[cell], content, captions)


def _agree(table: Table, only: Mapping[str, Any]) -> np.ndarray:
    """Mark rows that have these values. bool [rows]"""
    found = np.ones(table.size, bool)
    for name, value in only.items():
        wanted = (str(value) or None) if table.written else value  # of csv all is text
        found &= np.array([cell == wanted for cell in table.columns[name]], bool)
        if not found.any():
            there = sorted({str(cell) for cell in table.columns[name]})
            raise ValueError(
                f"data.only.{name}={value}: no row of {table.sources[0]} has it, but {', '.join(there[:8])}"
            )
    return found


def _cell(
    table: Table, row: int, column: str, files: list[Path], named: Callable[[Path], str]
) -> tuple[Path | bytes, str]:
    """Find what a cell means, a file or the content of one, and what names it."""
    cell, place = table.columns[column][row], table.place(row)
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return cell, hashlib.sha256(cell).hexdigest()
    if not isinstance(cell, str) or not cell:
        raise ValueError(f"{place} has the image {cell!r:.40}: give a file's path, or the bytes of one")
    file = files[table.source[row]].parent / cell
    if not file.is_file():
        raise ValueError(f"{place}: the image {cell} does not exist ({file}): correct its path, or drop the row")
    return file, named(file)
