"""What differs between text and images when a run is put together; everything else treats them alike."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from pretraining.data.loader import Source
from pretraining.data.plan import PlannedText, padding_share


def source_of(data: Any, split: str, preprocess: Any, collate: Any, *, seed: int) -> Source:
    """Open a split: text as rows of the collate's plan, images as they are."""
    if data.modality != "text":
        return data.source(split)
    corpus = data.corpus(split, preprocess)
    source = PlannedText(corpus, functools.partial(collate.plan, corpus, seed))
    if split == "train" and source.count(0) < data.batch_size:
        raise ValueError(
            f"the training split makes {source.count(0)} rows of data.max_tokens={data.max_tokens} ({corpus.num_tokens} tokens), less than "
            f"one batch of data.batch_size={data.batch_size}: give more text (data.path=), or lower data.batch_size or data.max_tokens"
        )
    return source


def backbone_arguments(preprocess: Any) -> dict[str, Any]:
    """Give what a backbone must know about its inputs."""
    if preprocess.modality == "text":
        return {"vocab_size": preprocess.vocab_size, "pad_id": preprocess.pad_id}
    return {"in_channels": preprocess.channels}


def average_shape(source: Any, preprocess: Any) -> tuple[int, ...]:
    """Give an average row as FLOP counters take it: (tokens, tokens each sees) without padding, or (channels, height, width)."""
    if preprocess.modality != "text":
        return (preprocess.channels, preprocess.size, preprocess.size)
    rows = source.rows(0)
    spans = np.asarray(rows.lengths) + preprocess.specials_per_document
    return round(float(spans.sum()) / source.count(0)), round(float((spans**2).sum() / spans.sum()))


def facts(train: Any, validation: Any, collate: Any, preprocess: Any) -> dict[str, float]:
    """Give numbers about the data that results are read against."""
    if preprocess.modality != "text":
        return {}
    return {
        "validation/unigram_entropy": validation.corpus.unigram_entropy(),
        "data/padding_share": padding_share(train.rows(0), collate.max_tokens, preprocess.specials_per_document),
    }
