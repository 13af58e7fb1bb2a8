"""Recordings of the user's: folders of audio files, and tables that hold or name them."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute

from pretraining.audio.data.base import AudioData
from pretraining.audio.data.clips import SUFFIXES, EncodedClip, Mono
from pretraining.audio.data.layouts import recordings_by_split
from pretraining.data.files import TABLES, kind_of, walk
from pretraining.data.split_files import files_of_splits
from pretraining.data.splits import SPLITS, missing_shares, stratified
from pretraining.data.tables import content_of, open_parquet, read_table

SHARE = 0.1  # of the training recordings for a split that the data does not have


@dataclass(kw_only=True, eq=False)
class GivenRecordings(AudioData):
    """Recordings that exist. A split that is missing is always the same tenth of the training recordings.

    `mono` says what becomes of several channels: their mean, the first of them, or an error.
    """

    mono: Mono = "mean"

    @property
    @abstractmethod
    def given(self) -> Collection[str]:
        """Name the splits that the data has."""

    @abstractmethod
    def listed(self, split: str) -> Sequence[EncodedClip]:
        """List the recordings of a split that the data has, in a fixed order."""

    def clips(self, split: str) -> Sequence[EncodedClip]:
        """List a split's recordings, without those of train that stand for others."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown: choose {', '.join(SPLITS)}")
        there = split in self.given
        clips = self.listed(split if there else "train")
        if there and (split != "train" or len(self.given) == len(SPLITS)):
            return clips
        rows = stratified(np.zeros(len(clips), np.int64), **missing_shares(self.given, validation=SHARE, test=SHARE))
        if not len(rows[split]):
            raise ValueError(f"{len(clips)} recordings are too few to set some apart for {split}: give more")
        return [clips[row] for row in rows[split]]


@dataclass(kw_only=True, eq=False)
class AudioFolder(GivenRecordings):
    """A folder of audio files, however deep: path/**/*.flac, or path/SPLIT/**/*.flac; or of path/SPLIT*.parquet.

    `split` says what each split is called: a folder, a glob of folders, a text file that lists recordings, or a table;
    null: as is usual. `exclude`: names of folders to leave aside. Tables hold recordings in `column`, or their paths
    from the subfolder `folder`; without `quotes` a quotation mark in csv is text.
    """

    path: str | Mapping[str, str]
    column: str = "audio"
    split: Mapping[str, str | None] = field(default_factory=lambda: dict.fromkeys(SPLITS))
    exclude: Sequence[str] = ()
    folder: str = "."
    quotes: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tables = tables_of(self.path, self.split)
        if not self.tables:
            placed = recordings_by_split(self.path, self.split, self.exclude)
            self.files = {split: [each.file for each in part] for split, part in placed.items()}

    @property
    def given(self) -> Collection[str]:
        """Name the splits that the data has."""
        return self.tables or self.files

    def identity(self, split: str) -> dict[str, Any]:
        """Name the files of all splits by their sizes and times: a carved split depends on those of train."""
        stats = {
            name: [(str(file), *_stat(file)) for file in files] for name, files in (self.tables or self.files).items()
        }
        found: dict[str, Any] = {"files": stats, "split": split, "mono": self.mono, "column": self.column}
        if self.tables and (places := [file for name in self.given for file in _named_by(self.listed(name))]):
            found["named"] = [(str(file), *_stat(file)) for file in places]
        return found

    @functools.cache  # noqa: B019  # as long as the data
    def listed(self, split: str) -> list[EncodedClip]:
        """List the recordings of a split in the order of their names, or of the tables' rows."""
        if not self.tables:
            return [EncodedClip(str(file), file.read_bytes, self.mono) for file in self.files[split]]
        clips: list[EncodedClip] = []
        folder = table_folder(str(self.path)) / self.folder
        for file in self.tables[split]:
            if kind_of(file) == ".parquet":
                clips += table_clips(file, self.column, self.mono, folder)
                continue
            table = read_table([file], [self.column], quotes=self.quotes)
            clips += [
                cell_clip(cell, table.place(row), folder, self.mono, f"data.column={self.column}")
                for row, cell in enumerate(table.columns[self.column])
            ]
        return clips


def tables_of(path: str | Mapping[str, str], named: Mapping[str, str | None]) -> dict[str, list[Path]]:
    """Find the tables of each split: one that `path` is; of a folder parquet, and other kinds where it holds no sound.

    Those are also taken where `named` calls a split like one of them.
    """
    root = Path(path).expanduser() if isinstance(path, str) else None
    if root is None or not root.exists():
        return {}
    files = walk(root) if root.is_dir() else [root]
    called = {name for name in named.values() if name is not None}
    kinds = [".parquet"]
    if root.is_file():
        kinds = list(TABLES)
    elif not any(file.suffix.lower() in SUFFIXES for file in files):
        kinds = [kind for kind in TABLES if kind != ".json"]  # which hold settings more often
    if any(kind_of(file) in TABLES and {file.stem, file.name} & called for file in files):
        kinds = list(TABLES)
    if not any(kind_of(file) in kinds for file in files):
        return {}
    return files_of_splits(str(path), {split: named.get(split) for split in SPLITS}, kinds)


def table_folder(path: str) -> Path:
    """Find the folder that a table's paths start from."""
    root = Path(path).expanduser()
    return root if root.is_dir() else root.parent


def cell_clip(cell: Any, place: str, folder: Path, mono: Mono, key: str) -> EncodedClip:
    """Take a table's cell: an encoded recording, as bytes or {bytes, path}, or its path. `key` names the column."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return EncodedClip(place, functools.partial(bytes, cell), mono)
    if not isinstance(cell, str):
        what = f"got {key}, whose value at {place} is {'empty' if cell is None else f'a {type(cell).__name__}'}"
        raise ValueError(f"{what}: name a column of encoded recordings or of their paths")
    file = folder / cell
    if not file.is_file():
        raise FileNotFoundError(f"got the recording {file} at {place}, which does not exist: correct {key}")
    return EncodedClip(str(file), file.read_bytes, mono, file)


def table_clips(path: Path, column: str, mono: Mono, folder: Path | None = None) -> list[EncodedClip]:
    """List the recordings of a parquet table: encoded bytes, {bytes, path} as `datasets` has them, or paths.

    Paths are seen from `folder` (None: where the table is).
    """
    folder = path.parent if folder is None else folder
    with open_parquet(path) as table:
        there = table.schema_arrow.names
        if column not in there:
            raise ValueError(
                f"{path} has no column {column!r}, only {', '.join(there)}: set data.column to one of them"
            )
        cells = table.read(columns=[column])[column]
    kinds, names = pyarrow.types, [f"{path}, row {row}" for row in range(len(cells))]
    if kinds.is_string(cells.type) or kinds.is_large_string(cells.type):
        key = f"data.column={column}"
        return [cell_clip(cell, name, folder, mono, key) for cell, name in zip(cells.to_pylist(), names, strict=True)]
    if not (kinds.is_struct(cells.type) or kinds.is_binary(cells.type) or kinds.is_large_binary(cells.type)):
        raise ValueError(f"column {column!r} of {path} holds {cells.type}, not encoded recordings: set data.column")
    paths = _paths(cells, folder) if kinds.is_struct(cells.type) else {}
    return [
        EncodedClip(name, functools.partial(_cell, cells, row, folder, name), mono, paths.get(row))
        for row, name in enumerate(names)
    ]


def _paths(cells: Any, folder: Path) -> dict[int, Path]:
    """Find the rows that have a path alone."""
    fields = {cells.type.field(number).name for number in range(cells.type.num_fields)}
    if not {"bytes", "path"} <= fields:
        return {}
    named, lacking = pyarrow.compute.struct_field(cells, "path"), pyarrow.compute.struct_field(cells, "bytes").is_null()
    both = zip(named.to_pylist(), lacking.to_pylist(), strict=True)
    return {row: folder / path for row, (path, gone) in enumerate(both) if gone and isinstance(path, str)}


def _cell(cells: Any, row: int, folder: Path, name: str) -> bytes:
    return content_of(cells[row].as_py(), folder, name) or b""


def _named_by(clips: Sequence[EncodedClip]) -> list[Path]:
    return [clip.file for clip in clips if clip.file is not None and clip.file.is_file()]


def _stat(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns
