"""Agreement of predicted and target vectors."""

from __future__ import annotations

from torch import Tensor

from pretraining.probes import unit


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Compute the cosine of each pair of vectors, in at least single precision. [..., D] -> [...]"""
    return (unit(first) * unit(second)).sum(-1)
