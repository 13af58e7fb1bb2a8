"""What is asked of an embedding: where its network is from, and which vectors are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pretraining.backbones.base import Backbone
from pretraining.backbones.layers import LAST, numbers_of
from pretraining.engine.precision import Precision
from pretraining.errors import RunError
from pretraining.settings import check_fields


@dataclass(frozen=True)
class Wanted:
    """Which vectors are asked for.

    `layer`: last, all (side by side), a number (0: what the first layer reads; -1: the last one), or a list of numbers.
    `pooling`: how a network makes one vector of many, where it has a choice of it; null: as it was handed over.
    `normalize`: scale each vector to length 1.
    """

    layer: str | int | Sequence[int] = LAST
    pooling: str | None = None
    batch_size: int = 64
    normalize: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "")

    def numbers(self, backbone: Backbone) -> list[int]:
        """Number the layers that are read."""
        return numbers_of(backbone, [self.layer] if isinstance(self.layer, int) else self.layer, "layer")


@dataclass(frozen=True)
class Source:
    """Where a network is from, and how it computes; see `load`."""

    reference: str
    tower: str | None = None
    side: str | None = None
    trust: Sequence[str] = ()
    seed: int = 0
    precision: Precision = "fp32"
    device: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "")
        if self.tower is not None and self.side is not None:
            what = f"got tower={self.tower} and side={self.side}"
            raise RunError(f"{what}: tower= is for a network's own vectors, side= for those in the space of several")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise RunError("got device=cuda, but there is none here: choose cpu")

    @property
    def place(self) -> torch.device:
        """Name the device that computes."""
        return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
