"""Which tokens make a row: plans over a corpus, and the reading of their rows.

Shapes: R rows of a plan, P pieces, N tokens, D documents, B rows that are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretraining.cache import build_once, key
from pretraining.random import permuted
from pretraining.text.corpus.corpus import Corpus, expand_runs
from pretraining.text.packing import best_fit, cut

FORMAT = 1  # raised when the same arguments would give another plan


class Rows(NamedTuple):
    """Row r is the pieces offsets[r]:offsets[r + 1]; a piece is `lengths` tokens of the corpus from `starts` on."""

    offsets: np.ndarray  # int64 [R + 1]
    starts: np.ndarray  # int64 [P]
    lengths: np.ndarray  # int64 [P]
    columns: dict[str, np.ndarray]  # [R] each


class TextExamples(NamedTuple):
    """Rows as they are read: no special tokens yet, no padding."""

    tokens: np.ndarray  # uint16 or uint32 [N], row after row
    piece_lengths: np.ndarray  # int64 [P]
    row_pieces: np.ndarray  # int64 [B], pieces of each row
    columns: dict[str, np.ndarray]  # [B] each


class PlannedText:
    """Serves the rows of a plan, or of one plan per epoch (`plan(epoch)`)."""

    def __init__(self, corpus: Corpus, plan: Rows | Callable[[int], Rows]) -> None:
        self.corpus, self._plan = corpus, plan
        self._latest: tuple[int, Rows] | None = None

    @property
    def class_count(self) -> int | None:
        """Count the classes of the documents; None without labels."""
        return self.corpus.class_count

    def __getstate__(self) -> dict[str, Any]:
        """Leave the latest plan behind: another process maps it again."""
        return {**self.__dict__, "_latest": None}

    def rows(self, epoch: int) -> Rows:
        """Make or read an epoch's plan; the latest one is kept."""
        if isinstance(self._plan, Rows):
            return self._plan
        if self._latest is None or self._latest[0] != epoch:
            self._latest = epoch, self._plan(epoch)
        return self._latest[1]

    def count(self, epoch: int) -> int:
        """Count the rows of an epoch."""
        return len(self.rows(epoch).offsets) - 1

    def read(self, epoch: int, rows: np.ndarray) -> TextExamples:
        """Read rows by number."""
        plan = self.rows(epoch)
        first = plan.offsets[rows]
        row_pieces = plan.offsets[rows + 1] - first
        pieces = expand_runs(first, row_pieces)
        lengths = plan.lengths[pieces]
        columns = {name: column[rows] for name, column in plan.columns.items()}
        return TextExamples(self.corpus.read(plan.starts[pieces], lengths), lengths, row_pieces, columns)


def pack_documents(corpus: Corpus, max_tokens: int, specials_per_document: int = 2) -> Rows:
    """Fill rows with whole documents by best fit: each goes where it leaves the least room, the longest first.

    A longer document than a row is cut at the last sentence border that fits, a longer sentence where the row ends.
    """

    def build() -> Rows:
        starts, lengths = _cut(corpus, max_tokens, specials_per_document)
        row_of = best_fit(lengths + specials_per_document, max_tokens)
        order = np.argsort(row_of, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.bincount(row_of))]) if len(row_of) else np.zeros(1, np.int64)
        return Rows(offsets.astype(np.int64), starts[order], lengths[order], {})

    return cached_rows(corpus, {"plan": "pack", "max_tokens": max_tokens, "specials": specials_per_document}, build)


def one_document_per_row(corpus: Corpus, max_tokens: int, specials_per_document: int = 2) -> Rows:
    """Make a row of each document, and of each further piece of a long one."""

    def build() -> Rows:
        starts, lengths = _cut(corpus, max_tokens, specials_per_document)
        return Rows(np.arange(len(starts) + 1, dtype=np.int64), starts, lengths, {})

    return cached_rows(corpus, {"plan": "single", "max_tokens": max_tokens, "specials": specials_per_document}, build)


def continuous_rows(corpus: Corpus, row_tokens: int, *, seed: int, epoch: int) -> Rows:
    """Fill rows with documents end to end, in the epoch's order: `row_tokens` tokens each, but for the last one."""
    place = {"row_tokens": row_tokens, "seed": seed, "epoch": epoch}
    parts = {"plan": "continuous", "row_format": FORMAT, **place}
    return cached_rows(corpus, parts, lambda: cut_stream(corpus.sentence_offsets[corpus.document_offsets], **place))


def cut_stream(borders: np.ndarray, row_tokens: int, *, seed: int, epoch: int) -> Rows:
    """Cut documents between `borders` [D + 1], in the epoch's order, into rows."""
    count = len(borders) - 1
    order = permuted(np.arange(count), count, seed=seed, epoch=epoch, stream="continuous_rows")
    behind = np.cumsum(np.diff(borders)[order])  # where each document ends in the stream [D]
    total = int(behind[-1]) if count else 0
    ends = np.unique(np.concatenate([behind, np.arange(row_tokens, total, row_tokens)]))
    ends = ends[ends > 0]
    begins = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    document = np.searchsorted(behind, begins, side="right")
    starts = borders[order[document]] + begins - (behind - np.diff(borders)[order])[document]
    offsets = np.searchsorted(begins, np.arange(0, total, row_tokens))
    offsets = np.append(offsets, len(begins)).astype(np.int64)
    return Rows(offsets, starts.astype(np.int64), (ends - begins).astype(np.int64), {})


def _cut(corpus: Corpus, max_tokens: int, specials_per_document: int) -> tuple[np.ndarray, np.ndarray]:
    if max_tokens <= specials_per_document:
        told = f"{max_tokens} leaves no room for text beside {specials_per_document} special tokens per document"
        raise ValueError(f"data.max_tokens={told}: raise data.max_tokens")
    return cut(corpus.sentence_offsets, corpus.document_offsets, max_tokens - specials_per_document)


def take_rows(examples: TextExamples, rows: np.ndarray) -> TextExamples:
    """Pick some rows of examples, in the order asked for."""
    first_piece = np.cumsum(examples.row_pieces) - examples.row_pieces
    first_token = np.cumsum(examples.piece_lengths) - examples.piece_lengths
    pieces = expand_runs(first_piece[rows], examples.row_pieces[rows])
    tokens = expand_runs(first_token[pieces], examples.piece_lengths[pieces])
    columns = {name: column[rows] for name, column in examples.columns.items()}
    return TextExamples(examples.tokens[tokens], examples.piece_lengths[pieces], examples.row_pieces[rows], columns)


def document_spans(rows: Rows, specials_per_document: int) -> np.ndarray:
    """Measure each document of rows whose pieces are documents, special tokens included. int64 [P]."""
    return np.asarray(rows.lengths) + specials_per_document


def row_spans(rows: Rows, specials_per_row: int) -> np.ndarray:
    """Measure rows whose pieces see each other, special tokens included. int64 [R]."""
    behind = np.concatenate([[0], np.cumsum(rows.lengths, dtype=np.int64)])
    return np.diff(behind[np.asarray(rows.offsets)]) + specials_per_row


def padding_share(rows: Rows, max_tokens: int, specials_per_document: int = 2) -> float:
    """Compute the share of positions that hold padding."""
    used = int(rows.lengths.sum()) + specials_per_document * len(rows.lengths)
    return 1.0 - used / max((len(rows.offsets) - 1) * max_tokens, 1)


def cached_rows(corpus: Corpus, parts: dict[str, Any], build: Callable[[], Rows]) -> Rows:
    """Keep a plan beside its corpus, memory-mapped, built by one rank for all. `parts` is all it depends on."""

    def write(directory: Path) -> None:
        rows = build()
        arrays = {**rows._asdict(), **{f"column.{name}": column for name, column in rows.columns.items()}}
        del arrays["columns"]
        for name, array in arrays.items():
            np.save(directory / f"{name}.npy", array)
        (directory / "plan.json").write_text(json.dumps({**parts, "columns": sorted(rows.columns)}))

    directory = build_once(corpus.directory / "plans" / key({**parts, "format": FORMAT}), write)

    def stored(name: str) -> np.ndarray:
        return np.load(directory / f"{name}.npy", mmap_mode="r").view(np.ndarray)

    columns = {name: stored(f"column.{name}") for name in json.loads((directory / "plan.json").read_text())["columns"]}
    return Rows(stored("offsets"), stored("starts"), stored("lengths"), columns)
