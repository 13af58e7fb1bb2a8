"""Means, intervals and tests for few, paired, nested replicates.

The unit of replication is the pretraining seed: finetuning seeds are averaged within it first, since ten finetunings of
one pretraining say nothing about how another pretraining would have turned out. Legend: R replicates.
"""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from scipy.special import stdtrit

Key = TypeVar("Key", bound=Hashable)
CONFIDENCE = 0.95
EXACT_UP_TO = 16
"""Replicates up to which all 2^R sign patterns are enumerated."""


class Interval(NamedTuple):
    """A mean of ``n`` replicates and where the true mean may lie; one alone has no ends (nan)."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def clear_of_zero(self) -> bool:
        """Whether zero lies outside; never for a single replicate."""
        return self.low > 0 or self.high < 0


def mean_interval(values: Sequence[float]) -> Interval:
    """Compute Student's t interval of the mean."""
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        raise ValueError("got no values: an interval needs at least one")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(stdtrit(x.size - 1, (1 + CONFIDENCE) / 2) * x.std(ddof=1) / math.sqrt(x.size))
    return Interval(mean, mean - half, mean + half, x.size)


def paired_difference(first: Mapping[Key, float], second: Mapping[Key, float]) -> Interval | None:
    """Compute the interval of first - second over the replicates that both have; None when they share none."""
    shared = [key for key in first if key in second]
    return mean_interval([first[key] - second[key] for key in shared]) if shared else None


def within_pretraining(values: Mapping[tuple[int, int], float]) -> dict[int, float]:
    """Average (pretraining seed, finetuning seed) -> value over the finetuning seeds of each pretraining."""
    grouped: dict[int, list[float]] = {}
    for (pretraining_seed, _), value in sorted(values.items()):
        grouped.setdefault(pretraining_seed, []).append(value)
    return {seed: float(np.mean(found)) for seed, found in grouped.items()}


def sign_flip_p(differences: Sequence[float], *, draws: int = 100_000, seed: int = 0) -> float:
    """Compute the two-sided p of the paired sign-flip permutation test of mean zero.

    Exact (all 2^R sign patterns) up to 16 replicates; beyond, from random patterns and the observed one.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.size == 0:
        raise ValueError("got no differences: a test needs at least one")
    # Sums that are equal on paper may differ in the last bits, and must count as extreme too.
    observed = abs(d.sum()) - 1e-12 * np.abs(d).sum()
    if d.size <= EXACT_UP_TO:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=d.size)))
        return float(np.mean(np.abs(signs @ d) >= observed))
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(draws, d.size))
    return float((np.sum(np.abs(signs @ d) >= observed) + 1) / (draws + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust by Holm's step-down: adjusted <= alpha keeps the family-wise error at alpha."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    return np.minimum(stepped, 1.0)[np.argsort(order)].tolist()


def average_rank(scores: Mapping[str, Mapping[Key, float]]) -> dict[str, float]:
    """Average the rank of each arm over the blocks that all arms have; 1 is best, ties share theirs."""
    blocks = [b for b in next(iter(scores.values()), {}) if all(b in found for found in scores.values())]
    if not blocks:
        return {}
    table = np.array([[found[block] for block in blocks] for found in scores.values()])  # [arms, blocks]
    above = (table[None] > table[:, None]).sum(axis=1)
    level = (table[None] == table[:, None]).sum(axis=1)
    ranks = above + (level + 1) / 2
    return dict(zip(scores, ranks.mean(axis=1).tolist(), strict=True))


def nested_bootstrap(
    scores: Sequence[Sequence[float]], *, shared_examples: bool = False, draws: int = 2000, seed: int = 0
) -> Interval:
    """Compute the percentile interval of the mean score, had both seeds and test examples been others.

    ``scores[r]`` are replicate r's per-example scores (1 right, 0 wrong). Each draw takes replicates with replacement
    and, within each one taken, examples with replacement; where the replicates were judged on the same examples
    (``shared_examples``), the same ones within each, since an example that is hard for one is hard for all, and
    averages out over none.
    """
    rows = [np.asarray(row, dtype=np.float64) for row in scores]
    if not rows or any(row.size == 0 for row in rows):
        raise ValueError("got a replicate without examples: each needs at least one")
    if shared_examples and len({row.size for row in rows}) > 1:
        sizes = sorted({row.size for row in rows})
        raise ValueError(f"got replicates of {sizes} examples: shared ones are as many in each")
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for draw in range(draws):
        taken = [rows[r] for r in rng.integers(len(rows), size=len(rows))]
        if shared_examples:
            means[draw] = np.mean(taken, axis=0)[rng.integers(rows[0].size, size=rows[0].size)].mean()
        else:
            means[draw] = np.mean([row[rng.integers(row.size, size=row.size)].mean() for row in taken])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return Interval(float(np.mean([row.mean() for row in rows])), float(low), float(high), len(rows))


def seeds_to_test(comparisons: int) -> int:
    """Tell from how many seeds on any of so many comparisons may be decided: the smallest two-sided p is 2 / 2^R.

    Holm multiplies the smallest of M by M, so that with fewer seeds no difference is great enough.
    """
    return math.ceil(math.log2(2 * max(1, comparisons) / (1 - CONFIDENCE)))


def p_values(differences: Mapping[Key, Sequence[float]]) -> dict[Key, float] | None:
    """Compute the Holm-adjusted sign-flip p of every comparison; None if any has too few seeds to test."""
    if not differences or any(len(d) < seeds_to_test(len(differences)) for d in differences.values()):
        return None
    return dict(zip(differences, holm([sign_flip_p(d) for d in differences.values()]), strict=True))
