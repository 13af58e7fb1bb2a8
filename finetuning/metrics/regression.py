"""Standard metrics of real predictions."""

from __future__ import annotations

import numpy as np
from scipy import stats
from sklearn import metrics as sk

from finetuning.metrics.bootstrap import Numbers


def regression(labels: np.ndarray, predictions: np.ndarray) -> Numbers:
    """Judge real predictions [N]; correlations of a constant are 0."""
    constant = np.ptp(predictions) == 0 or np.ptp(labels) == 0
    return {
        "pearson": 0.0 if constant else float(stats.pearsonr(labels, predictions)[0]),
        "spearman": 0.0 if constant else float(stats.spearmanr(labels, predictions)[0]),
        "mse": float(sk.mean_squared_error(labels, predictions)),
        "mae": float(sk.mean_absolute_error(labels, predictions)),
    }
