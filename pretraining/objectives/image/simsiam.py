"""SimSiam (Chen & He 2021, "Exploring simple Siamese representation learning"): BYOL without a teacher.

Shapes: B images of a micro-batch, V = 2 views, D width of the projection.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from pretraining.backbones.base import Backbone
from pretraining.engine.batch import Term
from pretraining.image.augment import Views
from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.heads import Projector
from pretraining.objectives.image.joint import JointEmbedding, number, predictor_of
from pretraining.objectives.losses.regression import cosines
from pretraining.optim.optimizers import Optimizer, ParameterGroup, split_by_decay


class SimSiam(JointEmbedding):
    """-cos(prediction, embedding of the other view), averaged over both directions; no gradient through the latter.

    From about 0 to -1, which a collapse reaches, too. `constant_predictor_rate` keeps the predictor's learning rate at
    its peak (section 3, "Baseline settings", and the authors' code).
    """

    term = "negative_cosine"

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        views: Views,
        projector: Projector = Projector(layers=3, hidden=256, output=256, output_norm="plain"),
        predictor: Projector = Projector(hidden=64, output=256, output_bias=True),
        constant_predictor_rate: bool = True,
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer, views=views)
        self.projector, self.predictor = projector.build(backbone.dim), predictor_of(projector, predictor)
        self.constant_predictor_rate = constant_predictor_rate

    def parameter_groups(self) -> list[ParameterGroup]:
        """Keep the predictor in groups of its own."""
        sides: dict[bool, list[tuple[str, nn.Parameter]]] = {False: [], True: []}
        for name, parameter in self.named_parameters():
            sides[name.startswith("predictor.")].append((name, parameter))
        scheduled = not self.constant_predictor_rate
        apart = (replace(group, scheduled=scheduled) for group in split_by_decay(sides[True]))
        return [*split_by_decay(sides[False]), *apart]

    def loss(self, batch: Batch) -> Loss:
        """Predict the embedding of each view from that of the other."""
        projected = self.projector(self.backbone(**batch["inputs"]).pooled)
        predicted, target = self.by_view(self.predictor(projected)), self.by_view(projected.detach())
        agreement = cosines(predicted, target.flip(0))  # [V, B]
        term = Term(-0.5 * agreement.sum(), number(agreement.shape[1], agreement))
        return Loss({self.term: term}, self.watch(projected))
