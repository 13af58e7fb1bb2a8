"""SigLIP (Zhai et al. 2023, "Sigmoid loss for language image pre-training")."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pretraining.objectives.base import Batch
from pretraining.objectives.losses.pairs import Contrasted, Sides, siglip_loss
from pretraining.objectives.pairs.contrast import Contrast
from pretraining.optim.optimizers import Optimizer
from pretraining.pairs.dual_encoder import DualEncoder


class SigLip(Contrast):
    """A yes or no for each combination of both sides; the sum over them is divided by the number of pairs.

    `logit_bias` is the first value of a learnt shift of all logits: most combinations do not belong together.
    """

    term = "siglip"

    def __init__(
        self,
        *,
        backbone: DualEncoder,
        optimizer: Optimizer,
        width: int = 128,
        scale: float = 10.0,
        max_scale: float = 100.0,
        logit_bias: float = -10.0,
    ) -> None:
        shared: dict[str, Any] = {"width": width, "scale": scale, "max_scale": max_scale}
        super().__init__(backbone=backbone, optimizer=optimizer, bias=True, **shared)
        self.logit_bias = nn.Parameter(torch.tensor([logit_bias]))

    def represent(self, batch: Batch) -> Tensor:
        """Append the shift to the vectors of the first side, and 1 to the others: it is part of their product."""
        vectors = super().represent(batch)
        last = torch.ones_like(vectors[..., :1])
        last[:, 0] = self.logit_bias.to(vectors.dtype)
        return torch.cat([vectors, last], 2)

    def contrast(self, sides: Sides) -> Contrasted:
        """Sum the logistic losses."""
        return siglip_loss(sides)
