"""What a row of text costs: documents are unpadded and see only themselves, which no measured batch shows.

Shapes: B rows, T tokens, S spans of a plan: runs of tokens that see each other, special tokens included.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pretraining.data.loader import EVALUATION_SEED
from pretraining.random import Keys
from pretraining.text.plan import Rows, document_spans

SAMPLED_ROWS = 512


class TextRow(NamedTuple):
    """An average row of text as FLOP counters take it: means over rows, padding excluded."""

    read: float  # tokens that the network (the encoder, where there are two) reads
    seen: float  # tokens that each of them sees: those of its document, itself included
    tokens: float  # of the text, as budgets count them
    target_positions: float = 0.0  # tokens that are scored over the vocabulary; of a decoder, all that it writes
    written_seen: float = 0.0  # tokens of its target that each of those sees


def average_text_row(source: Any, collate: Any, preprocess: Any) -> TextRow:
    """Average a split's rows: their tokens over the whole plan, what becomes of them over `SAMPLED_ROWS` of it."""
    count = source.count(0)
    rows = np.unique(np.linspace(0, count - 1, min(count, SAMPLED_ROWS)).astype(np.int64))
    # Halfway through the run, which is the mean of what changes linearly over it.
    batch = collate(source.read(0, rows), Keys(EVALUATION_SEED, "validation", np.zeros_like(rows), rows, 0.5))
    tokens = float(spans_of(source.rows(0), collate, preprocess).sum()) / count
    each = tokens / batch["units"]
    document_ids = batch["inputs"]["document_ids"].numpy()
    numbered = document_ids + np.arange(len(document_ids))[:, None] * (document_ids.max(initial=0) + 1)
    spans, written = _sizes(numbered[document_ids > 0]), np.zeros(0)
    if "decoder_input_ids" in batch:
        targets = batch["target_positions"][batch["labels"] >= 0].numpy()
        written = _sizes(targets // batch["decoder_input_ids"].shape[1])
    return TextRow(
        read=float(spans.sum()) * each,
        seen=_seen(spans),
        tokens=tokens,
        target_positions=each * int((batch["labels"] >= 0).sum()) if "labels" in batch else 0.0,
        written_seen=_seen(written),
    )


def spans_of(rows: Rows, collate: Any, preprocess: Any) -> np.ndarray:
    """Ask the collate how it lays rows out; without an answer, each piece is a document of its own. float64 [S]."""
    if hasattr(collate, "spans"):
        return np.asarray(collate.spans(rows), dtype=np.float64)
    return document_spans(rows, preprocess.specials_per_document).astype(np.float64)


def _sizes(members: np.ndarray) -> np.ndarray:
    """Count the tokens of each document or row from the numbers of those that tokens belong to. float64."""
    return np.unique(members, return_counts=True)[1].astype(np.float64)


def _seen(spans: np.ndarray) -> float:
    """Count the tokens that an average token sees, itself included."""
    return float((spans**2).sum() / max(spans.sum(), 1.0))
