"""MoCo v3 (Chen et al. 2021, "An empirical study of training self-supervised vision transformers").

Shapes: B images of this rank, N of all ranks, V = 2 views, D width of the projection.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pretraining.backbones.base import Backbone
from pretraining.distributed.collectives import rank
from pretraining.engine.batch import Term
from pretraining.image.augment import Views
from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.heads import Projector
from pretraining.objectives.image.joint import CoupledEmbedding, TaughtEmbedding, number, precisely, predictor_of
from pretraining.optim.optimizers import Optimizer
from pretraining.optim.schedules import Schedule
from pretraining.probes import unit


class MoCoV3(TaughtEmbedding, CoupledEmbedding):
    """Tell the teacher's embedding (key) of an image's other view from those of all images of the step.

    2 * temperature * cross-entropy, added over both directions (algorithm 1 and the authors' code), so that one rate
    fits all temperatures. Starts near 4 * temperature * ln(images of the step).
    """

    lead = 1

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        views: Views,
        projector: Projector = Projector(hidden=256, output=64, output_norm="plain"),
        predictor: Projector = Projector(hidden=256, output=64),
        temperature: float = 0.2,
        momentum: Schedule = Schedule(first=0.99, last=1.0),
        export: Literal["student", "teacher"] | None = None,
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer, views=views)
        if not temperature > 0:
            raise ValueError(f"objective.temperature must be above 0, got {temperature}")
        self.temperature, self.weights = temperature, {"info_nce": 1.0}
        self.projector, self.predictor = projector.build(backbone.dim), predictor_of(projector, predictor)
        self.follow(momentum, export)

    def represent(self, batch: Batch) -> Tensor:
        """Predict from all views, and embed them by the teacher: queries, then keys. [B, 2 * V, D], of unit length"""
        images = batch["inputs"]["images"]
        predicted = self.predictor(self.projector(self.backbone(images=images).pooled))
        both = torch.cat([self.by_view(unit(part)) for part in (predicted, self.targets(images))])
        return both.transpose(0, 1)

    def coupled_loss(self, representations: Tensor, batches: list[Batch]) -> Loss:
        """Contrast this rank's queries with the keys of all ranks; in evaluation with those of the batch alone."""
        queries, keys = representations.split(2, 1)
        keys, count = self.gathered(keys.detach()), len(queries)
        own = torch.arange(count, device=keys.device) + (rank() * count if self.training else 0)
        with precisely(keys):
            logits = [queries[:, view] @ keys[:, 1 - view].T / self.temperature for view in range(2)]  # [B, N] each
            total = torch.stack([F.cross_entropy(part, own, reduction="sum") for part in logits]).sum()
        term = Term(2.0 * self.temperature * total, number(count, total))
        return Loss({"info_nce": term}, self.watch(queries))
