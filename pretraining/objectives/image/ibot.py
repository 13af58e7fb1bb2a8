"""iBOT (Zhou et al. 2022, "Image BERT pre-training with online tokenizer"): DINO, also of hidden patches.

Shapes: B images of a micro-batch, V = 2 views, L patches of a view, D width, K prototypes.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from pretraining.backbones.base import Backbone
from pretraining.engine.batch import Term
from pretraining.image.augment import Views
from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.heads import Projector
from pretraining.objectives.image.blocks import draw_masks
from pretraining.objectives.image.dino import DINO
from pretraining.objectives.image.joint import number, patches_a_side
from pretraining.objectives.losses.distillation import MaskedDistillation
from pretraining.objectives.memory import Centre
from pretraining.optim.optimizers import Optimizer
from pretraining.optim.schedules import Schedule


class IBOT(DINO):
    """DINO's term, and the same cross-entropy for each hidden patch of a global view with what the teacher sees there.

    The head is shared, the centre is not. Averaged over an image's hidden patches and its views; a view in which
    nothing is hidden counts as zero. Both terms start near ln(prototypes), the second times the share of such views.
    """

    distillation: MaskedDistillation

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        views: Views,
        projector: Projector = Projector(layers=3, hidden=256, output=64, activation="gelu", init_std=0.02),
        distillation: MaskedDistillation = MaskedDistillation(),
        momentum: Schedule = Schedule(first=0.996, last=1.0),
        local_views: Views | None = None,
        export: Literal["student", "teacher"] | None = None,
    ) -> None:
        given: dict[str, Any] = {"backbone": backbone, "optimizer": optimizer, "views": views, "projector": projector}
        given |= {"momentum": momentum, "local_views": local_views, "export": export}
        super().__init__(distillation=distillation, **given)
        self.side = patches_a_side(backbone, views, "iBOT hides patches", "backbone=vit_tiny, or take objective=dino")
        self.hiding = distillation.mask_chance, distillation.mask_ratio
        self.mask_token = nn.Parameter(torch.zeros(backbone.dim))
        self.patch_centre = Centre(distillation.prototypes, distillation.centre_momentum)

    def on_device(self, batch: Batch) -> Batch:
        """Make the views, and draw what the student does not see of the global ones. [V * B, L]"""
        keys, device, (chance, ratio) = batch["keys"], batch["images"].device, self.hiding
        drawn = [
            draw_masks(keys, view, (self.side, self.side), chance=chance, ratio=ratio, device=device)
            for view in range(self.views.count)
        ]
        return super().on_device(batch) | {"masked": torch.cat(drawn).flatten(1)}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the images, for both terms."""
        return super().counts(batch) | {"patch_distillation": number(len(batch["images"]), batch["images"])}

    def after_step(self, number: int) -> None:
        """Move the patches' centre, too."""
        super().after_step(number)
        self.patch_centre.update()

    def loss(self, batch: Batch) -> Loss:
        """Distil views, and patches that the student does not see."""
        with torch.no_grad():
            taught = self.teacher.backbone(**batch["inputs"])
        seen = self.backbone(**batch["inputs"], masked=batch["masked"], mask_token=self.mask_token)
        local = [self.backbone(**batch["local_inputs"]).pooled] if self.local_views is not None else []
        terms, metrics = self.agreement(torch.cat([seen.pooled, *local]), taught.pooled)
        values = self.of_patches(seen.positions, taught.positions)  # [V * B, L]
        shares = batch["masked"] / batch["masked"].sum(1, keepdim=True).clamp(min=1)
        total = (values * shares).sum() / self.views.count
        terms["patch_distillation"] = Term(total, number(len(batch["images"]), total), self.distillation.patch_weight)
        return Loss(terms, metrics)

    def of_patches(self, seen: Tensor, taught: Tensor) -> Tensor:
        """Compute the cross-entropy of each patch, from features [N, L, D]. [N, L]"""
        targets = self.sharpened(taught.flatten(0, 1), self.patch_centre)
        logs = (self.prototypes(self.projector(seen.flatten(0, 1))) / self.distillation.temperature).log_softmax(-1)
        return -(targets * logs).sum(-1).unflatten(0, seen.shape[:2])
