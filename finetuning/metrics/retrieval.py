"""How soon what was looked for is found.

Shapes: Q queries, K candidates.
"""

from __future__ import annotations

import numpy as np

from finetuning.metrics.bootstrap import Intervals, Numbers, bootstrap

CUTOFFS = (1, 5, 10)


def ranks(scores: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the rank of each query's first right candidate (1 is best), int64 [Q], and its average precision [Q].

    `scores` [Q, K]; `right` bool [Q, K], at least one in each row. Among equal scores wrong ones come first, so that
    who tells nothing apart finds nothing.
    """
    order = np.lexsort((right, -scores), axis=1)
    sorted_right = np.take_along_axis(right, order, 1)
    places = np.arange(1, scores.shape[1] + 1)
    precision = np.cumsum(sorted_right, 1) / places
    return sorted_right.argmax(1) + 1, (precision * sorted_right).sum(1) / sorted_right.sum(1)


def gains(scores: np.ndarray, grades: np.ndarray, cutoff: int = 10) -> np.ndarray:
    """Compute each query's normalised discounted cumulative gain among the `cutoff` best candidates. [Q]

    A candidate gives its grade over log2(1 + its place), and the sum is divided by that of the best order (Järvelin and
    Kekäläinen 2002, with linear gain). `grades` [Q, K] are at least 0, one above it in each row. Among equal scores the
    lowest grade comes first.
    """
    order = np.lexsort((grades, -scores), axis=1)[:, :cutoff]
    discounts = 1.0 / np.log2(2 + np.arange(order.shape[1]))
    best = -np.sort(-grades, axis=1)[:, :cutoff]
    return (np.take_along_axis(grades, order, 1) * discounts).sum(1) / (best * discounts).sum(1)


def retrieval(first: np.ndarray, precision: np.ndarray) -> Numbers:
    """Compute recall at 1, 5 and 10 (the share of queries with a right candidate among so many), median rank, mAP."""
    recalls = {f"recall_{cutoff}": float((first <= cutoff).mean()) for cutoff in CUTOFFS}
    return recalls | {"median_rank": float(np.median(first)), "mean_average_precision": float(precision.mean())}


def intervals(first: np.ndarray, precision: np.ndarray) -> Intervals:
    """Bootstrap all of them over queries."""
    return bootstrap(lambda drawn: retrieval(first[drawn], precision[drawn]), len(first))
