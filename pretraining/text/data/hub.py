"""Text of anything that `datasets.load_dataset` takes, read once into local files; training reads no stream."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from pretraining.cache import build_once, key
from pretraining.data import hub
from pretraining.data.files import say
from pretraining.data.splits import carved, described, names_of_splits
from pretraining.text.corpus.prepare import Preparation
from pretraining.text.data.base import TextData, shares_of
from pretraining.text.data.files import missing_column, read_texts

ROWS_PER_GROUP = 1000


@dataclass(kw_only=True, eq=False)
class HubText(TextData):
    """A text column of a data set of the hub or of a local directory; `name:configuration` where it has several.

    At most `max_bytes` of each split are read. A split that the data set lacks is cut out of its training documents by
    their hash, with `preparation.validation_share` and `test_share`. What was read is kept: delete the cache to read a
    newer version from the hub.
    """

    name: str
    max_bytes: int = 10_000_000_000
    preparation: Preparation = TextData.preparation

    @functools.cached_property
    def _state(self) -> list[Any]:
        """Tell versions of a local directory apart."""
        root = Path(self.name).expanduser()
        files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else []
        return [(path.relative_to(root).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files]

    @functools.cached_property
    def given(self) -> dict[str, str]:
        """Map our splits to the names that the data set has for them."""
        place = self.cache_dir / "hub" / key({"name": self.name, "state": self._state})
        there = json.loads((build_once(place, self._write_splits) / "splits.json").read_text())
        given = names_of_splits(there)
        if "train" not in given:
            raise ValueError(
                f"data.name={self.name} has the splits {there}, but none is called train: choose one that has it"
            )
        say(
            described(
                f"data.name={self.name}",
                {split: [name] for split, name in given.items()},
                sorted({*there} - {*given.values()}),
            )
        )
        return given

    def _write_splits(self, directory: Path) -> None:
        (directory / "splits.json").write_text(json.dumps(hub.split_names(self.name)))

    def _local(self, split: str) -> Path:
        """Find what was read of one of the data set's splits, or read it: a directory."""
        parts = {"name": self.name, "state": self._state, "split": self.given[split], "max_bytes": self.max_bytes}
        place = self.cache_dir / "hub" / key({**parts, "column": self.preparation.text_column})
        return build_once(place, functools.partial(self._read, self.given[split]))

    def _read(self, split: str, directory: Path) -> None:
        """Write the column's values to texts.parquet until they make `max_bytes`, and what they are to facts.json."""
        column, digest, size, nulls, rows = self.preparation.text_column, hashlib.sha256(), 0, 0, 0
        place = f"data.name={self.name}, split {split}"
        schema = pyarrow.schema([("text", pyarrow.string())])
        with pyarrow.parquet.ParquetWriter(directory / "texts.parquet", schema, compression="zstd") as writer:
            records = iter(hub.records(self.name, split))
            while size < self.max_bytes and (group := self._next(records)):
                if column not in group[0]:
                    raise ValueError(missing_column(place, column, sorted(group[0])))
                texts = [record[column] or "" for record in group]
                odd = next((row for row, text in enumerate(texts) if not isinstance(text, str)), None)
                if odd is not None:
                    raise ValueError(
                        f"{place}, row {rows + odd}: column {column!r} is not text ({texts[odd]!r:.40}): set "
                        "data.preparation.text_column to one that is"
                    )
                for text in texts:
                    digest.update(text.encode() + b"\0")
                    size += len(text.encode())
                nulls, rows = nulls + sum(record[column] is None for record in group), rows + len(group)
                writer.write_batch(pyarrow.record_batch([texts], schema=schema))
        if nulls:
            say(f"{place}: {nulls} of {rows} texts are null and left out")
        (directory / "facts.json").write_text(json.dumps({"sha256": digest.hexdigest(), "bytes": size}))

    def _next(self, records: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
        with hub.explained(self.name):
            return list(itertools.islice(records, ROWS_PER_GROUP))

    def _facts(self, split: str) -> dict[str, Any]:
        return json.loads((self._local(split) / "facts.json").read_text())

    def identity(self) -> dict[str, Any]:
        """Name what was read by its content."""
        contents = {split: self._facts(split)["sha256"] for split in sorted(self.given)}
        return {"contents": contents, "shares": [*shares_of(self.preparation).values()]}

    def num_bytes(self, split: str) -> int | None:
        """Look up the size of the split's text where the data set has that split."""
        return self._facts(split)["bytes"] if split in self.given and split != "train" else None

    def texts(self, split: str) -> Iterator[str]:
        """Read the documents of a split in the data set's order."""
        stored = self._local(split if split in self.given else "train") / "texts.parquet"
        texts = read_texts(stored, column="text", layout="files")
        return carved(texts, split, self.given, shares_of(self.preparation, self.given))
