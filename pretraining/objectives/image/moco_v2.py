"""MoCo v2 (Chen et al. 2020, "Improved baselines with momentum contrastive learning"; He et al. 2020).

Shapes: B images of a micro-batch, V = 2 views, M queries and keys, Q keys of the queue, D width of the projection.
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
from pretraining.objectives.heads import Projector
from pretraining.objectives.image.joint import TaughtEmbedding, number, precisely
from pretraining.objectives.memory import Queue, QueueContrast
from pretraining.optim.optimizers import Optimizer
from pretraining.optim.schedules import Schedule
from pretraining.probes import unit


class MoCoV2(TaughtEmbedding):
    """Tell the teacher's embedding (key) of an image's other view from those of earlier images in a queue.

    The first view asks, the second answers; `symmetric`: each asks for the other, averaged, and all keys are queued.
    Starts between ln(queue + 1) and 1 / temperature around it. Keys are not shuffled over ranks (the paper's guard
    against what batch statistics tell): batch normalisation sees the images of all ranks.
    """

    term = "info_nce"
    lead = 1

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        views: Views,
        projector: Projector = Projector(hidden_norm="none", bias=True),
        contrast: QueueContrast = QueueContrast(),
        momentum: Schedule = Schedule(first=0.99, last=0.99),
        export: Literal["student", "teacher"] | None = None,
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer, views=views)
        self.contrast, self.projector = contrast, projector.build(backbone.dim)
        self.queue = Queue(projector.output, contrast.queue)
        self.follow(momentum, export)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the queries."""
        return {self.term: number(len(batch["images"]) * (2 if self.contrast.symmetric else 1), batch["images"])}

    def loss(self, batch: Batch) -> Loss:
        """Contrast each query's key with the queue as it was before this step."""
        images = batch["inputs"]["images"]
        asked, answered = images, self.by_view(images).flip(0).flatten(0, 1)  # the view that each asks for
        if not self.contrast.symmetric:
            asked, answered = asked[: len(batch["images"])], answered[: len(batch["images"])]
        queries, keys = unit(self.projector(self.backbone(images=asked).pooled)), unit(self.targets(answered))
        if self.training:
            self.queue.note(keys.unflatten(0, (-1, len(batch["images"]))).transpose(0, 1).flatten(0, 1))  # by image
        with precisely(queries):
            against = queries @ self.queue.rows.T  # [M, Q]
            logits = torch.cat([(queries * keys).sum(1, keepdim=True), against], 1) / self.contrast.temperature
        total = F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64), reduction="sum")
        return Loss({self.term: Term(total, number(len(logits), total))}, self.watch(queries))

    def after_step(self, number: int) -> None:
        """Move the teacher, and queue this step's keys."""
        super().after_step(number)
        self.queue.update()
