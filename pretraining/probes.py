"""What fixed feature vectors are worth: regressions and nearest neighbours on them, and measures of their geometry.

Functions of matrices, used while pretraining and in finetuning. They compute in at least single precision, whatever
they are given and whatever autocast is in force.

Shapes: N examples, D width, C classes (or outputs).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 1024  # rows compared with all others at once


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Compute the 95 % interval of a share of `count` examples (Wilson 1927, score interval)."""
    squared = 1.96**2 / count
    centre = (share + squared / 2) / (1 + squared)
    reach = 1.96 / (1 + squared) * math.sqrt(share * (1 - share) / count + squared / (4 * count))
    return max(0.0, centre - reach), min(1.0, centre + reach)


class Linear(NamedTuple):
    """A fitted linear map: scores = x @ weight.T + bias."""

    weight: Tensor  # [C, D]
    bias: Tensor  # [C]

    def __call__(self, vectors: Tensor) -> Tensor:
        """Compute the scores. [N, C]"""
        return vectors @ self.weight.T + self.bias


class Scale(NamedTuple):
    """Each feature's mean and spread over the training vectors."""

    mean: Tensor  # [D]
    spread: Tensor  # [D]

    @classmethod
    def of(cls, vectors: Tensor, wanted: bool) -> Scale:
        """Measure; features without spread keep theirs. With `wanted` false, change nothing."""
        if not wanted:
            return cls(torch.zeros_like(vectors[0]), torch.ones_like(vectors[0]))
        spread = vectors.std(0, correction=0)
        return cls(vectors.mean(0), torch.where(spread > 0, spread, 1.0))

    def __call__(self, vectors: Tensor) -> Tensor:
        """Standardise. [N, D]"""
        return (vectors - self.mean) / self.spread

    def unscaled(self, fitted: Linear) -> Linear:
        """Turn a map of standardised vectors into the same map of raw ones."""
        weight = fitted.weight / self.spread
        return Linear(weight, fitted.bias - weight @ self.mean)


def logistic_regression(
    vectors: Tensor, classes: Tensor, count: int, penalty: float, start: Linear | None = None, max_iterations: int = 300
) -> Linear:
    """Minimise  mean cross-entropy + penalty / 2 * |weight|^2  by L-BFGS in float64; the bias is free.

    scikit-learn's `LogisticRegression(C=1 / (penalty * N))` has the same minimum. A similar `start` saves iterations.
    """
    vectors = vectors.double()
    weight = (start.weight.clone() if start else vectors.new_zeros(count, vectors.shape[1])).requires_grad_()
    bias = (start.bias.clone() if start else vectors.new_zeros(count)).requires_grad_()
    stop: dict[str, Any] = {"max_iter": max_iterations, "tolerance_grad": 1e-6, "tolerance_change": 1e-10}
    solver = torch.optim.LBFGS([weight, bias], line_search_fn="strong_wolfe", **stop)

    def closure() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(vectors @ weight.T + bias, classes) + 0.5 * penalty * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(closure)
    return Linear(weight.detach(), bias.detach())


def ridge_regression(vectors: Tensor, values: Tensor, penalty: float) -> Linear:
    """Minimise  mean squared error + penalty * |weight|^2  in closed form; the bias is free. `values` [N, C]"""
    vectors, values = vectors.double(), values.double()
    mean, offset = vectors.mean(0), values.mean(0)
    centred = vectors - mean
    identity = torch.eye(vectors.shape[1], dtype=torch.float64, device=vectors.device)
    gram = centred.T @ centred + penalty * len(vectors) * identity
    weight = torch.linalg.solve(gram, centred.T @ (values - offset)).T
    return Linear(weight, offset - weight @ mean)


def nearest_neighbours(
    vectors: Tensor, classes: Tensor, queries: Tensor, *, count: int, k: int, temperature: float
) -> Tensor:
    """Score classes by the `k` most similar (cosine) training vectors, weighted by exp(similarity / temperature).

    The protocol of Wu et al. 2018 ("Unsupervised feature learning via non-parametric instance discrimination", section
    3.4), with published k 200 and temperature 0.1 or 0.07. Shares of the total weight: rows sum to 1. [queries, C]
    """
    with torch.autocast(vectors.device.type, enabled=False):
        bank = unit(vectors)
        k = min(k, len(bank))
        scores = []
        for chunk in unit(queries).split(CHUNK):
            similarity, places = (chunk @ bank.T).topk(k)
            weight = ((similarity - similarity[:, :1]) / temperature).exp()  # the nearest has weight 1: no overflow
            votes = weight.new_zeros(len(chunk), count).scatter_add_(1, classes[places], weight)
            scores.append(votes / votes.sum(1, keepdim=True))
    return torch.cat(scores)


def most_similar(vectors: Tensor, k: int, *, block: int = 65_536) -> tuple[Tensor, Tensor]:
    """Find, for each vector [N, D], the `k` others of the greatest cosine, the nearest first: places, cosines. [N, k]

    Exact: all are compared with all, `CHUNK` x `block` at once.
    """
    bank, found = unit(vectors), []
    for start in range(0, len(bank), CHUNK):
        queries = bank[start : start + CHUNK]
        rows = torch.arange(len(queries), device=bank.device)
        best, where = bank.new_empty(len(queries), 0), rows.new_empty(len(queries), 0)
        for first in range(0, len(bank), block):
            cosines = queries @ bank[first : first + block].T
            own = rows + (start - first)  # nobody is a neighbour of its own
            inside = (own >= 0) & (own < cosines.shape[1])
            cosines[rows[inside], own[inside]] = -torch.inf
            nearest, places = cosines.topk(min(k, cosines.shape[1]))
            best, order = torch.cat([best, nearest], 1).topk(min(k, best.shape[1] + nearest.shape[1]))
            where = torch.cat([where, places + first], 1).gather(1, order)
        found.append((where, best))
    return torch.cat([where for where, _ in found]), torch.cat([best for _, best in found])


# -- geometry ----------------------------------------------------------------------------------------------------------


def unit(vectors: Tensor) -> Tensor:
    """Scale rows (the last axis) to length 1, in at least single precision. [..., D]"""
    return F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)


def effective_rank(vectors: Tensor) -> float:
    """Compute RankMe: exp of the entropy of the singular values' shares (Garrido et al. 2023; Roy & Vetterli 2007).

    From 1 (all vectors on one line) to min(N, D) (all directions alike). Vectors are taken as they are, neither centred
    nor scaled. Singular values below 1e-8 of the largest, which would not show, are lost to the cheaper Gram matrix.
    Not a number where vectors are not finite.
    """
    vectors = vectors.double()
    if not vectors.isfinite().all():  # for which eigenvalues are an error
        return math.nan
    gram = vectors.T @ vectors if len(vectors) > vectors.shape[1] else vectors @ vectors.T
    values = torch.linalg.eigvalsh(gram).clamp(min=0.0).sqrt()
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def alignment(first: Tensor, second: Tensor) -> float:
    """Compute the mean squared distance of positive pairs on the unit sphere (Wang & Isola 2020, section 4.1, alpha 2).

    0 where the views of an image agree; 2 (1 - cosine) in general. `first` and `second` [N, D] are matched row by row.
    """
    return float((unit(first) - unit(second)).square().sum(1).mean())


def uniformity(vectors: Tensor) -> float:
    """Compute the log of the mean over pairs of exp(-2 squared distance) on the unit sphere (Wang & Isola 2020, t 2).

    0 where all vectors are one; about -4 where they spread evenly over many dimensions; -8 for two opposite points.
    """
    points, total = unit(vectors), 0.0
    with torch.autocast(vectors.device.type, enabled=False):
        for start in range(0, len(points), CHUNK):
            cosines = points[start : start + CHUNK] @ points.T
            cosines[:, start:].fill_diagonal_(-torch.inf)  # a point is no pair with itself
            total += float((4.0 * (cosines - 1.0)).exp().double().sum())
    return math.log(total / (len(points) * (len(points) - 1)))


def feature_spread(vectors: Tensor) -> float:
    """Compute the standard deviation of the unit vectors' features, averaged over features, times the root of D.

    1 where they spread evenly over the sphere, 0 where they have collapsed to a point (Chen & He 2021, "Exploring
    simple Siamese representation learning", section 4.1).
    """
    points = unit(vectors)
    return float(points.std(0, correction=0).mean()) * math.sqrt(points.shape[1])
