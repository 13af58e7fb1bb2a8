"""Losses on the second moments of two views' embeddings, which must be those of the whole step on all ranks.

Shapes: N examples of all ranks, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def off_diagonal_squares(matrix: Tensor) -> Tensor:
    """Sum the squares of a square matrix's entries off its diagonal. []"""
    return matrix.square().sum() - matrix.diagonal().square().sum()


def variance_hinge(vectors: Tensor, epsilon: float = 1e-4) -> Tensor:
    """Average max(0, 1 - sqrt(variance + epsilon)) over features (Bardes et al. 2022, "VICReg", equation 1). []

    The variance of `vectors` [N, D] is unbiased.
    """
    return torch.relu(1.0 - (vectors.var(0) + epsilon).sqrt()).mean()


def covariance_penalty(vectors: Tensor) -> Tensor:
    """Sum the squared covariances of different features, over D (Bardes et al. 2022, equation 4). []"""
    centred = vectors - vectors.mean(0)
    return off_diagonal_squares(centred.T @ centred / (len(vectors) - 1)) / vectors.shape[1]


def cross_correlation(first: Tensor, second: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Correlate the features of two views over examples (Zbontar et al. 2021, "Barlow twins", equation 2). [D, D]

    The variance under the root is biased and has `epsilon` added, as batch normalisation does it.
    """
    first, second = (_standardised(part, epsilon) for part in (first, second))
    return first.T @ second / len(first)


def _standardised(vectors: Tensor, epsilon: float) -> Tensor:
    variance, mean = torch.var_mean(vectors, 0, correction=0)
    return (vectors - mean) * (variance + epsilon).rsqrt()
