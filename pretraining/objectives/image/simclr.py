"""SimCLR (Chen et al. 2020, "A simple framework for contrastive learning of visual representations").

Views of one image should be alike, and unlike those of all other images in the step.

Shapes: B images of this rank, V views, D width of the projection.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pretraining.backbones.base import Backbone
from pretraining.engine.batch import Term
from pretraining.image.augment import Views
from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.heads import Projector
from pretraining.objectives.image.joint import CoupledEmbedding, number
from pretraining.objectives.losses.nt_xent import nt_xent
from pretraining.optim.optimizers import Optimizer
from pretraining.probes import unit


class SimCLR(CoupledEmbedding):
    """Contrast of views, through a projector, at a temperature.

    `decoupled` leaves the positives out of the denominator (Yeh et al. 2022, DCL); `supervised` counts images of the
    same class as positives too (Khosla et al. 2020, SupCon's L_out). `weight` multiplies the mean over anchors.
    """

    wanted = None

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        views: Views,
        projector: Projector = Projector(),
        temperature: float = 0.5,
        decoupled: bool = False,
        supervised: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer, views=views)
        if views.count < 2 or not temperature > 0:
            got = f"got {views.count} and {temperature}"
            raise ValueError(f"SimCLR contrasts at least 2 views at a temperature above 0, {got}")
        self.temperature, self.decoupled, self.supervised = temperature, decoupled, supervised
        self.weight, self.projector = weight, projector.build(backbone.dim)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Every view is an anchor."""
        return {"nt_xent": number(len(batch["images"]) * self.views.count, batch["images"])}

    def represent(self, batch: Batch) -> Tensor:
        """Project all views in one forward pass. [B, V, D], of unit length, in at least single precision"""
        return unit(super().represent(batch))

    def coupled_loss(self, representations: Tensor, batches: list[Batch]) -> Loss:
        """Contrast this rank's views with those of all ranks; in evaluation the batch's, at training's size."""
        labels = torch.cat([batch["labels"] for batch in batches]) if self.supervised else None
        kind: dict[str, Any] = {"decoupled": self.decoupled, "across_ranks": self.training}
        if not self.training and self.settings.batch_size:  # fewer are left where the validation split has no more
            kind["others_stand_for"] = (self.settings.batch_size - 1) / (len(representations) - 1)
        total = nt_xent(representations, self.temperature, labels=labels, **kind)
        term = Term(total, number(representations[..., 0].numel(), total), self.weight)
        return Loss({"nt_xent": term}, self.watch(representations))
