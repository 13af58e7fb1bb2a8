"""What every backbone says, and all that objectives and tasks may know of one.

Shapes: B examples, L positions (tokens, patches or feature-map cells), D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn


class Features(NamedTuple):
    """A backbone's answer: one vector per position and one per example."""

    positions: Tensor  # [B, L, D]
    pooled: Tensor  # [B, D]


class TextRow(NamedTuple):
    """An average row of text as FLOP counters take it: means over rows, padding excluded."""

    read: float  # tokens that the network (the encoder, where there are two) reads
    seen: float  # tokens that each of them sees: those of its document, itself included
    tokens: float  # of the text, as budgets count them
    predicted: float = 0.0  # tokens that are scored over the vocabulary; all that a decoder behind an encoder writes
    written_seen: float = 0.0  # tokens of its target that each of those sees


class Backbone(nn.Module, ABC):
    """A network that turns inputs into `Features`.

    Text backbones take `input_ids` [B, T] and `documents` [B, T] (an integer per token: 0 is padding, and a token sees only tokens of
    its own document); image backbones take `images` [B, C, H, W], normalised floats.
    """

    modality: ClassVar[str]
    dim: int
    kwargs: dict[str, Any]  # plain constructor arguments: `type(self)(**self.kwargs)` is the same architecture

    @property
    def convolves(self) -> bool:
        """Whether there are convolutions over images in it whose gradients in bf16 on CPUs nobody has checked."""
        return any(isinstance(module, nn.Conv2d) for module in self.modules())

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Features:
        """Compute the features of a batch."""

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """List the parts from input to output, embeddings or stem first; together they hold every parameter."""

    def set_compute(self, *, compiled: bool, recompute: bool, sharded: bool) -> None:
        """Compile the parts that repeat; in training keep only their inputs, computing the rest again for the backward pass.

        `sharded`: weights will be whole only inside of their own module's forward pass.
        """
        if recompute:
            raise ValueError(f"{type(self).__name__} keeps what its backward pass needs: set trainer.recompute=false")
        for block in self.blocks() if compiled else []:
            if not isinstance(block, nn.ModuleList):
                block.compile()

    @abstractmethod
    def export(self, directory: Path) -> None:
        """Write the weights as model.safetensors under the names that the home library uses, and its config."""

    @abstractmethod
    def load(self, directory: Path) -> None:
        """Read what `export` wrote; any missing or unexpected weight is an error."""

    @abstractmethod
    def forward_flops(self, shape: Sequence[float]) -> float:
        """Count the floating-point operations (2 per multiply-add) of one example's forward pass.

        `shape` is a `TextRow`, of which the first two count here, or (channels, height, width) for images. Masked parts of attention are
        counted like others, since plain attention computes them.
        """

    @abstractmethod
    def usage(self) -> str:
        """Give the python lines that load the exported weights without this package; `DIR` stands for the directory."""
