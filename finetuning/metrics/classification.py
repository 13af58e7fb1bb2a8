"""Standard metrics, computed by scikit-learn, scipy and seqeval, each with a 95 % bootstrap interval over examples.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics as sk

RESAMPLES = 1000
Numbers = dict[str, float]


def classification(labels: np.ndarray, scores: np.ndarray) -> Numbers:
    """Judge class scores [N, C] (probabilities) against class numbers [N]; averages are over the classes that occur."""
    predictions = scores.argmax(1)
    return {
        **label_metrics(labels, predictions),
        "calibration_error": calibration_error(labels, scores),
        "log_loss": float(surprise(labels, scores).mean()),
    }


def surprise(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Give the negative logarithm of each example's probability of its class. [N]"""
    return -np.log(np.clip(scores[np.arange(len(labels)), labels], 1e-12, None))


def label_metrics(labels: np.ndarray, predictions: np.ndarray) -> Numbers:
    """Judge predicted class numbers [N]."""
    values = {"accuracy": sk.accuracy_score(labels, predictions), "mcc": sk.matthews_corrcoef(labels, predictions)}
    for average in ("macro", "micro"):
        precision, recall, f1, _ = sk.precision_recall_fscore_support(
            labels, predictions, average=average, zero_division=0
        )
        values |= {f"precision_{average}": precision, f"recall_{average}": recall, f"f1_{average}": f1}
    return {name: float(value) for name, value in values.items()}


def top_k(labels: np.ndarray, scores: np.ndarray, k: int) -> float:
    """Give the share of examples whose class is among the `k` best scores."""
    return float(sk.top_k_accuracy_score(labels, scores, k=k, labels=np.arange(scores.shape[1])))


def calibration_error(labels: np.ndarray, scores: np.ndarray, bins: int = 15) -> float:
    """Give the expected calibration error: the mean distance of confidence and accuracy over equal bins of confidence."""
    confidence, correct = scores.max(1), (scores.argmax(1) == labels).astype(float)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(place, correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))


def multi_label(labels: np.ndarray, scores: np.ndarray) -> Numbers:
    """Judge independent class probabilities [N, C] at one half against 0/1 labels [N, C]; accuracy asks for the whole row."""
    predictions = (scores > 0.5).astype(int)
    values = {"accuracy": sk.accuracy_score(labels, predictions), "hamming_loss": sk.hamming_loss(labels, predictions)}
    for average in ("macro", "micro"):
        precision, recall, f1, _ = sk.precision_recall_fscore_support(
            labels, predictions, average=average, zero_division=0
        )
        values |= {f"precision_{average}": precision, f"recall_{average}": recall, f"f1_{average}": f1}
    return {name: float(value) for name, value in values.items()}


def regression(labels: np.ndarray, predictions: np.ndarray) -> Numbers:
    """Judge real predictions [N]; correlations of a constant are 0."""
    constant = np.ptp(predictions) == 0 or np.ptp(labels) == 0
    return {
        "pearson": 0.0 if constant else float(stats.pearsonr(labels, predictions)[0]),
        "spearman": 0.0 if constant else float(stats.spearmanr(labels, predictions)[0]),
        "mse": float(sk.mean_squared_error(labels, predictions)),
        "mae": float(sk.mean_absolute_error(labels, predictions)),
    }


def entities(labels: list[list[str]], predictions: list[list[str]]) -> Numbers:
    """Judge whole entities as seqeval counts them (BIO or BIOES, malformed sequences included)."""
    from seqeval.metrics import f1_score, precision_score, recall_score

    scores = {"entity_precision": precision_score, "entity_recall": recall_score, "entity_f1": f1_score}
    return {name: float(score(labels, predictions, zero_division=0)) for name, score in scores.items()}


def tag_intervals(
    labels: list[list[str]], predictions: list[list[str]], with_entities: bool
) -> dict[str, tuple[float, float]]:
    """Bootstrap word accuracy, and entity precision, recall and F1, over sentences, from each sentence's own counts."""
    counts = np.array(
        [_tag_counts(*row, with_entities) for row in zip(labels, predictions, strict=True)], float
    )  # [N, 5]
    draws = np.random.default_rng(0).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=RESAMPLES)
    right, words, matched, guessed, true = (draws @ counts).T
    values = {"accuracy": right / np.maximum(words, 1)}
    if with_entities:
        values["entity_precision"], values["entity_recall"] = (
            matched / np.maximum(guessed, 1),
            matched / np.maximum(true, 1),
        )
        values["entity_f1"] = 2 * matched / np.maximum(guessed + true, 1)
    return {name: _interval(sample) for name, sample in values.items()}


def _tag_counts(labels: list[str], predictions: list[str], with_entities: bool) -> tuple[int, int, int, int, int]:
    from seqeval.metrics.sequence_labeling import get_entities

    true, guessed = (set(get_entities(tags)) if with_entities else set() for tags in (labels, predictions))
    right = sum(label == guess for label, guess in zip(labels, predictions, strict=True))
    return right, len(labels), len(true & guessed), len(guessed), len(true)


def report(labels: np.ndarray, predictions: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Give precision, recall, F1 and support of each class, and the confusion matrix (rows: truth, columns: prediction)."""
    numbers = np.arange(len(names))
    columns = sk.precision_recall_fscore_support(labels, predictions, labels=numbers, zero_division=0)
    keys = ("precision", "recall", "f1", "support")
    per_class = {
        name: {key: float(column[number]) for key, column in zip(keys, columns, strict=True)}
        for number, name in enumerate(names)
    }
    matrix = sk.confusion_matrix(labels, predictions, labels=numbers)
    return {"per_class": per_class, "classes": names, "confusion_matrix": matrix.tolist()}


def label_intervals(labels: np.ndarray, predictions: np.ndarray) -> dict[str, tuple[float, float]]:
    """Bootstrap accuracy, MCC and macro F1, precision, recall.

    Resampling examples is drawing the cells of the confusion matrix from a multinomial, so a thousand resamples cost one array.
    """
    size = int(max(labels.max(), predictions.max())) + 1
    cells, counts = np.unique(labels * size + predictions, return_counts=True)
    truth, guess = cells // size, cells % size
    draws = (
        np.random.default_rng(0).multinomial(len(labels), counts / len(labels), size=RESAMPLES).astype(float)
    )  # [R, cells]
    of_truth, of_guess, right = (
        draws @ _indicator(places, size) for places in (truth, guess, np.where(truth == guess, truth, -1))
    )
    occurs = (of_truth + of_guess) > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = (np.nan_to_num(right / total) for total in (of_guess, of_truth))
        f1 = np.nan_to_num(2 * right / (of_truth + of_guess))
    macro = {
        name: (values * occurs).sum(1) / occurs.sum(1)
        for name, values in (("precision_macro", precision), ("recall_macro", recall), ("f1_macro", f1))
    }
    hits, total = right.sum(1), float(len(labels))
    spread = np.sqrt((total**2 - (of_guess**2).sum(1)) * (total**2 - (of_truth**2).sum(1)))
    # Gorodkin 2004: the correlation of truth and prediction; 0 where either is one class only, as scikit-learn has it.
    mcc = np.divide(hits * total - (of_guess * of_truth).sum(1), spread, out=np.zeros_like(spread), where=spread > 0)
    return {name: _interval(values) for name, values in ({"accuracy": hits / total, "mcc": mcc} | macro).items()}


def score_intervals(labels: np.ndarray, scores: np.ndarray) -> dict[str, tuple[float, float]]:
    """Bootstrap calibration error and log loss. A resample is less even than its sample, so the former's interval lies a little high."""
    losses = surprise(labels, scores)

    def of(rows: np.ndarray) -> Numbers:
        return {
            "calibration_error": calibration_error(labels[rows], scores[rows]),
            "log_loss": float(losses[rows].mean()),
        }

    return bootstrap(of, len(labels))


def share_interval(share: float, size: int) -> tuple[float, float]:
    """Bootstrap a share of `size` examples, of which each counts or does not: resamples of such are binomial."""
    return _interval(np.random.default_rng(0).binomial(size, share, RESAMPLES) / size)


def bootstrap(
    metric: Callable[[np.ndarray], Numbers], size: int, resamples: int = 200
) -> dict[str, tuple[float, float]]:
    """Bootstrap any metric, given as a function of the places [N] of the resampled examples."""
    generator = np.random.default_rng(0)
    drawn = [metric(generator.integers(0, size, size)) for _ in range(resamples)]
    return {name: _interval(np.array([values[name] for values in drawn])) for name in drawn[0]}


def _indicator(places: np.ndarray, size: int) -> np.ndarray:
    return (places[:, None] == np.arange(size)[None]).astype(float)  # [cells, C]


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
