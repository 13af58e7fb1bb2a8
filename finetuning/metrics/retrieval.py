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


def retrieval(first: np.ndarray, precision: np.ndarray) -> Numbers:
    """Compute recall at 1, 5 and 10 (the share of queries with a right candidate among so many), median rank, mAP."""
    recalls = {f"recall_{cutoff}": float((first <= cutoff).mean()) for cutoff in CUTOFFS}
    return recalls | {"median_rank": float(np.median(first)), "mean_average_precision": float(precision.mean())}


def intervals(first: np.ndarray, precision: np.ndarray) -> Intervals:
    """Bootstrap all of them over queries."""
    return bootstrap(lambda drawn: retrieval(first[drawn], precision[drawn]), len(first))
