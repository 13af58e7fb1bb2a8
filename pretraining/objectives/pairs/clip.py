"""CLIP (Radford et al. 2021, "Learning transferable visual models from natural language supervision")."""

from __future__ import annotations

from typing import Any

from pretraining.objectives.losses.pairs import Contrasted, Sides, clip_loss
from pretraining.objectives.pairs.contrast import Contrast
from pretraining.optim.optimizers import Optimizer
from pretraining.pairs.dual_encoder import DualEncoder


class Clip(Contrast):
    """A softmax over all examples of the other side, both ways.

    `label_smoothing` is the share of the target spread over all of them (Jia et al. 2021, ALIGN).
    """

    term = "clip"

    def __init__(
        self,
        *,
        backbone: DualEncoder,
        optimizer: Optimizer,
        width: int = 128,
        scale: float = 14.285714285714,
        max_scale: float = 100.0,
        label_smoothing: float = 0.0,
    ) -> None:
        shared: dict[str, Any] = {"width": width, "scale": scale, "max_scale": max_scale}
        super().__init__(backbone=backbone, optimizer=optimizer, bias=False, **shared)
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"objective.label_smoothing={label_smoothing}: give a share from 0 to below 1")
        self.label_smoothing = label_smoothing

    def contrast(self, sides: Sides) -> Contrasted:
        """Sum the cross-entropies."""
        return clip_loss(sides, label_smoothing=self.label_smoothing)
