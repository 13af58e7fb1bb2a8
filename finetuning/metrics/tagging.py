"""Metrics of whole entities as seqeval counts them: BIO or BIOES, malformed sequences included.

Shapes: N sentences.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from finetuning.metrics.bootstrap import Intervals, Numbers, drawn_counts, interval
from pretraining.errors import RunError


def judge() -> Any:
    """Import what judges entities; where it is not installed, an error says what to install."""
    try:
        from seqeval.metrics import sequence_labeling
    except ImportError as error:
        what = "entities are judged by seqeval, which is not installed"
        raise RunError(f"{what}: pip install 'pretraining[tasks]'") from error
    return sequence_labeling


def entities(labels: list[list[str]], predictions: list[list[str]]) -> Numbers:
    """Judge whole entities."""
    library = judge()
    scores = {f"entity_{name}": getattr(library, f"{name}_score") for name in ("precision", "recall", "f1")}
    return {name: float(score(labels, predictions, zero_division=0)) for name, score in scores.items()}


def tag_intervals(labels: list[list[str]], predictions: list[list[str]], with_entities: bool) -> Intervals:
    """Bootstrap word accuracy, and entity precision, recall and F1, over sentences, from each sentence's own counts."""
    pairs = zip(labels, predictions, strict=True)
    counts = np.array([tag_counts(*pair, with_entities) for pair in pairs], float)  # [N, 5]
    right, words, matched, guessed, true = (drawn_counts(np.full(len(counts), 1 / len(counts)), len(counts)) @ counts).T
    values = {"accuracy": right / np.maximum(words, 1)}
    if with_entities:
        values["entity_precision"] = matched / np.maximum(guessed, 1)
        values["entity_recall"] = matched / np.maximum(true, 1)
        values["entity_f1"] = 2 * matched / np.maximum(guessed + true, 1)
    return {name: interval(sample) for name, sample in values.items()}


def tag_counts(labels: list[str], predictions: list[str], with_entities: bool) -> tuple[int, int, int, int, int]:
    """Count one sentence's right words and words, and its entities that are found, guessed and true."""
    true, guessed = (set(judge().get_entities(tags)) if with_entities else set() for tags in (labels, predictions))
    right = sum(label == guess for label, guess in zip(labels, predictions, strict=True))
    return right, len(labels), len(true & guessed), len(guessed), len(true)
