"""How far recognised texts are from what was said: word and character error rates, as sums over a corpus.

Shapes: N utterances.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetuning.metrics.bootstrap import Intervals, Numbers, drawn_counts, interval


def edit_distance(reference: Sequence[str], prediction: Sequence[str]) -> int:
    """Count the fewest substitutions, deletions and insertions that turn one sequence into the other (Levenshtein)."""
    numbers = {item: number for number, item in enumerate({*reference, *prediction})}
    known = np.array([numbers[item] for item in prediction], np.int64)
    places = np.arange(len(known) + 1)
    row = places.copy()
    for item in reference:
        best = np.minimum(row[1:], row[:-1] - (known == numbers[item])) + 1
        # An insertion costs one more than the place to its left: a running minimum of values less their place.
        row = np.minimum.accumulate(np.concatenate([[row[0] + 1], best]) - places) + places
    return int(row[-1])


def counts(references: list[str], predictions: list[str]) -> np.ndarray:
    """Count each utterance's word errors, words, character errors and characters (spaces included). float64 [N, 4]"""
    rows = []
    for reference, prediction in zip(references, predictions, strict=True):
        words = edit_distance(reference.split(), prediction.split()), len(reference.split())
        rows.append((*words, edit_distance(reference, prediction), len(reference)))
    return np.array(rows, float).reshape(-1, 4)


def summary(references: list[str], predictions: list[str]) -> Numbers:
    """Judge a corpus: errors of all utterances over words (characters) of all; more than 1 is possible."""
    word_errors, words, character_errors, characters = counts(references, predictions).sum(0)
    right = np.mean([reference == said for reference, said in zip(references, predictions, strict=True)])
    rates = {"wer": word_errors / max(words, 1.0), "cer": character_errors / max(characters, 1.0), "exact_match": right}
    return {name: float(value) for name, value in rates.items()}


def intervals(references: list[str], predictions: list[str]) -> Intervals:
    """Bootstrap both rates over utterances."""
    each = counts(references, predictions)
    word_errors, words, character_errors, characters = (
        drawn_counts(np.full(len(each), 1 / len(each)), len(each)) @ each
    ).T
    rates = {"wer": word_errors / np.maximum(words, 1), "cer": character_errors / np.maximum(characters, 1)}
    return {name: interval(values) for name, values in rates.items()}
