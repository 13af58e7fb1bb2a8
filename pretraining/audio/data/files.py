"""Recordings of the user's: folders of audio files, and parquet tables that hold them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from pretraining.audio.data.base import AudioData
from pretraining.audio.data.clips import SUFFIXES, EncodedClip, Mono
from pretraining.data.files import kind_of, places_of, say, walk
from pretraining.data.folders import REMEDY, split_folders
from pretraining.data.splits import SPLITS, by_split, described, missing_shares, stratified
from pretraining.data.tables import content_of, open_parquet

SHARE = 0.1  # of the training recordings for a split that the data does not have


@dataclass(kw_only=True, eq=False)
class AudioFolder(AudioData):
    """A folder of audio files, however deep: path/**/*.flac, or path/SPLIT/**/*.flac; or of path/SPLIT*.parquet.

    A split that is missing is always the same tenth of the training recordings. `mono` says what becomes of several
    channels: their mean, the first of them, or an error. `column` names the recordings in tables.
    """

    path: str | Mapping[str, str]
    mono: Mono
    column: str

    def __post_init__(self) -> None:
        super().__post_init__()
        self.found = found_files(self.path)

    def clips(self, split: str) -> Sequence[EncodedClip]:
        """List a split's recordings in the order of their names."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown: choose {', '.join(SPLITS)}")
        there = split in self.found
        clips = self._listed("train" if not there else split)
        if there and (split != "train" or len(self.found) == len(SPLITS)):
            return clips
        rows = stratified(np.zeros(len(clips), np.int64), **missing_shares(self.found, validation=SHARE, test=SHARE))
        if not len(rows[split]):
            raise ValueError(f"{len(clips)} recordings are too few to set some apart for {split}: give more")
        return [clips[row] for row in rows[split]]

    def identity(self, split: str) -> dict[str, Any]:
        """Name the files of all splits by their sizes and times: a carved split depends on those of train."""
        stats = {name: [(str(file), *_stat(file)) for file in files] for name, files in self.found.items()}
        return {"files": stats, "split": split, "mono": self.mono, "column": self.column}

    @functools.cache  # noqa: B019  # as long as the data
    def _listed(self, split: str) -> list[EncodedClip]:
        clips: list[EncodedClip] = []
        for file in self.found[split]:
            if kind_of(file) == ".parquet":
                clips += table_clips(file, self.column, self.mono)
            else:
                clips.append(EncodedClip(str(file), file.read_bytes, self.mono))
        return clips


def found_files(path: str | Mapping[str, str]) -> dict[str, list[Path]]:
    """Find the recordings of each split, or the parquet tables that hold them, by the names of folders or tables."""
    tables = _tables(path) if isinstance(path, str) and Path(path).expanduser().exists() else []
    if tables:
        places, where = places_of(tables), f"data.path={path}"
        found = by_split(list(places), where=where, remedy=REMEDY)
        used = [place for parts in found.values() for place in parts]
        say(described(where, found, [place for place in places if place not in used]))
        return {split: [places[place] for place in parts] for split, parts in found.items()}
    sets = {split: audio_files(folder) for split, folder in split_folders(path, of="recording").items()}
    for split, files in sets.items():
        if not files:
            what = f"data.path={path} holds no recording in its {split} split (we take {', '.join(SUFFIXES)})"
            raise FileNotFoundError(f"{what}: set data.path to a folder of recordings")
    return sets


def _tables(path: str) -> list[Path]:
    root = Path(path).expanduser()
    return [file for file in (walk(root) if root.is_dir() else [root]) if kind_of(file) == ".parquet"]


def audio_files(folder: Path) -> list[Path]:
    """List the audio files below a folder in the order of their names."""
    return [file for file in walk(folder) if file.suffix.lower() in SUFFIXES]


def table_clips(path: Path, column: str, mono: Mono) -> list[EncodedClip]:
    """List the recordings of a parquet table: encoded bytes, or {bytes, path} as `datasets` has them."""
    with open_parquet(path) as table:
        there = table.schema_arrow.names
        if column not in there:
            raise ValueError(
                f"{path} has no column {column!r}, only {', '.join(there)}: set data.column to one of them"
            )
        cells = table.read(columns=[column])[column]
    kinds = pyarrow.types
    if not (kinds.is_struct(cells.type) or kinds.is_binary(cells.type) or kinds.is_large_binary(cells.type)):
        raise ValueError(f"column {column!r} of {path} holds {cells.type}, not encoded recordings: set data.column")
    names = [f"{path}, row {row}" for row in range(len(cells))]
    return [EncodedClip(name, functools.partial(_cell, cells, row, path), mono) for row, name in enumerate(names)]


def _cell(cells: Any, row: int, path: Path) -> bytes:
    return content_of(cells[row].as_py(), path.parent, f"{path}, row {row}") or b""


def _stat(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns
