"""LayerDrop (Fan et al. 2020, "Reducing transformer depth on demand with structured dropout", section 3).

Which layers a step leaves out is drawn from its number: the same for each micro-batch and rank, and after a resume.

Shapes: B rows, T frames, D width, H heads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

from pretraining.random import Keys, uniform


def drawn_layers(seed: int, step: int, count: int, share: float) -> frozenset[int]:
    """Draw which of `count` layers a step leaves out, each with probability `share`."""
    keys = Keys(seed, "layerdrop", np.zeros(1, np.int64), np.array([step]))
    draws: Any = uniform(keys, "layer", count)
    return frozenset(np.flatnonzero(draws[0] < share).tolist())


class PassedOver(nn.Module):
    """A layer that is left out: what it gets goes on as it is.

    It still runs on one frame, for nothing: so its weights get a gradient, of zero, as data-parallel backends and
    optimizers want one for every weight.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor, position_bias: Tensor | None = None, **_: Any) -> Any:
        """Pass on what comes. [B, T, D]; WavLM's layers also pass on the bias of positions [B H, T, T]."""
        if position_bias is None:
            return hidden + 0.0 * self.layer(hidden[:1, :1]).sum()
        heads = len(position_bias) // len(hidden)
        touched, _ = self.layer(hidden[:1, :1], position_bias=position_bias[:heads, :1, :1])
        return hidden + 0.0 * touched.sum(), position_bias


@contextlib.contextmanager
def without_layers(encoder: Any, left_out: frozenset[int]) -> Iterator[None]:
    """Pass over some of an encoder's layers inside the block."""
    layers = encoder.layers
    if left_out:
        encoder.layers = nn.ModuleList(
            PassedOver(layer) if place in left_out else layer for place, layer in enumerate(layers)
        )
    try:
        yield
    finally:
        encoder.layers = layers
