"""Standard metrics of classes, computed by scikit-learn.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import metrics as sk

from finetuning.metrics.bootstrap import Intervals, Numbers, bootstrap, drawn_counts, interval

AVERAGES = tuple(f"{name}_{average}" for average in ("macro", "micro") for name in ("precision", "recall", "f1"))


def classification(labels: np.ndarray, scores: np.ndarray) -> Numbers:
    """Judge class scores [N, C] (probabilities) against class numbers [N]; averages are over the classes that occur."""
    ece, log_loss = calibration_error(labels, scores), float(log_losses(labels, scores).mean())
    return {**label_metrics(labels, scores.argmax(1)), "calibration_error": ece, "log_loss": log_loss}


def log_losses(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Compute the negative logarithm of each example's probability of its class. [N]"""
    return -np.log(np.clip(scores[np.arange(len(labels)), labels], 1e-12, None))


def label_metrics(labels: np.ndarray, predictions: np.ndarray) -> Numbers:
    """Judge predicted class numbers [N]."""
    values = {"accuracy": sk.accuracy_score(labels, predictions), "mcc": sk.matthews_corrcoef(labels, predictions)}
    return {name: float(value) for name, value in values.items()} | _averages(labels, predictions)


def multi_label(labels: np.ndarray, scores: np.ndarray) -> Numbers:
    """Judge independent class probabilities [N, C] at one half against 0/1 labels; accuracy asks for the whole row."""
    predictions = (scores > 0.5).astype(int)
    values = {"accuracy": sk.accuracy_score(labels, predictions), "hamming_loss": sk.hamming_loss(labels, predictions)}
    return {name: float(value) for name, value in values.items()} | _averages(labels, predictions)


def _averages(labels: np.ndarray, predictions: np.ndarray) -> Numbers:
    values: Numbers = {}
    for average in ("macro", "micro"):
        found = sk.precision_recall_fscore_support(labels, predictions, average=average, zero_division=0)
        values |= {
            f"{name}_{average}": float(value)
            for name, value in zip(("precision", "recall", "f1"), found[:3], strict=True)
        }
    return values


def top_k(labels: np.ndarray, scores: np.ndarray, k: int) -> float:
    """Compute the share of examples whose class is among the `k` best scores."""
    return float(sk.top_k_accuracy_score(labels, scores, k=k, labels=np.arange(scores.shape[1])))


def calibration_error(labels: np.ndarray, scores: np.ndarray, bins: int = 15) -> float:
    """Compute the expected calibration error: the mean distance of confidence and accuracy over equal bins."""
    confidence, correct = scores.max(1), (scores.argmax(1) == labels).astype(float)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(place, correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))


def report(labels: np.ndarray, predictions: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Tabulate precision, recall, F1 and support of each class, and the confusion matrix (a row per true class)."""
    numbers = np.arange(len(names))
    columns = sk.precision_recall_fscore_support(labels, predictions, labels=numbers, zero_division=0)
    keys = ("precision", "recall", "f1", "support")
    per_class = {
        name: {key: float(column[number]) for key, column in zip(keys, columns, strict=True)}
        for number, name in enumerate(names)
    }
    matrix = sk.confusion_matrix(labels, predictions, labels=numbers)
    return {"per_class": per_class, "classes": names, "confusion_matrix": matrix.tolist()}


def label_intervals(labels: np.ndarray, predictions: np.ndarray) -> Intervals:
    """Bootstrap accuracy, MCC and macro F1, precision, recall.

    Resampling examples is drawing the cells of the confusion matrix from a multinomial: all resamples cost one array.
    """
    size = int(max(labels.max(), predictions.max())) + 1
    cells, counts = np.unique(labels * size + predictions, return_counts=True)
    truth, guess = cells // size, cells % size
    draws = drawn_counts(counts / len(labels), len(labels)).astype(float)  # [resamples, cells]
    groups = (truth, guess, np.where(truth == guess, truth, -1))
    of_truth, of_guess, right = (draws @ _indicator(places, size) for places in groups)
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
    return {name: interval(values) for name, values in ({"accuracy": hits / total, "mcc": mcc} | macro).items()}


def _indicator(places: np.ndarray, size: int) -> np.ndarray:
    return (places[:, None] == np.arange(size)[None]).astype(float)  # [cells, C]


def score_intervals(labels: np.ndarray, scores: np.ndarray) -> Intervals:
    """Bootstrap log loss, and calibration error, whose interval lies a little high: resamples are less even."""
    losses = log_losses(labels, scores)

    def of(rows: np.ndarray) -> Numbers:
        return {
            "calibration_error": calibration_error(labels[rows], scores[rows]),
            "log_loss": float(losses[rows].mean()),
        }

    return bootstrap(of, len(labels))
