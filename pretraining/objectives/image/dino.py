"""DINO (Caron et al. 2021, "Emerging properties in self-supervised vision transformers").

Shapes: B images of a micro-batch, V = 2 views, L local views, D width of the projection, K prototypes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pretraining.backbones.base import Backbone
from pretraining.engine.batch import Term
from pretraining.image.augment import Views
from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.heads import Projector, Prototypes
from pretraining.objectives.image.joint import TaughtEmbedding, number
from pretraining.objectives.losses.distillation import Distillation, cross_entropy_of_views
from pretraining.objectives.memory import Centre
from pretraining.optim.optimizers import Optimizer
from pretraining.optim.schedules import Schedule


class DINO(TaughtEmbedding):
    """Cross-entropy of the student's distributions over prototypes, of all views, with the teacher's of global ones.

    Averaged over all pairs of different views. Starts near ln(prototypes) if views are unlike, and below it if the
    network says nearly the same of all (the fewer the head's outputs, the lower). The teacher is handed over.
    """

    term = "self_distillation"
    network = "teacher"
    taught = ("backbone", "projector", "prototypes")
    temperature_now: Tensor

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        views: Views,
        projector: Projector = Projector(
            layers=3, hidden=256, output=64, hidden_norm="none", bias=True, activation="gelu", init_std=0.02
        ),
        distillation: Distillation = Distillation(),
        momentum: Schedule = Schedule(first=0.97, last=1.0),
        local_views: Views | None = None,
        export: Literal["student", "teacher"] | None = None,
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer, views=views, local_views=local_views)
        self.distillation, self.freeze_steps = distillation, distillation.freeze_steps
        self.projector = projector.build(backbone.dim)
        count, lengths = distillation.prototypes, distillation.learn_lengths
        self.prototypes = Prototypes(projector.output, count, learn_lengths=lengths)
        self.centre = Centre(count, distillation.centre_momentum)
        self.register_buffer("temperature_now", torch.tensor(distillation.teacher_temperature.first))
        self.follow(momentum, export)

    def after_step(self, number: int) -> None:
        """Move the teacher, the centre and the next step's temperature."""
        super().after_step(number)
        self.centre.update()
        self.temperature_now.fill_(self.distillation.teacher_temperature(number + 1, self.settings.max_steps))

    @torch.no_grad()
    def sharpened(self, taught: Tensor, centre: Centre) -> Tensor:
        """Turn features [N, D] of the teacher into distributions [N, K], by the centre of the steps before this one."""
        scores = self.teacher.prototypes(self.teacher.projector(taught))
        if self.training:
            centre.note(scores)
        return ((scores - centre.value) / self.temperature_now).softmax(-1)

    def agreement(self, seen: Tensor, taught: Tensor) -> tuple[dict[str, Term], dict[str, Term]]:
        """Distil each view of the teacher into all other views of the student: the term and its metrics.

        `seen` [(V + L) * B, D] are the student's features, `taught` [V * B, D] the teacher's.
        """
        projected = self.projector(seen)
        targets = self.by_view(self.sharpened(taught, self.centre))  # [V, B, K]
        logits = self.by_image(self.prototypes(projected)) / self.distillation.temperature  # [V + L, B, K]
        values = cross_entropy_of_views(targets, logits)
        term = Term(values.sum(), number(len(values), values))
        return {self.term: term}, self.watch(projected[: len(taught)], targets)

    def loss(self, batch: Batch) -> Loss:
        """Show the global views to both, the local ones to the student alone."""
        with torch.no_grad():
            taught = self.teacher.backbone(**batch["inputs"]).pooled
        return Loss(*self.agreement(self.embedded(batch), taught))
