"""Recordings with captions of the user's: tables that name audio files, or hold them, and what is said of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pretraining.audio.data.clips import EncodedClip, Mono
from pretraining.data.files import TABLES, Paths, say
from pretraining.data.labels import present
from pretraining.data.tables import MissingColumnError, Table, read_table
from pretraining.pairs.data.base import naming
from pretraining.pairs.data.captions import captions_of, in_splits
from pretraining.pairs.data.contents import Content, Seen, Stored
from pretraining.pairs.data.sounds import Heard, Sounds
from pretraining.text.data.files import files_of_splits


class Captioned(NamedTuple):
    """A recording that is still encoded, and all that is said of it."""

    name: str  # as it is written, or of its content: what decides its split
    clip: EncodedClip
    identity: str  # changes with its content
    content: Content  # the encoded recording, to be told from others
    captions: list[str]


@dataclass(kw_only=True, eq=False)
class AudioTextFiles(Sounds):
    """Tables (captions.jsonl, .csv, .parquet, ...) with the columns `audio` and `text`, as `ImageTextFiles` has images.

    `audio` is a file's path, seen from the table's folder, or holds the encoded recording (bytes, or {bytes, path}).
    `mono` says what becomes of several channels.
    """

    path: Paths | Mapping[str, Paths]
    columns: Mapping[str, str] = field(default_factory=lambda: {"audio": "audio", "text": "text"})
    shares: Mapping[str, float] = field(default_factory=lambda: {"validation": 0.1, "test": 0.1})
    mono: Mono = "mean"
    found: dict[str, list[Captioned]] = field(init=False, repr=False)
    eval_batch_size: int = 64
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {split: self._read(files) for split, files in files_of_splits(self.path, TABLES).items()}
        self.found = in_splits(given, self.shares, f"data.path={self.path}", "recordings")
        counts = ", ".join(f"{len(part)} {split}" for split, part in self.found.items())
        say(f"data.path={self.path}: {counts} recordings")

    def heard(self, split: str) -> list[Heard]:
        """List a split's recordings in the order of the tables."""
        return [Heard(one.clip, one.captions) for one in self.found[split]]

    def identity(self, split: str) -> dict[str, Any]:
        """Name the recordings' contents, or their files' sizes and times, and what is said of them."""
        listed = [[one.identity, one.captions] for one in self.found[split]]
        return {"recordings": listed, "split": split, "mono": self.mono}

    def _read(self, files: list[Path]) -> Iterator[Captioned]:
        """Read the rows of tables that belong together."""
        audio, text = self.columns["audio"], self.columns["text"]
        try:
            table = read_table(files, [audio, text])
        except MissingColumnError as error:
            told = f"{error.place} has no column {error.name!r}: set data.columns to two of {', '.join(error.there)}"
            raise ValueError(told) from error
        table = present(
            {"": table}, {"data.columns.audio": audio, "data.columns.text": text}, label=None, droppable=False
        )[""]
        named = naming(files)
        cells = zip(table.columns[text], map(table.place, range(table.size)), strict=True)
        for row, said in enumerate(captions_of(cells, "a recording")):
            yield self._recording(table, row, audio, files, named)._replace(captions=said)

    def _recording(
        self, table: Table, row: int, column: str, files: list[Path], named: Callable[[Path], str]
    ) -> Captioned:
        """Find what a cell means: a file, or the content of one."""
        cell, place = table.columns[column][row], table.place(row)
        if isinstance(cell, Mapping):
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, bytes):
            content, name = cell, hashlib.sha256(cell).hexdigest()
            return Captioned(name, EncodedClip(place, lambda: content, self.mono), name, Seen.of(content), [])
        if not isinstance(cell, str) or not cell:
            raise ValueError(f"{place} has the recording {cell!r:.40}: give a file's path, or the bytes of one")
        file = files[table.source[row]].parent / cell
        if not file.is_file():
            raise ValueError(
                f"{place}: the recording {cell} does not exist ({file}): correct its path, or drop the row"
            )
        stat = file.stat()
        clip = EncodedClip(f"{file} ({place})", file.read_bytes, self.mono)
        identity = f"{cell},{stat.st_size},{stat.st_mtime_ns}"
        return Captioned(named(file), clip, identity, Stored(file, 0, stat.st_size), [])
