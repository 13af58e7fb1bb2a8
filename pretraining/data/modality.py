"""What differs between text and images when a run is put together; everything else treats them alike.

Shapes: S spans of a plan: runs of tokens that see each other, special tokens included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pretraining.backbones.base import TextRow
from pretraining.data.loader import EVALUATION_SEED, Source
from pretraining.data.plan import Rows, document_spans
from pretraining.random import Keys

SAMPLED_ROWS = 512


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


def class_count(source: Any) -> int | None:
    """Count the classes of a split's labels; None where it has none."""
    return getattr(source, "class_count", None)


def require_classes(source: Any, wanted: int | None) -> int:
    """Give the number of classes to learn: `wanted`, or all that the training data has. Data without labels are an error."""
    found = class_count(source)
    if found is None:
        raise ValueError(
            "this objective learns from labels, but the training data has none: put each class into a folder of its name, name the "
            "label column of a table, or choose an objective that needs no labels"
        )
    if wanted is not None and wanted < found:
        raise ValueError(f"objective.classes={wanted}, but the training data has {found}: set objective.classes={found} or null")
    return found if wanted is None else wanted


def average_shape(source: Any, collate: Any, preprocess: Any) -> Sequence[float]:
    """Give an average row as FLOP counters take it: a `TextRow`, or (channels, height, width).

    The tokens of text are counted in the whole plan; what becomes of them, hidden, damaged or written, in `SAMPLED_ROWS` of it.
    """
    if preprocess.modality != "text":
        return (preprocess.channels, preprocess.size, preprocess.size)
    count = source.count(0)
    rows = np.unique(np.linspace(0, count - 1, min(count, SAMPLED_ROWS)).astype(np.int64))
    # Halfway through the run, which is the mean of what changes linearly over it.
    batch = collate(source.read(0, rows), Keys(EVALUATION_SEED, "validation", np.zeros_like(rows), rows, 0.5))
    tokens = float(_spans(source.rows(0), collate, preprocess).sum()) / count
    each = tokens / batch["tokens"]
    spans = _runs(batch["documents"].numpy())
    written = _targets(batch) if "decoder_input_ids" in batch else np.zeros(0)
    return TextRow(
        read=float(spans.sum()) * each,
        seen=_seen(spans),
        tokens=tokens,
        predicted=each * int((batch["labels"] >= 0).sum()) if "labels" in batch else 0.0,
        written_seen=_seen(written),
    )


def _runs(documents: np.ndarray) -> np.ndarray:
    """Give the lengths of a batch's documents [B, T], padding left out. float64 [S]."""
    numbered = documents + np.arange(len(documents))[:, None] * (documents.max(initial=0) + 1)
    return np.unique(numbered[documents > 0], return_counts=True)[1].astype(np.float64)


def _targets(batch: Mapping[str, Any]) -> np.ndarray:
    """Give the lengths of the rows that a decoder writes. float64 [B]."""
    rows = batch["predicted"][batch["labels"] >= 0].numpy() // batch["decoder_input_ids"].shape[1]
    return np.unique(rows, return_counts=True)[1].astype(np.float64)


def _seen(spans: np.ndarray) -> float:
    """Give how many tokens an average token sees, itself included."""
    return float((spans**2).sum() / max(spans.sum(), 1.0))


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
