"""The head between a backbone and a contrastive loss, thrown away after pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

Norm = Literal["full", "scale", "none"]


@dataclass(frozen=True, kw_only=True)
class Projector:
    """Linear layers with ReLU between them.

    `hidden` null is the backbone's width. Norms are batch normalisation: `full` learns scale and shift, `scale` only a
    scale. `bias` is of the linear layers; `init_std` draws their weights from a normal distribution (null: as torch).
    """

    layers: int
    output: int
    hidden: int | None = None
    hidden_norm: Norm = "full"
    output_norm: Norm = "none"
    bias: bool = False
    init_std: float | None = None

    def build(self, dim: int) -> nn.Sequential:
        """Build it for a backbone of width `dim`."""
        widths = [dim, *[self.hidden or dim] * (self.layers - 1), self.output]
        modules: list[nn.Module] = []
        for number in range(self.layers):
            last = number == self.layers - 1
            linear = nn.Linear(widths[number], widths[number + 1], bias=self.bias)
            if self.init_std is not None:
                nn.init.normal_(linear.weight, std=self.init_std)
            modules += [linear, *_norm(self.output_norm if last else self.hidden_norm, widths[number + 1])]
            modules += [] if last else [nn.ReLU()]
        return nn.Sequential(*modules)


def _norm(kind: Norm, width: int) -> list[nn.Module]:
    """Build a batch normalisation, or nothing; a shift that is not learnt stays at zero."""
    if kind not in ("full", "scale", "none"):
        raise ValueError(f"the projector's norm {kind!r} is unknown: choose full, scale or none")
    if kind == "none":
        return []
    norm = nn.BatchNorm1d(width)
    norm.bias.requires_grad_(kind == "full")
    return [norm]
