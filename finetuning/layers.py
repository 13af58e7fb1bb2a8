"""Which layers of a frozen backbone a head reads.

Shapes: N vectors, K layers, D their width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pretraining.backbones.base import Backbone, Features
from pretraining.backbones.layers import ALL, LAST, chosen_layers, numbers_of
from pretraining.errors import RunError

Wanted = str | Sequence[int]  # last, all, best, weighted, or the layers' numbers


class Layers:
    """The layers that are read, their vectors side by side; layer 0 is what the first one reads, -1 is the last one.

    - `last`: what `forward` says; `all`, or a list of numbers: these side by side, as DINO reads its last four.
    - `weighted`: their sum under learned weights (SUPERB, Yang et al. 2021, section 3), by a head's `LayerSum`.
    - `best`: the one by which validation is best, of those that are read until it is known (`choose_layer`).
    """

    def __init__(self, backbone: Backbone, wanted: Wanted) -> None:
        self.wanted = wanted if isinstance(wanted, str) else list(wanted)
        self.every = backbone.layer_widths
        self.numbers = numbers_of(backbone, LAST if wanted == LAST else ALL if isinstance(wanted, str) else wanted)
        self.widths = [self.every[number] for number in self.numbers]
        if wanted == "weighted" and len({*self.widths}) > 1:
            what = f"got mode.layers=weighted, but the layers of {type(backbone).__name__} are {self.widths} wide"
            raise RunError(f"{what}: take all, best or a list of numbers")

    @property
    def plain(self) -> bool:
        """Whether the last layer alone is read."""
        return self.numbers == [len(self.every) - 1]

    @property
    def head_width(self) -> int:
        """The width of what a head's last layer reads: of a sum, and of the best one, that of a single layer."""
        return self.widths[-1] if self.wanted in ("weighted", "best") else sum(self.widths)

    @property
    def zeros(self) -> int:
        """The width of what a whole head reads."""
        return sum(self.widths) if self.wanted == "weighted" else self.head_width

    def head(self, outputs: int, dropout: float, bias: float = 0.0) -> nn.Sequential:
        """Make a linear layer behind dropout, with small weights and constant biases, as is usual on such encoders."""
        summed = [LayerSum(len(self.numbers))] if self.wanted == "weighted" else []
        layer = nn.Linear(self.head_width, outputs)
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.constant_(layer.bias, bias)
        return nn.Sequential(*summed, nn.Dropout(dropout), layer)

    def __call__(self, backbone: Backbone, inputs: Mapping[str, Any]) -> Features:
        """Run the backbone and put the layers side by side; where maps shrink, positions are the last one's."""
        if self.plain:
            return backbone(**inputs)
        chosen, last = chosen_layers(backbone, self.numbers, inputs)
        pooled = torch.cat([features.pooled for features in chosen], -1)
        if any(features.positions.shape[1] != last.positions.shape[1] for features in chosen):
            return last._replace(pooled=pooled)
        return last._replace(positions=torch.cat([features.positions for features in chosen], -1), pooled=pooled)


def read_layers(task: Any) -> Layers:
    """Find the layers that a task's mode asks for; what its head cannot read, or the mode cannot learn, is an error."""
    if task.per_position and not any(True for _ in task.backbone.parameters()):
        what = f"got {type(task.backbone).__name__}, features of whole examples, for {type(task).__name__}"
        raise RunError(f"{what}, which reads each of their positions: take the hand-off of a network")
    mode, layers = task.mode, Layers(task.backbone, task.mode.layers)
    if layers.plain:
        return layers
    what = f"got mode.layers={layers.wanted}"
    if not task.reads_layers:
        raise RunError(f"{what} for a task that reads the last layer alone: leave mode.layers=last")
    if layers.wanted == "weighted" and mode.closed_form:
        raise RunError(f"{what} for a mode that learns no weights of layers: take mode=frozen")
    if layers.wanted == "best" and not (mode.cache and task.cacheable):
        cure = "take weighted, all or a list of numbers, or a mode with mode.cache=true"
        raise RunError(f"{what} for a head that reads no vectors that are computed once: {cure}")
    if task.per_position and len({*layers.widths}) > 1:
        raise RunError(f"{what} for a task on positions, of which not all of these layers have as many: take one")
    return layers


class LayerSum(nn.Module):
    """Weighs layers that lie side by side, [..., K * D], by the softmax of learnt numbers, at first alike. [..., D]"""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(count))

    def forward(self, vectors: Tensor) -> Tensor:
        """Add them up."""
        return torch.einsum("...kd,k->...d", vectors.unflatten(-1, (len(self.scores), -1)), self.scores.softmax(0))
