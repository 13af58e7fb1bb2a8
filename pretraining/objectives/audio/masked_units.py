"""Masked prediction of units (Hsu et al. 2021, "HuBERT", section II; with random units Chiu et al. 2022, "BEST-RQ").

Shapes: B rows, M hidden frames, K of them in all rows, U units, D width of what is compared.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.audio.backbones.speech_encoder import SpeechEncoder
from pretraining.audio.modality import AUDIO
from pretraining.backbones.base import Backbone
from pretraining.engine.batch import Batch, Loss, Term
from pretraining.objectives.audio.frames import at_least_single, at_places, present, speech_encoder, stemmed
from pretraining.objectives.base import Objective
from pretraining.optim.optimizers import Optimizer

TEMPERATURE = 0.1  # of cosines (section II-B)


class MaskedUnits(Objective):
    """Cross-entropy of the units of hidden frames, whose scores are cosines with a vector for each unit.

    - `units`: how many there are; `width`: of what is compared.
    - `penalty_weight`: of the mean square of the stem's output. `stem_gradient` scales what flows back into the stem.
    """

    modality = AUDIO
    backbone: SpeechEncoder

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        units: int,
        width: int = 256,
        penalty_weight: float = 10.0,
        stem_gradient: float = 0.1,
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        if units is None or units < 2 or width < 1 or min(penalty_weight, stem_gradient) < 0:
            what = f"got objective.units={units}, width={width}, penalty_weight={penalty_weight}"
            cure = "take preprocess=speech_units or random_speech_units, a width of at least 1, and nothing below 0"
            raise ValueError(f"{what} and stem_gradient={stem_gradient}: {cure}")
        speech_encoder(backbone).learn_mask()
        self.penalty_weight, self.stem_gradient = penalty_weight, stem_gradient
        self.project = nn.Linear(backbone.dim, width)
        self.unit_vectors = nn.Parameter(torch.rand(units, width))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the hidden frames, and all frames."""
        return {"masked_units": batch["hidden"].sum(), "feature_penalty": batch["frames"].sum()}

    def loss(self, batch: Batch) -> Loss:
        """Predict the units of hidden frames."""
        stem = stemmed(self.backbone, batch, self.stem_gradient)
        features = self.backbone.encode(stem.normed, stem.valid, batch["inputs"]["mask"])
        real, counts = present(batch), self.counts(batch)
        guesses = self.project(at_places(features.positions, batch["places"]))
        scores, codes = self.scores(guesses), batch["codes"].masked_fill(~real, -100)
        total = F.cross_entropy(scores.flatten(0, 1), codes.flatten(), ignore_index=-100, reduction="sum")
        terms = {
            "masked_units": Term(total, counts["masked_units"]),
            "feature_penalty": Term(stem.penalty.sum(), counts["feature_penalty"], self.penalty_weight),
        }
        chance = counts["masked_units"] * math.log(len(self.unit_vectors))
        shown = {"accuracy": (scores.argmax(-1) == codes).sum(), "chance": chance}
        return Loss(terms, {name: Term(value, counts["masked_units"]) for name, value in shown.items()})

    def scores(self, guesses: Tensor) -> Tensor:
        """Score the units by cosine, in single precision at least. [B, M, D] -> [B, M, U]"""
        with torch.autocast(guesses.device.type, enabled=False):
            sides = (F.normalize(at_least_single(side), dim=-1) for side in (guesses, self.unit_vectors))
            return torch.einsum("bmd,ud->bmu", *sides) / TEMPERATURE
