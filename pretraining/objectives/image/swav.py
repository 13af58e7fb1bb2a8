"""SwAV (Caron et al. 2020, "Unsupervised learning of visual features by contrasting cluster assignments").

Shapes: B images of this rank, V = 2 views, L local views, D width of the projection, K prototypes, Q rows of the queue.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pretraining.backbones.base import Backbone
from pretraining.distributed.collectives import local, rank, whole, world_size
from pretraining.engine.batch import Term
from pretraining.image.augment import Views
from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.heads import Projector
from pretraining.objectives.image.joint import CoupledEmbedding, number, precisely
from pretraining.objectives.losses.distillation import cross_entropy_of_views
from pretraining.objectives.losses.sinkhorn import Codes, sinkhorn
from pretraining.objectives.memory import Queue
from pretraining.optim.optimizers import Optimizer
from pretraining.probes import unit


class SwAV(CoupledEmbedding):
    """Predict a view's code, an even assignment of the step's images to prototypes, from each other view.

    Averaged over all pairs of one of two global views and another view. Starts near ln(prototypes),
    above it in few dimensions.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        views: Views,
        projector: Projector = Projector(hidden=256, output=64, bias=True),
        codes: Codes = Codes(),
        local_views: Views | None = None,
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer, views=views, local_views=local_views)
        self.codes, self.freeze_steps, self.weights = codes, codes.freeze_steps, {"swapped_prediction": 1.0}
        self.projector = projector.build(backbone.dim)
        self.prototypes = nn.Linear(projector.output, codes.prototypes, bias=False)
        self.queue = Queue(2 * projector.output, codes.queue) if codes.queue else None
        self.shorten_prototypes()

    @torch.no_grad()
    def shorten_prototypes(self) -> None:
        """Scale them to length 1, as before each forward pass in the authors' code."""
        rows = local(next(self.prototypes.parameters()))
        rows.copy_(nn.functional.normalize(rows, dim=1))

    def after_step(self, number: int) -> None:
        """Keep the prototypes on the sphere, and queue this step's embeddings."""
        if number >= self.freeze_steps:
            self.shorten_prototypes()
        if self.queue is not None:
            self.queue.update()

    def represent(self, batch: Batch) -> Tensor:
        """Embed all views and score them: unit vectors, without gradient, then scores. [B, V + L, D + K]"""
        embedded = unit(self.projector(self.embedded(batch)))
        with precisely(embedded):
            scored = torch.cat([embedded.detach(), self.prototypes(embedded)], 1)
        return self.by_image(scored).transpose(0, 1)

    def coupled_loss(self, representations: Tensor, batches: list[Batch]) -> Loss:
        """Predict the codes of the two global views."""
        sizes = [representations.shape[2] - self.codes.prototypes, self.codes.prototypes]
        embedded, scores = representations.transpose(0, 1).split(sizes, 2)  # [V + L, B, D or K]
        with torch.no_grad():
            codes = torch.stack([self.assigned(view, scores[view], len(embedded[view])) for view in range(2)])
        values = cross_entropy_of_views(codes, scores / self.codes.temperature)
        if self.training and self.queue is not None:
            parts = embedded[:2].transpose(0, 1).flatten(1).split([len(batch["images"]) for batch in batches])
            for part in parts:  # in the order in which one process sees the step
                self.queue.note(part)
        term = Term(values.sum(), number(len(values), values))
        return Loss({"swapped_prediction": term}, self.watch(embedded[:2], codes))

    def assigned(self, view: int, scores: Tensor, count: int) -> Tensor:
        """Compute a view's codes over all ranks, together with this rank's share of the queue. [B, K]"""
        started = self.training and self.global_step >= self.codes.queue_from
        if self.queue is not None and started and self.global_step * count * world_size() >= self.codes.queue:
            earlier = self.queue.rows.tensor_split(world_size())[rank()].chunk(2, 1)[view]
            with precisely(scores):
                # With several micro-batches this is outside of the forward pass, where sharded weights are not whole.
                scores = torch.cat([earlier @ whole(next(self.prototypes.parameters())).T, scores])
        return sinkhorn(scores, self.codes.epsilon, self.codes.iterations, across_ranks=self.training)[-count:]
