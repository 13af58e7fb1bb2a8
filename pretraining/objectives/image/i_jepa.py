"""I-JEPA (Assran et al. 2023, "Self-supervised learning from images with a joint-embedding predictive architecture").

Shapes: B images of a micro-batch, L patches, K of them in the context, T targets, P places of a target, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pretraining.backbones.base import Backbone
from pretraining.engine.batch import Term
from pretraining.image.augment import Views
from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.image.joint import TaughtEmbedding, at_least_single, number, patches_a_side
from pretraining.objectives.image.patch_predictor import Asked, Blocks, PatchPredictor
from pretraining.optim.optimizers import Optimizer
from pretraining.optim.schedules import Schedule
from pretraining.random import uniform


class IJEPA(TaughtEmbedding):
    """Predict the teacher's features of blocks of an image from the student's of other patches: smooth L1 (beta 1).

    Targets are layer-normalised, without weights. Averaged over width, a block's patches and an image's blocks. No
    colour, no flips, one view. The teacher is handed over.
    """

    term = "smooth_l1"
    wanted = 1
    network = "teacher"
    taught = ("backbone",)

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        views: Views,
        blocks: Blocks = Blocks(),
        predictor: PatchPredictor = PatchPredictor(),
        momentum: Schedule = Schedule(first=0.996, last=1.0, shape="linear"),
        export: Literal["student", "teacher"] | None = None,
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer, views=views)
        told, cure = "I-JEPA predicts patches", "backbone=vit_tiny and backbone.pooling=mean"
        self.side, self.blocks = patches_a_side(backbone, views, told, cure), blocks
        if backbone.kwargs["pooling"] != "mean":
            raise ValueError(f"{told} and does not train the class token of a vision transformer: set {cure}")
        self.predictor = predictor.build(backbone.dim, self.side)
        self.follow(momentum, export)

    def on_device(self, batch: Batch) -> Batch:
        """Make the view, and draw contexts and targets: a function of each image's key alone."""
        drawn = uniform(batch["keys"], "blocks", self.blocks.numbers(self.side))
        asked = self.blocks.ask(torch.as_tensor(drawn, device=batch["images"].device), self.side)
        return super().on_device(batch) | asked._asdict()

    def loss(self, batch: Batch) -> Loss:
        """Compare predicted with taught features."""
        asked = Asked(*(batch[name] for name in Asked._fields))
        with torch.no_grad():
            taught = at_least_single(self.teacher.backbone(**batch["inputs"]).positions)
            taught = F.layer_norm(taught, taught.shape[-1:])  # [B, L, D]
            wanted = torch.stack([_taken(taught, places) for places in asked.targets.unbind(1)], 1)  # [B, T, P, D]
        context = self.backbone(**batch["inputs"], visible=asked.context).positions
        predicted = self.predictor(context, asked).to(wanted.dtype)
        errors = F.smooth_l1_loss(predicted, wanted, reduction="none").mean(-1)
        shares = asked.valid / asked.valid.sum(2, keepdim=True).clamp(min=1)
        total = (errors * shares).sum() / asked.valid.shape[1]
        term = Term(total, number(len(batch["images"]), total))
        return Loss({self.term: term}, self.watch(taught.mean(1)))


def _taken(features: Tensor, places: Tensor) -> Tensor:
    """Take the features [B, L, D] at places [B, P]. [B, P, D]"""
    return features.gather(1, places[..., None].expand(-1, -1, features.shape[2]))
