"""Which tokens make a row: plans over a corpus, the reading of their rows, and laying them out with special tokens.

Shapes: R rows of a plan, P pieces, N tokens; B rows of a batch, T tokens of a row.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from pretraining.cache import build_once, key
from pretraining.text.corpus.corpus import Corpus
from pretraining.text.packing import best_fit, cut

FORMAT = 1  # raised when the same arguments would give another plan


class Rows(NamedTuple):
    """Row r is the pieces offsets[r]:offsets[r + 1]; a piece is `lengths` tokens of the corpus from `starts` on, and sees only itself."""

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


class SpecialTokens(Protocol):
    """What laying rows out needs of a preprocess."""

    pad_id: int | None
    bos_id: int | None
    eos_id: int | None


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
        """Give an epoch's plan; the latest one is kept."""
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
        before = np.cumsum(row_pieces) - row_pieces
        pieces = np.repeat(first - before, row_pieces) + np.arange(row_pieces.sum())
        lengths = plan.lengths[pieces]
        columns = {name: column[rows] for name, column in plan.columns.items()}
        return TextExamples(self.corpus.read(plan.starts[pieces], lengths), lengths, row_pieces, columns)


def pack_documents(corpus: Corpus, max_tokens: int, specials_per_document: int = 2) -> Rows:
    """Fill rows with whole documents by best fit: each goes where it leaves the least room, the longest first.

    A document longer than a row is cut at the last sentence border that fits; a sentence longer than a row is cut where the row
    ends. The pieces of a document are rows' pieces like any other.
    """

    def build() -> Rows:
        starts, lengths = cut(
            corpus.sentence_offsets, corpus.document_offsets, _capacity(max_tokens, specials_per_document)
        )
        row_of = best_fit(lengths + specials_per_document, max_tokens)
        order = np.argsort(row_of, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.bincount(row_of))]) if len(row_of) else np.zeros(1, np.int64)
        return Rows(offsets.astype(np.int64), starts[order], lengths[order], {})

    return cached_rows(corpus, {"plan": "pack", "max_tokens": max_tokens, "specials": specials_per_document}, build)


def one_document_per_row(corpus: Corpus, max_tokens: int, specials_per_document: int = 2) -> Rows:
    """Give each document a row of its own, and each further piece of a long one another."""

    def build() -> Rows:
        starts, lengths = cut(
            corpus.sentence_offsets, corpus.document_offsets, _capacity(max_tokens, specials_per_document)
        )
        return Rows(np.arange(len(starts) + 1, dtype=np.int64), starts, lengths, {})

    return cached_rows(corpus, {"plan": "single", "max_tokens": max_tokens, "specials": specials_per_document}, build)


def _capacity(max_tokens: int, specials_per_document: int) -> int:
    if max_tokens <= specials_per_document:
        raise ValueError(
            f"data.max_tokens={max_tokens} leaves no room for text beside {specials_per_document} special tokens per document: "
            "raise data.max_tokens"
        )
    return max_tokens - specials_per_document


def take_rows(examples: TextExamples, rows: np.ndarray) -> TextExamples:
    """Give some rows of examples, in the order asked for."""
    pieces = _runs(np.cumsum(examples.row_pieces) - examples.row_pieces, examples.row_pieces, rows)
    tokens = _runs(np.cumsum(examples.piece_lengths) - examples.piece_lengths, examples.piece_lengths, pieces)
    columns = {name: column[rows] for name, column in examples.columns.items()}
    return TextExamples(examples.tokens[tokens], examples.piece_lengths[pieces], examples.row_pieces[rows], columns)


def _runs(starts: np.ndarray, lengths: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """List the places of the chosen runs, one run after the other."""
    sizes = lengths[chosen]
    ends = np.cumsum(sizes)
    return np.repeat(starts[chosen] - ends + sizes, sizes) + np.arange(ends[-1] if len(ends) else 0)


def document_spans(rows: Rows, specials_per_document: int) -> np.ndarray:
    """Give the tokens of each document of rows whose pieces are documents, special tokens included. int64 [P]."""
    return np.asarray(rows.lengths) + specials_per_document


def row_spans(rows: Rows, specials_per_row: int) -> np.ndarray:
    """Give the tokens of each row whose pieces see each other, special tokens included. int64 [R]."""
    behind = np.concatenate([[0], np.cumsum(rows.lengths, dtype=np.int64)])
    return np.diff(behind[np.asarray(rows.offsets)]) + specials_per_row


def padding_share(rows: Rows, max_tokens: int, specials_per_document: int = 2) -> float:
    """Compute the share of positions that hold padding."""
    used = int(rows.lengths.sum()) + specials_per_document * len(rows.lengths)
    return 1.0 - used / max((len(rows.offsets) - 1) * max_tokens, 1)


def cached_rows(corpus: Corpus, parts: dict[str, Any], build: Callable[[], Rows]) -> Rows:
    """Keep a plan beside its corpus, memory-mapped: the same for each rank, built by one of them. `parts` is all it depends on."""

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


def assemble(
    examples: TextExamples, max_tokens: int, preprocess: SpecialTokens
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay pieces out as `[CLS] piece [SEP] [CLS] piece [SEP] … padding`.

    Gives input_ids int32 [B, T]; documents int32 [B, T], the pieces of a row numbered from 1 and padding 0; special bool [B, T], True
    wherever no token of text stands, padding included.
    """
    bos_id, eos_id = preprocess.bos_id, preprocess.eos_id
    spans = examples.piece_lengths + ((bos_id is not None) + (eos_id is not None))
    rows = len(examples.row_pieces)
    behind = np.cumsum(examples.row_pieces)  # the piece behind each row's last
    ends = np.concatenate([[0], np.cumsum(spans)])
    used = ends[behind] - ends[behind - examples.row_pieces]
    if rows and used.max() > max_tokens:
        raise ValueError(
            f"a row of {used.max()} tokens, special ones included, does not fit into max_tokens={max_tokens}: plan shorter rows"
        )
    room = max_tokens - used
    # Each row is a run of its pieces and one of padding: the runs fill [B, T] without a gap.
    runs = np.insert(spans, behind, room)
    numbers = np.arange(1, len(spans) + 1) - np.repeat(behind - examples.row_pieces, examples.row_pieces)
    documents = np.repeat(np.insert(numbers, behind, 0).astype(np.int32), runs)
    starts = ends[:-1] + np.repeat(np.cumsum(room) - room, examples.row_pieces)
    input_ids = np.full(rows * max_tokens, 0 if preprocess.pad_id is None else preprocess.pad_id, dtype=np.int32)
    special = documents == 0
    for token_id, places in ((bos_id, starts), (eos_id, starts + spans - 1)):
        if token_id is not None:
            input_ids[places] = token_id
            special[places] = True
    input_ids[~special] = examples.tokens
    shape = (rows, max_tokens)
    return input_ids.reshape(shape), documents.reshape(shape), special.reshape(shape)
