"""SimCLR (Chen et al. 2020, "A simple framework for contrastive learning of visual representations").

Views of one image should be alike, and unlike those of all other images in the step.

Shapes: B images of this rank, V views, D width of the projection.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pretraining.backbones.base import Backbone
from pretraining.engine.batch import Term
from pretraining.image.augment import Views
from pretraining.image.modality import IMAGE
from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.coupled import CoupledObjective
from pretraining.objectives.heads import Projector
from pretraining.objectives.losses.nt_xent import nt_xent
from pretraining.optim.optimizers import Optimizer


class SimCLR(CoupledObjective):
    """Contrast of views, through a projector, at a temperature.

    `decoupled` leaves the positives out of the denominator (Yeh et al. 2022, DCL); `supervised` counts images of the
    same class as positives too (Khosla et al. 2020, SupCon's L_out). `weight` multiplies the mean over anchors.
    """

    modality = IMAGE

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        views: Views,
        projector: Projector,
        temperature: float,
        decoupled: bool = False,
        supervised: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        if views.count < 2 or not temperature > 0:
            got = f"got {views.count} and {temperature}"
            raise ValueError(f"SimCLR contrasts at least 2 views at a temperature above 0, {got}")
        self.views, self.temperature, self.decoupled, self.supervised = views, temperature, decoupled, supervised
        self.weight, self.projector = weight, projector.build(backbone.dim)
        if views.output.channels_last:  # as the views come, or each convolution would reorder its weights in each step
            backbone.to(memory_format=torch.channels_last)

    def on_device(self, batch: Batch) -> Batch:
        """Make the views. [V * B, C, S, S]"""
        return batch | {"inputs": {"images": self.views(batch["images"], batch["keys"]).to(self.dtype)}}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Every view is an anchor."""
        return {"nt_xent": _number(len(batch["images"]) * self.views.count, batch["images"])}

    def represent(self, batch: Batch) -> Tensor:
        """Project all views in one forward pass. [B, V, D], of unit length, in at least single precision"""
        projected = self.projector(self.backbone(**batch["inputs"]).pooled)
        projected = F.normalize(projected.to(torch.promote_types(projected.dtype, torch.float32)), dim=-1)
        return projected.unflatten(0, (self.views.count, -1)).transpose(0, 1)

    def coupled_loss(self, representations: Tensor, batches: list[Batch]) -> Loss:
        """Contrast this rank's views with those of all ranks; in evaluation with those of the batch."""
        labels = torch.cat([batch["labels"] for batch in batches]) if self.supervised else None
        kind: dict[str, Any] = {"decoupled": self.decoupled, "across_ranks": self.training}
        if not self.training and self.settings.batch_size:  # fewer are left where the validation split has no more
            kind["others_stand_for"] = (self.settings.batch_size - 1) / (len(representations) - 1)
        total = nt_xent(representations, self.temperature, labels=labels, **kind)
        return Loss({"nt_xent": Term(total, _number(representations[..., 0].numel(), total), self.weight)})


def _number(value: int, beside: Tensor) -> Tensor:
    """Put a number into a tensor on another's device, without a copy that the host would wait for."""
    return torch.full((), value, device=beside.device, dtype=torch.int64)
