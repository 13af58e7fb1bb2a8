"""What every backbone says, and all that objectives and tasks may know of one.

Shapes: B examples, L positions (tokens, patches or feature-map cells), D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn


class Features(NamedTuple):
    """A backbone's answer: one vector per position and one per example."""

    positions: Tensor  # [B, L, D]
    pooled: Tensor  # [B, D]


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
        """Whether there are convolutions over images in it."""
        return any(isinstance(module, nn.Conv2d) for module in self.modules())

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Features:
        """Compute the features of a batch."""

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """List the parts from input to output, embeddings or stem first; together they hold every parameter."""

    @abstractmethod
    def export(self, directory: Path) -> None:
        """Write the weights as model.safetensors under the names that the home library uses, and its config."""

    @abstractmethod
    def load(self, directory: Path) -> None:
        """Read what `export` wrote; any missing or unexpected weight is an error."""

    @abstractmethod
    def forward_flops(self, shape: tuple[int, ...]) -> float:
        """Count the floating-point operations (2 per multiply-add) of one example's forward pass.

        `shape` is (tokens, tokens each of them sees) for text, (channels, height, width) for images.
        """

    @abstractmethod
    def usage(self) -> str:
        """Give the python lines that load the exported weights without this package; `DIR` stands for the directory."""
