"""What joint-embedding objectives of images share: views of an image as inputs, a teacher, and the watch for collapse.

Shapes: B images of a micro-batch, V views, L smaller local views, D width of an embedding, K prototypes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pretraining import probes
from pretraining.backbones.base import Backbone
from pretraining.distributed.collectives import gather_with_gradient
from pretraining.engine.batch import Loss, Term
from pretraining.image.augment import Views
from pretraining.image.augment.views import require_views
from pretraining.image.modality import IMAGE
from pretraining.objectives.base import Batch, Objective
from pretraining.objectives.coupled import CoupledObjective
from pretraining.objectives.heads import Projector
from pretraining.objectives.losses.distillation import divergence_from_mean
from pretraining.objectives.losses.nt_xent import refuse_unequal
from pretraining.objectives.teacher import Teacher
from pretraining.optim.optimizers import Optimizer
from pretraining.optim.schedules import Schedule

COLLAPSED = {  # below: the network says nearly the same of all images; `watch` says what each is
    "spread": (0.1, "of unit embeddings; 1: even on the sphere, 0: all in one point"),
    "effective_rank": (1.5, "directions that the embeddings use"),
    "teacher_divergence": (0.01, "nats by which the teacher tells images apart"),
}


class JointEmbedding(Objective):
    """An objective that brings views of the same image together: two views, unless a subclass takes more.

    A network is called once per resolution: batch normalisation sees all views of one size together.
    """

    modality = IMAGE
    term: ClassVar[str]
    wanted: ClassVar[int | None] = 2  # views; None: two or more
    prototypes: nn.Module  # the last layer, where there is one
    freeze_steps: int = 0  # first steps in which it rests

    def __init__(
        self, *, backbone: Backbone, optimizer: Optimizer, views: Views, local_views: Views | None = None
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        if self.wanted not in (None, require_views(views).count):
            told = f"{type(self).__name__} takes {self.wanted} view(s) of an image, got augment.count={views.count}"
            raise ValueError(f"{told}: set augment.count={self.wanted}")
        self.views, self.local_views = views, local_views
        patches = getattr(backbone, "patches", None)
        if local_views is not None and patches is not None and local_views.crop.size % patches[0]:
            told = f"objective.local_views.crop.size={local_views.crop.size} is no whole number of patches"
            raise ValueError(f"{told} of {patches[0]} pixels: set it to a multiple of {patches[0]}")

    def on_device(self, batch: Batch) -> Batch:
        """Make the views [V * B, C, S, S] and, where there are any, the local ones, by draws of their own."""
        images, keys = batch["images"], batch["keys"]
        made = {"inputs": {"images": self.views(images, keys).to(self.dtype)}}
        if self.local_views is not None:
            keys = keys._replace(stream=f"{keys.stream}/local")
            made["local_inputs"] = {"images": self.local_views(images, keys).to(self.dtype)}
        return batch | made

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the images."""
        return {self.term: number(len(batch["images"]), batch["images"])}

    def by_view(self, rows: Tensor) -> Tensor:
        """Tell the views apart. [V * B, ...] -> [V, B, ...]"""
        return rows.unflatten(0, (self.views.count, -1))

    def embedded(self, batch: Batch) -> Tensor:
        """Compute the backbone's features of all views, local ones last. [(V + L) * B, D]"""
        given = [batch[name] for name in ("inputs", "local_inputs") if name in batch]
        return torch.cat([self.backbone(**inputs).pooled for inputs in given])

    def by_image(self, rows: Tensor) -> Tensor:
        """Tell the views apart, local ones included. [(V + L) * B, ...] -> [V + L, B, ...]"""
        more = 0 if self.local_views is None else self.local_views.count
        return rows.unflatten(0, (self.views.count + more, -1))

    def backward_step(self, batches: list[Batch], counts: dict[str, Tensor]) -> None:
        """Accumulate the gradient; prototypes that rest get none, so that the optimizer leaves them as they are."""
        super().backward_step(batches, counts)
        if self.global_step < self.freeze_steps:
            for parameter in self.prototypes.parameters():
                parameter.grad = None

    @torch.no_grad()
    def watch(self, embeddings: Tensor, targets: Tensor | None = None) -> dict[str, Term]:
        """Measure in evaluation what tells a collapse: of `embeddings` [..., D] and a teacher's `targets` [..., K].

        The spread of unit embeddings times the root of D, their effective rank, the entropy of a teacher's
        distributions and their divergence from the mean one; each over a batch, averaged by images.
        """
        if self.training:
            return {}
        rows = embeddings.detach().flatten(0, -2)
        values = {"spread": probes.feature_spread(rows), "effective_rank": probes.effective_rank(probes.unit(rows))}
        found = {name: rows.new_tensor(value) for name, value in values.items()}
        if targets is not None:
            parts = divergence_from_mean(targets.flatten(0, -2))
            found |= dict(zip(("teacher_entropy", "teacher_divergence"), parts, strict=True))
        count = number(len(rows), rows)
        return {name: Term(value * count, count) for name, value in found.items()}

    def remarks(self) -> list[str]:
        """Say that the run has collapsed, and by which measures."""
        found = {name: self.measured.get(f"validation/{name}") for name in COLLAPSED}
        low = {name: value for name, value in found.items() if value is not None and value < COLLAPSED[name][0]}
        shown = "; ".join(f"{name} {value:.3g} ({COLLAPSED[name][1]})" for name, value in low.items())
        cure = "lower optimizer.peak_lr, or raise data.batch_size, the momentum or the regularising weights"
        return [f"this run has collapsed: {shown}. What to try: {cure}"] if low else []


class TaughtEmbedding(JointEmbedding):
    """A joint embedding whose targets come from a slower copy of itself, with batch statistics of its own.

    A subclass ends its constructor with `follow`.
    """

    network = "student"
    teacher: Any  # a `Teacher`, whose copies the type checker does not know by name
    taught: ClassVar[tuple[str, ...]] = ("backbone", "projector")
    lead: ClassVar[int] = 0  # 1: a step's momentum is that of the update before its targets (MoCo), not after it

    def follow(self, momentum: Schedule, export: Literal["student", "teacher"] | None) -> None:
        """Make the teacher, and hand over the network `export` (null: which the method's authors evaluate)."""
        if export not in (None, "student", "teacher"):
            raise ValueError(f"objective.export={export} is unknown: choose student, teacher or null")
        self.network = export or self.network
        self.teacher = Teacher(self, self.taught, momentum=momentum, buffers="own", mode="train")

    def after_step(self, number: int) -> None:
        """Move the teacher."""
        self.teacher.update(self, number + self.lead, self.settings.max_steps)

    @torch.no_grad()
    def targets(self, images: Tensor) -> Tensor:
        """Embed views by the teacher, without gradient. [N, D]"""
        return self.teacher.projector(self.teacher.backbone(images=images).pooled)


class CoupledEmbedding(JointEmbedding, CoupledObjective):
    """A joint embedding whose loss is a function of the embeddings of a whole step: of their moments, or of a softmax.

    A subclass sets `weights`, of its terms, and `projector`.
    """

    weights: dict[str, float]
    projector: nn.Module

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the images, for each term."""
        return {name: number(len(batch["images"]), batch["images"]) for name in self.weights}

    def represent(self, batch: Batch) -> Tensor:
        """Embed all views. [B, V, D], in at least single precision"""
        embedded = self.projector(self.backbone(**batch["inputs"]).pooled)
        return self.by_view(at_least_single(embedded)).transpose(0, 1)

    def gathered(self, representations: Tensor) -> Tensor:
        """Concatenate those of all ranks, which must hold equally many; in evaluation the batch is by itself."""
        if self.training:
            refuse_unequal(representations)
            representations = gather_with_gradient(representations)
        if len(representations) < 2:
            raise ValueError(f"{type(self).__name__} compares images with each other: give at least 2 per step")
        return representations

    def of_the_step(self, values: Sequence[Tensor], representations: Tensor) -> Loss:
        """Make terms of numbers that are the same on all ranks, of which this rank's images carry their share."""
        count = number(len(representations), representations)
        terms = zip(self.weights.items(), values, strict=True)
        found = {name: Term(value * count, count, weight) for (name, weight), value in terms}
        return Loss(found, self.watch(representations))


def patches_a_side(backbone: Backbone, views: Views, told: str, cure: str) -> int:
    """Count the patches of a view's side, or refuse a network that has no patches, which a method is `told` to need."""
    patches = getattr(backbone, "patches", None)
    if patches is None:
        raise ValueError(f"{told} of a vision transformer: set {cure}")
    return views.crop.size // patches[0]


def predictor_of(projector: Projector, predictor: Projector) -> nn.Sequential:
    """Build a predictor of what a projector makes, or refuse one of another width than it has to predict."""
    if predictor.output != projector.output:
        told = f"objective.predictor.output={predictor.output} predicts objective.projector.output={projector.output}"
        raise ValueError(f"{told}: set both to the same width")
    return predictor.build(projector.output)


def precisely(tensor: Tensor) -> contextlib.AbstractContextManager[None]:
    """Compute inside in the precision of the operands, on the device of `tensor`, whatever the network computes in."""
    return torch.autocast(tensor.device.type, enabled=False)


def at_least_single(tensor: Tensor) -> Tensor:
    """Turn half precision into single."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def number(value: int, beside: Tensor) -> Tensor:
    """Put a number into a tensor on another's device, without a copy that the host would wait for."""
    return torch.full((), value, device=beside.device, dtype=torch.int64)
