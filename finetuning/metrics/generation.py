"""How far written texts agree with references: BLEU and chrF by sacrebleu, ROUGE by rouge-score, exact match.

BLEU and chrF run from 0 to 100; ROUGE (F1 with stemming, the best reference counts) and exact match from 0 to 1.

Shapes: N examples.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from finetuning.metrics.bootstrap import Intervals, Numbers, drawn_counts, interval
from pretraining.errors import RunError

LACKING = "texts are judged by sacrebleu and rouge-score, which are not installed: pip install 'pretraining[tasks]'"
ROUGE = ("rouge1", "rouge2", "rougeL")


def summary(references: list[list[str]], predictions: list[str]) -> Numbers:
    """Judge a corpus; each example has one or more references."""
    columns = _columns(references)
    values = {
        name: float(metric.corpus_score(predictions, columns).score) for name, metric in _corpus_metrics().items()
    }
    return values | {name: float(each.mean()) for name, each in per_example(references, predictions).items()}


def per_example(references: list[list[str]], predictions: list[str]) -> dict[str, np.ndarray]:
    """Judge each example by what is a mean over examples: ROUGE and exact match. [N] each"""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise RunError(LACKING) from error
    scorer = RougeScorer(list(ROUGE), use_stemmer=True)
    pairs = list(zip(references, predictions, strict=True))
    scored = [scorer.score_multi(known, text) for known, text in pairs]
    values = {name: np.array([row[name].fmeasure for row in scored]) for name in ROUGE}
    return values | {"exact_match": np.array([float(_plain(text) in map(_plain, known)) for known, text in pairs])}


def sentence_chrf(references: list[list[str]], predictions: list[str]) -> np.ndarray:
    """Judge each example by chrF, for paired tests of two runs. [N]"""
    chrf, pairs = _corpus_metrics()["chrf"], zip(predictions, references, strict=True)
    return np.array([chrf.sentence_score(text, known).score for text, known in pairs])


def intervals(references: list[list[str]], predictions: list[str]) -> Intervals:
    """Bootstrap everything over examples; corpus scores from each example's own counts: no text is read twice."""
    size, columns = len(predictions), _columns(references)
    draws = drawn_counts(np.full(size, 1 / size), size)  # [resamples, N]
    samples = {name: draws @ each / size for name, each in per_example(references, predictions).items()}
    for name, metric in _corpus_metrics().items():
        # sacrebleu's own bootstrap is made of these two, but tells half a width instead of the two ends.
        counts = np.array(metric._extract_corpus_statistics(predictions, columns), float)
        samples[name] = np.array([metric._compute_score_from_stats(row).score for row in draws @ counts])
    return {name: interval(values) for name, values in samples.items()}


def _corpus_metrics() -> dict[str, Any]:
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise RunError(LACKING) from error
    return {"bleu": BLEU(), "chrf": CHRF()}


def check_libraries() -> None:
    """Judge something, which tells what is not installed."""
    summary([["a"]], ["a"])


def _columns(references: list[list[str]]) -> list[list[str | None]]:
    """Turn each example's references into sacrebleu's form: a list per place, None where an example has no such one."""
    most = max(map(len, references))
    return [[known[place] if place < len(known) else None for known in references] for place in range(most)]


def _plain(text: str) -> str:
    return " ".join(text.split())
