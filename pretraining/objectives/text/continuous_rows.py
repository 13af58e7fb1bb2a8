"""Full rows without padding: documents in a keyed order, end to end, cut every so many tokens. Shapes: D documents, P pieces, R rows."""

from __future__ import annotations

import numpy as np

from pretraining.random import permuted
from pretraining.text.corpus.corpus import Corpus
from pretraining.text.plan import Rows, cached_rows

FORMAT = 1  # raised when the same arguments would give other rows


def continuous_rows(corpus: Corpus, row_tokens: int, *, seed: int, epoch: int) -> Rows:
    """Give rows of exactly `row_tokens` tokens; only an epoch's last may be shorter. Each epoch has other neighbours and borders."""
    parts = {"plan": "continuous", "row_format": FORMAT, "row_tokens": row_tokens, "seed": seed, "epoch": epoch}

    def build() -> Rows:
        return cut_stream(corpus.sentence_offsets[corpus.document_offsets], row_tokens, seed=seed, epoch=epoch)

    return cached_rows(corpus, parts, build)


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
    return Rows(
        np.append(offsets, len(begins)).astype(np.int64), starts.astype(np.int64), (ends - begins).astype(np.int64), {}
    )
