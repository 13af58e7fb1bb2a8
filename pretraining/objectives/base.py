"""What a pretraining objective is: a backbone, heads, and a loss that is a sum of counted terms.

Shapes: B examples.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from pretraining.backbones.base import Backbone
from pretraining.distributed.collectives import shard
from pretraining.engine.batch import Batch, Loss
from pretraining.engine.step import StepModule
from pretraining.modality import Modality
from pretraining.optim.optimizers import Optimizer

__all__ = ["Batch", "Loss", "Objective"]


class Objective(StepModule):
    """A pretraining objective. A subclass writes its heads in `__init__`, `loss(batch)` and `counts(batch)`."""

    modality: ClassVar[Modality | None] = None  # None: any
    coupled: ClassVar[bool] = False  # whether an example's loss depends on the other examples of its batch

    def __init__(self, *, backbone: Backbone, optimizer: Optimizer) -> None:
        super().__init__(optimizer=optimizer)
        if self.modality not in (None, backbone.modality):
            told = f"but the backbone {type(backbone).__name__} reads {backbone.modality}"
            remedy = "choose another objective= or backbone="
            raise ValueError(f"{type(self).__name__} learns from {self.modality}, {told}: {remedy}")
        self.backbone = backbone

    def configure_model(self) -> None:
        """Share the weights out over the ranks where the strategy asks for it (called by Lightning)."""
        if self.device_mesh is not None:
            shard(self, self.backbone.blocks(), self.device_mesh["data_parallel"])

    def heads(self) -> dict[str, Tensor]:
        """Collect the pretraining heads' weights: everything that is not the backbone's."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("backbone.")}
