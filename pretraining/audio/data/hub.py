"""Recordings of anything that `datasets` loads, decoded here: neither torchcodec nor FFmpeg is needed."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretraining.audio.data.clips import EncodedClip
from pretraining.audio.data.files import GivenRecordings, cell_clip
from pretraining.data.files import say
from pretraining.data.hub import load
from pretraining.data.splits import described, names_of_splits


@dataclass(kw_only=True, eq=False)
class HubAudio(GivenRecordings):
    """Whatever `datasets` loads: a name on the hub or a local directory; `name:configuration` where it has several.

    `column` holds recordings, or paths of local ones.
    """

    name: str
    column: str = "audio"

    def __post_init__(self) -> None:
        super().__post_init__()
        splits = load(self.name)
        names = names_of_splits(splits) if len(splits) > 1 else {"train": next(iter(splits))}
        if "train" not in names:
            raise ValueError(
                f"data.name={self.name} has the splits {', '.join(splits)}, but no train: choose another data set"
            )
        unused = [part for part in splits if part not in names.values()]
        say(described(f"data.name={self.name}", {split: [part] for split, part in names.items()}, unused))
        self.parts = {split: self._encoded(splits[part]) for split, part in names.items()}

    def _encoded(self, part: Any) -> Any:
        """Leave the column of a split alone, as it is stored."""
        import datasets

        if self.column not in part.column_names:
            there = ", ".join(part.column_names)
            raise ValueError(f"data.name={self.name} has no column {self.column!r}, only {there}: set data.column")
        alone = part.select_columns([self.column])
        if isinstance(part.features[self.column], datasets.Audio):
            alone = alone.cast_column(self.column, datasets.Audio(decode=False))
        return alone.with_format(None)

    @property
    def given(self) -> Collection[str]:
        """Name the splits that the data has."""
        return self.parts

    @functools.cache  # noqa: B019  # as long as the data
    def listed(self, split: str) -> list[EncodedClip]:
        """List the recordings of a split in the order of its rows."""
        where = f"data.name={self.name}, split {split}, row"
        return [
            EncodedClip(f"{where} {row}", functools.partial(self._read, split, row), self.mono)
            for row in range(len(self.parts[split]))
        ]

    def _read(self, split: str, row: int) -> bytes:
        place = f"data.name={self.name}, split {split}, row {row}"
        cell = self.parts[split][row][self.column]
        return cell_clip(cell, place, Path(), self.mono, f"data.column={self.column}").read()

    def identity(self, split: str) -> dict[str, Any]:
        """Name the splits by what `datasets` knows them by."""
        known = {name: part._fingerprint for name, part in self.parts.items()}
        return {"hub": known, "split": split, "mono": self.mono, "column": self.column}
