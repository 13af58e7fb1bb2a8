"""Solvers on fixed vectors: logistic and ridge regression, nearest neighbours.

Shapes: N examples, D width, C classes (or outputs).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Linear(NamedTuple):
    """A solved linear map: scores = x @ weight.T + bias."""

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

    def unscaled(self, solved: Linear) -> Linear:
        """Turn a map of standardised vectors into the same map of raw ones."""
        weight = solved.weight / self.spread
        return Linear(weight, solved.bias - weight @ self.mean)


def logistic_regression(
    vectors: Tensor, classes: Tensor, count: int, penalty: float, start: Linear | None = None, max_iterations: int = 300
) -> Linear:
    """Minimise  mean cross-entropy + penalty / 2 * |weight|^2  by L-BFGS in float64; the bias is free.

    scikit-learn's `LogisticRegression(C=1 / (penalty * N))` has the same minimum. `start` (a neighbouring penalty's solution)
    saves iterations.
    """
    vectors = vectors.double()
    weight = (start.weight.clone() if start else vectors.new_zeros(count, vectors.shape[1])).requires_grad_()
    bias = (start.bias.clone() if start else vectors.new_zeros(count)).requires_grad_()
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=max_iterations, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

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
    gram = centred.T @ centred + penalty * len(vectors) * torch.eye(vectors.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, centred.T @ (values - offset)).T
    return Linear(weight, offset - weight @ mean)


def nearest_neighbours(vectors: Tensor, classes: Tensor, queries: Tensor, *, count: int, k: int, temperature: float) -> Tensor:
    """Score each class by its neighbours among the `k` most similar (cosine) training vectors, each with exp(similarity / temperature).

    Shares of the total weight, so that rows sum to 1. [queries, C]
    """
    bank = F.normalize(vectors, dim=1)
    k = min(k, len(bank))
    scores = []
    for chunk in F.normalize(queries, dim=1).split(1024):
        similarity, places = (chunk @ bank.T).topk(k)
        weight = ((similarity - similarity[:, :1]) / temperature).exp()  # the nearest has weight 1: no overflow
        votes = torch.zeros(len(chunk), count).scatter_add_(1, classes[places], weight)
        scores.append(votes / votes.sum(1, keepdim=True))
    return torch.cat(scores)
