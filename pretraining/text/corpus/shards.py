"""Writes a corpus shard by shard, so that a killed preparation goes on after its last finished one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretraining.cache import replace_file, replace_text, reserve, sha256

SHARD_TOKENS = 2**24  # closes a shard: 32 MB of uint16, some 70 MB of English, 20 s of one core's work


class Tokenized(NamedTuple):
    """Some documents as tokens."""

    tokens: np.ndarray  # uint16 or uint32, flat
    sentence_lengths: np.ndarray  # int32 [sentences], in tokens
    document_lengths: np.ndarray  # int32 [documents], in sentences


class ShardWriter:
    """Collects tokenized units and writes a shard when it is full.

    `units` counts the units in finished shards, of this run or an earlier one. A shard is complete when its .bin
    exists: its lengths (.npz) are written before, and both are renamed into place.
    """

    def __init__(self, directory: Path, *, dtype: str, vocab_size: int) -> None:
        self.directory, self.dtype, self.vocab_size = directory, np.dtype(dtype), vocab_size
        self.finished, self.units = 0, 0
        while self._path(self.finished, "bin").exists():
            self.units = int(np.load(self._path(self.finished, "npz"))["units"])
            self.finished += 1
        self._pending: list[Tokenized] = []
        self.pending_tokens, self._pending_units = 0, 0

    def _path(self, shard: int, suffix: str) -> Path:
        return self.directory / f"shard-{shard:05d}.{suffix}"

    def add(self, unit: Tokenized) -> None:
        """Take the next unit."""
        self._pending.append(unit)
        self.pending_tokens += len(unit.tokens)
        self._pending_units += 1
        if self.pending_tokens >= SHARD_TOKENS:
            self._close_shard()

    def _close_shard(self) -> None:
        tokens, sentences, documents = map(np.concatenate, zip(*self._pending, strict=True))
        self.units += self._pending_units
        counts = np.bincount(tokens, minlength=self.vocab_size)

        with replace_file(self._path(self.finished, "npz"), "wb") as file:
            np.savez(file, sentences=sentences, documents=documents, counts=counts, units=self.units)
        with replace_file(self._path(self.finished, "bin"), "wb") as file:
            file.write(tokens.astype(self.dtype, copy=False).tobytes())
        self.finished += 1
        self._pending, self.pending_tokens, self._pending_units = [], 0, 0

    def finish(self, facts: dict[str, Any]) -> None:
        """Write the offsets of the whole and the manifest, which holds `facts` too."""
        if self.pending_tokens:
            self._close_shard()
        counts, sizes = np.zeros((self.finished, self.vocab_size), np.int64), {"sentences": 0, "documents": 0}
        for number in range(self.finished):
            with np.load(self._path(number, "npz")) as shard:
                counts[number] = shard["counts"]
                sizes = {part: size + len(shard[part]) for part, size in sizes.items()}
        np.save(self.directory / "counts.npy", counts.sum(0))
        self._write_offsets("sentence_offsets.npy", "sentences", sizes["sentences"])
        self._write_offsets("document_offsets.npy", "documents", sizes["documents"])
        files = [self._path(number, "bin").name for number in range(self.finished)]
        arrays = ["sentence_offsets.npy", "document_offsets.npy", "counts.npy"]
        manifest = {
            **facts,
            "vocab_size": self.vocab_size,
            "dtype": self.dtype.name,
            "tokens": int(counts.sum()),
            **sizes,
            "shards": [{"file": file, "tokens": int(part.sum())} for file, part in zip(files, counts, strict=True)],
            "sha256": {name: sha256(self.directory / name) for name in [*files, *arrays]},
        }
        replace_text(self.directory / "manifest.json", json.dumps(manifest, indent=2))
        for number in range(self.finished):
            self._path(number, "npz").unlink()

    def _write_offsets(self, name: str, part: str, size: int) -> None:
        """Turn the shards' lengths into running offsets, one shard in memory at a time."""
        offsets = np.lib.format.open_memmap(self.directory / name, mode="w+", dtype=np.int64, shape=(size + 1,))
        reserve(self.directory / name)
        offsets[0], filled = 0, 0
        for number in range(self.finished):
            lengths = np.load(self._path(number, "npz"))[part]
            offsets[filled + 1 : filled + 1 + len(lengths)] = offsets[filled] + np.cumsum(lengths, dtype=np.int64)
            filled += len(lengths)
        offsets.flush()
