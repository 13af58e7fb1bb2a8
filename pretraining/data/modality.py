"""What differs between text and images when a run is put together; everything else treats them alike.

Shapes: S spans of a plan: runs of tokens that see each other, special tokens included.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pretraining.data.loader import EVALUATION_SEED, Source
from pretraining.data.plan import Rows, document_spans


def source_of(data: Any, split: str, preprocess: Any, collate: Any, *, seed: int) -> Source:
    """Open a split: text as rows of the collate's plan, images as they are.

    `seed` decides the training rows; those of the other splits are the same for each run, so that their losses can be compared.
    """
    if data.modality != "text":
        return data.source(split)
    return data.source(split, preprocess, collate.plan, seed=seed if split == "train" else EVALUATION_SEED)


def backbone_arguments(preprocess: Any) -> dict[str, Any]:
    """Give what a backbone must know about its inputs."""
    if preprocess.modality != "text":
        return {"in_channels": preprocess.channels}
    frame = {"first": preprocess.first_id, "last": preprocess.last_id}
    return {"vocab_size": preprocess.vocab_size, "pad_id": preprocess.pad_id, "frame_ids": frame}


def average_shape(source: Any, collate: Any, preprocess: Any) -> tuple[int, ...]:
    """Give an average row as FLOP counters take it: (tokens, tokens each sees) without padding, or (channels, height, width)."""
    if preprocess.modality != "text":
        return (preprocess.channels, preprocess.size, preprocess.size)
    spans = _spans(source.rows(0), collate, preprocess)
    return round(float(spans.sum()) / source.count(0)), round(float((spans**2).sum() / spans.sum()))


def facts(train: Any, validation: Any, collate: Any, preprocess: Any) -> dict[str, float]:
    """Give numbers about the data that results are read against."""
    if preprocess.modality != "text":
        return {}
    spans = _spans(train.rows(0), collate, preprocess)
    # Span corruption shortens its rows before they reach the model, so the longest of them is what a row holds.
    row_tokens = max(collate.max_tokens, int(spans.max(initial=0)))
    return {
        "validation/unigram_entropy": validation.corpus.unigram_entropy(),
        "data/padding_share": 1.0 - float(spans.sum()) / max(train.count(0) * row_tokens, 1),
    }


def _spans(rows: Rows, collate: Any, preprocess: Any) -> np.ndarray:
    """Ask the collate how it lays rows out; without an answer, each piece is a document of its own. float64 [S]."""
    if hasattr(collate, "spans"):
        return np.asarray(collate.spans(rows), dtype=np.float64)
    return document_spans(rows, preprocess.specials_per_document).astype(np.float64)
