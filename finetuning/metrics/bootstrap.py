"""95 % bootstrap intervals over examples, the same for every run.

Shapes: N examples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RESAMPLES = 1000
Numbers = dict[str, float]
Intervals = dict[str, tuple[float, float]]


def bootstrap(metric: Callable[[np.ndarray], Numbers], size: int, resamples: int = 200) -> Intervals:
    """Bootstrap any metric, given as a function of the places [N] of the resampled examples."""
    generator = np.random.default_rng(0)
    drawn = [metric(generator.integers(0, size, size)) for _ in range(resamples)]
    return {name: interval(np.array([values[name] for values in drawn])) for name in drawn[0]}


def drawn_counts(shares: np.ndarray, size: int) -> np.ndarray:
    """Draw how often each of K kinds of examples occurs in resamples of `size`, given their shares. [RESAMPLES, K]"""
    return np.random.default_rng(0).multinomial(size, shares, size=RESAMPLES)


def share_interval(share: float, size: int) -> tuple[float, float]:
    """Bootstrap a share of `size` examples, of which each counts or does not: resamples of such are binomial."""
    return interval(np.random.default_rng(0).binomial(size, share, RESAMPLES) / size)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Find the ends between which 95 % of the resampled values lie."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
