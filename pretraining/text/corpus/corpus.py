"""Tokens on disk: what preparation leaves and plans read from.

A corpus is a directory: manifest.json, shard-*.bin (token ids, uint16 or uint32, whole documents each),
sentence_offsets.npy (int64 [sentences + 1], in tokens), document_offsets.npy (int64 [documents + 1], in sentences),
counts.npy (int64 [vocabulary]). Token positions run through the shards as if they were one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


class Corpus:
    """A prepared split, memory-mapped: opening it reads nothing, and a copy sent to another process opens it again."""

    class_count: int | None = None  # of the documents; None without labels

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.manifest = json.loads((directory / "manifest.json").read_text())
        self.fingerprint: str = self.manifest["fingerprint"]
        self.vocab_size: int = self.manifest["vocab_size"]
        self.num_tokens: int = self.manifest["tokens"]
        self.sentence_offsets = self._array("sentence_offsets.npy")
        self.document_offsets = self._array("document_offsets.npy")
        self.num_sentences = len(self.sentence_offsets) - 1
        self.num_documents = len(self.document_offsets) - 1
        self.shards = [self._shard(shard["file"], shard["tokens"]) for shard in self.manifest["shards"]]
        self._shard_starts = np.cumsum([0, *(len(shard) for shard in self.shards)])

    def __reduce__(self) -> tuple[type[Corpus], tuple[Path]]:
        """Travel to another process as a path."""
        return type(self), (self.directory,)

    def _array(self, name: str) -> np.ndarray:
        return np.load(self.directory / name, mmap_mode="r").view(np.ndarray)

    def _shard(self, name: str, tokens: int) -> np.ndarray:
        path, dtype = self.directory / name, np.dtype(self.manifest["dtype"])
        if path.stat().st_size != tokens * dtype.itemsize:
            told = f"{path} holds {path.stat().st_size} bytes where its manifest says {tokens * dtype.itemsize}"
            raise ValueError(f"{told}: delete {self.directory}, and it will be prepared again")
        return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)

    def read(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Gather runs of tokens, each within one document, one after the other. uint16 or uint32 [sum of lengths]."""
        if len(self.shards) == 1:
            return self.shards[0].take(expand_runs(starts, lengths))
        shards = np.searchsorted(self._shard_starts, starts, side="right") - 1
        first = starts - self._shard_starts[shards]
        # A batch's runs are spread over all shards, most of which get one or two: slices are cheaper than gathers.
        slices = zip(shards.tolist(), first.tolist(), (first + lengths).tolist(), strict=True)
        pieces = [self.shards[shard][start:stop] for shard, start, stop in slices]
        return np.concatenate([np.empty(0, self.shards[0].dtype), *pieces])

    def facts(self) -> dict[str, Any]:
        """Describe what it holds and where it lies."""
        return {
            "documents": self.num_documents,
            "sentences": self.num_sentences,
            "tokens": self.num_tokens,
            "unigram_entropy": round(self.unigram_entropy(), 4),
            "directory": str(self.directory),
        }

    def counts(self) -> np.ndarray:
        """Read how often each token of the vocabulary occurs. int64 [vocabulary]."""
        return np.load(self.directory / "counts.npy")

    def unigram_entropy(self) -> float:
        """Compute the entropy of this split's own token distribution, in nats per token.

        A model that knows how often each token occurs in this very split, and nothing else, predicts at this loss.
        """
        counts = self.counts()
        return entropy(counts / counts.sum())


def entropy(shares: np.ndarray) -> float:
    """Compute the entropy of a distribution, in nats."""
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def expand_runs(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """List the positions in runs, one run after the other. int64 [sum of lengths]."""
    positions = np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
    positions += np.arange(len(positions))
    return positions
