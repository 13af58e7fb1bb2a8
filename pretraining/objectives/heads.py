"""Heads between a backbone and a joint-embedding loss, thrown away after pretraining.

Shapes: N examples, D width, K prototypes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.probes import unit

Norm = Literal["full", "scale", "plain", "none"]
Activation = Literal["relu", "gelu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


def mlp(
    sizes: list[int],
    *,
    norm: Norm = "full",
    last_norm: Norm = "none",
    bias: bool = False,
    last_bias: bool | None = None,
    activation: Activation = "relu",
    init_std: float | None = None,
) -> nn.Sequential:
    """Build linear layers from `sizes[0]` to `sizes[-1]`, each but the last followed by a norm and an activation.

    Norms are batch normalisation that learns scale and shift (`full`), only a scale (`scale`) or nothing (`plain`).
    `last_bias` null is as `bias`. `init_std` draws weights from a normal distribution and starts biases at zero (null:
    as torch does both).
    """
    modules: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(sizes), 2):
        last = number == len(sizes)
        linear = nn.Linear(before, after, bias=bias if not last or last_bias is None else last_bias)
        if init_std is not None:
            nn.init.normal_(linear.weight, std=init_std)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        modules += [linear, *_norm(last_norm if last else norm, after)]
        modules += [] if last else [ACTIVATIONS[activation]()]
    return nn.Sequential(*modules)


@dataclass(frozen=True, kw_only=True)
class Projector:
    """An `mlp` of `layers` linear layers (a projector, predictor or expander); `hidden` null is the input's width."""

    layers: int = 2
    output: int = 128
    hidden: int | None = None
    hidden_norm: Norm = "full"
    output_norm: Norm = "none"
    bias: bool = False
    output_bias: bool | None = None
    activation: Activation = "relu"
    init_std: float | None = None

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"the projector's activation {self.activation!r} is unknown: choose relu or gelu")
        if self.layers < 1:
            raise ValueError(f"a projector has at least one layer, got {self.layers}")

    def build(self, dim: int) -> nn.Sequential:
        """Build it for inputs of width `dim`."""
        sizes = [dim, *[self.hidden or dim] * (self.layers - 1), self.output]
        return mlp(
            sizes,
            norm=self.hidden_norm,
            last_norm=self.output_norm,
            bias=self.bias,
            last_bias=self.output_bias,
            activation=self.activation,
            init_std=self.init_std,
        )


class Prototypes(nn.Module):
    """Scores of unit vectors against `count` prototypes: weight normalisation of a linear layer without bias.

    Salimans & Kingma 2016 ("Weight normalization"); DINO's and iBOT's last layer. A prototype is length * direction /
    |direction|; lengths start at 1 and stay there unless `learn_lengths`.
    """

    def __init__(self, dim: int, count: int, *, learn_lengths: bool = False) -> None:
        super().__init__()
        self.direction = nn.Parameter(nn.init.trunc_normal_(torch.empty(count, dim), std=0.02))
        self.length = nn.Parameter(torch.ones(count, 1), requires_grad=learn_lengths)

    def forward(self, vectors: Tensor) -> Tensor:
        """Score vectors [N, D] of any length, of which only the direction counts. [N, K], in at least fp32"""
        with torch.autocast(vectors.device.type, enabled=False):
            return F.linear(unit(vectors), unit(self.direction) * self.length)


def _norm(kind: Norm, width: int) -> list[nn.Module]:
    """Build a batch normalisation, or nothing; a shift that is not learnt stays at zero."""
    if kind not in ("full", "scale", "plain", "none"):
        raise ValueError(f"the projector's norm {kind!r} is unknown: choose full, scale, plain or none")
    if kind == "none":
        return []
    norm = nn.BatchNorm1d(width, affine=kind != "plain")
    if kind == "scale":
        norm.bias.requires_grad_(False)
    return [norm]
