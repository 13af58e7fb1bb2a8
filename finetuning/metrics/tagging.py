"""Metrics of whole entities as seqeval counts them: BIO or BIOES, malformed sequences included.

Shapes: N sentences.
"""

from __future__ import annotations

import numpy as np

from finetuning.metrics.bootstrap import Intervals, Numbers, drawn_counts, interval


def entities(labels: list[list[str]], predictions: list[list[str]]) -> Numbers:
    """Judge whole entities."""
    from seqeval.metrics import f1_score, precision_score, recall_score

    scores = {"entity_precision": precision_score, "entity_recall": recall_score, "entity_f1": f1_score}
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
    from seqeval.metrics.sequence_labeling import get_entities

    true, guessed = (set(get_entities(tags)) if with_entities else set() for tags in (labels, predictions))
    right = sum(label == guess for label, guess in zip(labels, predictions, strict=True))
    return right, len(labels), len(true & guessed), len(guessed), len(true)
