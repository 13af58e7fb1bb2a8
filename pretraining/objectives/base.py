"""What a pretraining objective is: a backbone, heads, and a loss that is a sum of counted terms.

Shapes: B examples.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from pretraining.backbones.base import Backbone
from pretraining.data.loader import EvalLoader
from pretraining.distributed.collectives import shard
from pretraining.engine.batch import Batch, Loss
from pretraining.engine.step import StepModule
from pretraining.modality import Modality
from pretraining.optim.optimizers import Optimizer
from pretraining.settings import Noted

__all__ = ["Batch", "Loss", "Objective"]


class Objective(Noted, StepModule):
    """A pretraining objective. A subclass writes its heads in `__init__`, `loss(batch)` and `counts(batch)`."""

    modality: ClassVar[Modality | None] = None  # None: any
    coupled: ClassVar[bool] = False  # whether an example's loss depends on the other examples of its batch
    network: str | None = None  # which is handed over, student or teacher, where there are both

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

    @property
    def handed_over(self) -> str:
        """Name the part that a hand-off is for: the backbone, or its teacher."""
        return "teacher.backbone" if self.network == "teacher" else "backbone"

    def heads(self) -> dict[str, Tensor]:
        """Collect the rest of the weights: everything that is not the handed-over network's."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith(f"{self.handed_over}.")}

    def quality(self, loader: EvalLoader) -> dict[str, float]:
        """Measure what a whole split, not augmented, tells of the network, where an objective has such measures."""
        return {}

    def remarks(self) -> list[str]:
        """Say what a run's last measures mean for whoever reads its end, if they mean trouble."""
        return []
