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
from pretraining.objectives.image.blocks import block_masks
from pretraining.objectives.image.dino import DINO
from pretraining.objectives.image.joint import number
from pretraining.objectives.losses.distillation import MaskedDistillation
from pretraining.objectives.memory import Centre
from pretraining.optim.optimizers import Optimizer
from pretraining.optim.schedules import Schedule
from pretraining.random import uniform

ATTEMPTS = 16  # rectangles that are tried per view


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
        projector: Projector,
        distillation: MaskedDistillation,
        momentum: Schedule,
        local_views: Views | None = None,
        export: Literal["student", "teacher"] | None = None,
    ) -> None:
        given: dict[str, Any] = {"backbone": backbone, "optimizer": optimizer, "views": views, "projector": projector}
        given |= {"momentum": momentum, "local_views": local_views, "export": export}
        super().__init__(distillation=distillation, **given)
        model: Any = getattr(backbone, "model", None)
        if not hasattr(model, "patch_size"):
            raise ValueError(
                "iBOT hides patches of a vision transformer: set backbone=vit_tiny, or take objective=dino"
            )
        self.side = views.crop.size // model.patch_size
        self.mask_token = nn.Parameter(torch.zeros(backbone.dim))
        self.patch_centre = Centre(distillation.prototypes, distillation.centre_momentum)

    def on_device(self, batch: Batch) -> Batch:
        """Make the views, and draw what the student does not see of the global ones. [V * B, L]"""
        settings, side, hidden = self.distillation, self.side, []
        for view in range(self.views.count):
            drawn = torch.as_tensor(
                uniform(batch["keys"], "hidden", 2 + 4 * ATTEMPTS, view), device=batch["images"].device
            )
            low, high = settings.mask_ratio
            ratio = torch.where(drawn[:, 0] < settings.mask_chance, low + (high - low) * drawn[:, 1], 0.0)
            count = (ratio * side * side).floor()
            hidden.append(block_masks(drawn[:, 2:].unflatten(1, (ATTEMPTS, 4)), count, (side, side)))
        return super().on_device(batch) | {"masked": torch.cat(hidden).flatten(1)}

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
        with torch.no_grad():
            known = self.teacher.prototypes(self.teacher.projector(taught.flatten(0, 1)))
            targets = self.sharpened(known, self.patch_centre)
        logs = (self.prototypes(self.projector(seen.flatten(0, 1))) / self.distillation.temperature).log_softmax(-1)
        return -(targets * logs).sum(-1).unflatten(0, seen.shape[:2])
