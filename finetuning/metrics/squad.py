"""Exact match and F1 of answers, as the official SQuAD v1 and v2 scripts define them."""

from __future__ import annotations

import re
import string
from collections import Counter

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> str:
    """Lower-case; then remove punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(gold: str, prediction: str) -> float:
    """Tell whether two answers are the same once normalised."""
    return float(normalized(gold) == normalized(prediction))


def f1(gold: str, prediction: str) -> float:
    """Compare two answers as bags of words; where one of them has none, only two empty ones agree (v2)."""
    gold_words, words = normalized(gold).split(), normalized(prediction).split()
    if not gold_words or not words:
        return float(gold_words == words)
    same = sum((Counter(gold_words) & Counter(words)).values())
    return 2 * same / (len(gold_words) + len(words))


def scores(golds: list[list[str]], predictions: list[str]) -> np.ndarray:
    """Compute each question's best exact match and F1 over its answers; without one, "" is right. [N, 2]"""
    rows = []
    for answers, prediction in zip(golds, predictions, strict=True):
        known = [answer for answer in answers if normalized(answer)] or [""]
        rows.append([max(score(gold, prediction) for gold in known) for score in (exact_match, f1)])
    return np.array(rows)


APART = tuple(f"{name}_{kind}" for name in ("exact_match", "f1") for kind in ("answerable", "unanswerable"))


def summary(golds: list[list[str]], predictions: list[str]) -> dict[str, float]:
    """Average over questions; apart for those with and without an answer where both occur."""
    each, answerable = scores(golds, predictions), np.array([bool(answers) for answers in golds])
    values = {"exact_match": float(each[:, 0].mean()), "f1": float(each[:, 1].mean())}
    if answerable.any() and not answerable.all():
        for name, rows in (("answerable", answerable), ("unanswerable", ~answerable)):
            values |= {f"exact_match_{name}": float(each[rows, 0].mean()), f"f1_{name}": float(each[rows, 1].mean())}
    return values
