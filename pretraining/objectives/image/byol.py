"""BYOL (Grill et al. 2020, "Bootstrap your own latent"): predict a slower network's embedding of another view.

Shapes: B images of a micro-batch, V = 2 views, D width of the projection.
"""

from __future__ import annotations

from typing import Literal

from pretraining.backbones.base import Backbone
from pretraining.engine.batch import Term
from pretraining.image.augment import Views
from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.heads import Projector
from pretraining.objectives.image.joint import TaughtEmbedding, number, predictor_of
from pretraining.objectives.losses.regression import cosines
from pretraining.optim.optimizers import Optimizer
from pretraining.optim.schedules import Schedule


class BYOL(TaughtEmbedding):
    """Squared distance of unit vectors, 2 - 2 cos(prediction, target), added over both directions (section 3.1).

    Starts near 4, ends between 0 and 4. `momentum` is the teacher's.
    """

    term = "distance"

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        views: Views,
        projector: Projector = Projector(hidden=256, output=64),
        predictor: Projector = Projector(hidden=256, output=64),
        momentum: Schedule = Schedule(first=0.97, last=1.0),
        export: Literal["student", "teacher"] | None = None,
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer, views=views)
        self.projector, self.predictor = projector.build(backbone.dim), predictor_of(projector, predictor)
        self.follow(momentum, export)

    def loss(self, batch: Batch) -> Loss:
        """Predict the teacher's embedding of each view from the student's of the other."""
        images = batch["inputs"]["images"]
        projected = self.projector(self.backbone(images=images).pooled)
        predicted, target = self.by_view(self.predictor(projected)), self.by_view(self.targets(images))
        distances = 2.0 - 2.0 * cosines(predicted, target.flip(0))  # [V, B]
        term = Term(distances.sum(), number(distances.shape[1], distances))
        return Loss({self.term: term}, self.watch(projected))
