"""data2vec (Baevski et al. 2022, "data2vec", sections 3 and 4.2): predict what a teacher makes of the whole recording.

Shapes: B rows, T frames, M hidden frames, D width.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pretraining.audio.backbones.speech_encoder import SpeechEncoder
from pretraining.audio.modality import AUDIO
from pretraining.backbones.base import Backbone
from pretraining.distributed.collectives import rank
from pretraining.engine.batch import Batch, Loss, Term
from pretraining.objectives.audio.frames import at_least_single, at_places, present, speech_encoder, stemmed
from pretraining.objectives.base import Objective
from pretraining.objectives.teacher import Teacher
from pretraining.optim.optimizers import Optimizer
from pretraining.optim.schedules import Schedule

FLAT_TARGETS, FLAT_GUESSES = 0.1, 0.01  # deviations between frames below which all frames are alike: a collapse
WARM_UP = 0.1  # share of a run in which it is none


class Data2VecAudio(Objective):
    """Squared error between predictions at hidden frames and the teacher's representations of the same frames.

    A target is the mean over the teacher's `top_layers` last layers of what their feed-forward parts add, each
    normalised over the frames of its recording. The teacher is a moving average of the encoder, with `momentum` rising
    to `last_momentum`, or as a schedule says; it sees everything. The error is divided by the root of the width, as in
    fairseq.
    """

    modality = AUDIO
    backbone: SpeechEncoder

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        top_layers: int = 2,
        momentum: float | Schedule = 0.999,
        last_momentum: float = 0.9999,
        stem_gradient: float = 1.0,
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        layers = len(speech_encoder(backbone).model.encoder.layers)
        if not 1 <= top_layers <= layers or stem_gradient < 0:
            what = f"got objective.top_layers={top_layers} and objective.stem_gradient={stem_gradient}"
            raise ValueError(f"{what}: the encoder has {layers} layers, and a gradient's scale is at least 0")
        self.backbone.learn_mask()
        self.top_layers, self.stem_gradient = top_layers, stem_gradient
        self.predict = nn.Linear(backbone.dim, backbone.dim)
        self.teacher = Teacher(self, ("backbone",), momentum=momentum, last_momentum=last_momentum)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the hidden frames."""
        return {"squared_error": batch["hidden"].sum()}

    def after_step(self, number: int) -> None:
        """Let the teacher follow."""
        self.teacher.update(self, number, self.settings.max_steps)

    def loss(self, batch: Batch) -> Loss:
        """Compare predictions at hidden frames with the teacher's targets."""
        stem, real, count = stemmed(self.backbone, batch, self.stem_gradient), present(batch), self.counts(batch)
        features = self.backbone.encode(stem.normed, stem.valid, batch["inputs"]["mask"])
        guesses = at_least_single(self.predict(at_places(features.positions, batch["places"])))
        targets = at_places(self.targets(batch), batch["places"])
        errors = (guesses - targets).square().sum(2) / targets.shape[2] ** 0.5
        term = Term((errors * real).sum(), count["squared_error"])
        spread = {"target_deviation": deviation(targets, real), "guess_deviation": deviation(guesses.detach(), real)}
        shown = {name: Term(value * term.count, term.count) for name, value in spread.items()}
        return Loss({"squared_error": term}, shown)

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """Compute the teacher's targets of all frames. [B, T, D]"""
        encoder, kept = self.teacher.backbone.model.encoder, list[Tensor]()  # type: ignore[union-attr]
        top = encoder.layers[-self.top_layers :]  # type: ignore[index, union-attr]
        hooks = [layer.feed_forward.register_forward_hook(lambda _, __, added: kept.append(added)) for layer in top]  # type: ignore[union-attr]
        try:
            valid = self.teacher.backbone(**AUDIO.clean_inputs(batch, None)).valid  # type: ignore[operator]
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([over_time(at_least_single(added), valid) for added in kept]).mean(0)

    def evaluate(self, loader: Iterable[tuple[Batch, float]], prefix: str = "validation") -> dict[str, float]:
        """Evaluate, and say so where all frames have become alike."""
        values = super().evaluate(loader, prefix)
        flat = [
            f"{prefix}/{name}={values[f'{prefix}/{name}']:.3g}"
            for name, least in (("target_deviation", FLAT_TARGETS), ("guess_deviation", FLAT_GUESSES))
            if values.get(f"{prefix}/{name}", 1.0) < least
        ]
        if flat and rank() == 0 and self._trainer is not None and self.global_step > WARM_UP * self.settings.max_steps:
            told = f"collapse at step {self.global_step}: {', '.join(flat)}, all frames are alike"
            print(f"{told}; lower optimizer.peak_lr, or raise objective.momentum", file=sys.stderr)
        return values


def over_time(values: Tensor, valid: Tensor | None) -> Tensor:
    """Bring each channel of each row to mean 0 and variance 1 over the frames that hold something. [B, T, D]"""
    if valid is None:
        valid = torch.ones_like(values[..., 0], dtype=torch.bool)
    weight = valid[..., None].to(values.dtype)
    count = weight.sum(1, keepdim=True)
    mean = (values * weight).sum(1, keepdim=True) / count
    variance = ((values - mean).square() * weight).sum(1, keepdim=True) / count
    return (values - mean) * (variance + 1e-5).rsqrt()


def deviation(vectors: Tensor, real: Tensor) -> Tensor:
    """Average the deviation of each channel over the frames [B, M, D] that are `real`. []"""
    weight = real[..., None].to(vectors.dtype)
    count = weight.sum().clamp(min=1.0)
    mean = (vectors * weight).sum((0, 1)) / count
    return (((vectors - mean).square() * weight).sum((0, 1)) / count).sqrt().mean()
