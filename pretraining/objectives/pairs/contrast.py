"""What objectives share that bring what belongs together into one space and keep it apart from the rest.

Shapes: B pairs of this rank, D width of the shared space, K false captions that a pair has at most.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from pretraining.data.loader import EvalLoader
from pretraining.distributed.collectives import local
from pretraining.engine.batch import Term
from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.coupled import CoupledObjective
from pretraining.objectives.losses.pairs import NUMBERS, Contrasted, Sides
from pretraining.objectives.pairs.quality import quality
from pretraining.optim.optimizers import Optimizer
from pretraining.pairs.dual_encoder import DualEncoder
from pretraining.pairs.modality import PAIRS
from pretraining.probes import unit


class Contrast(CoupledObjective):
    """Both sides' pooled vectors through a linear layer each, at unit length, and a learnt scale of their products.

    `width` is that of the shared space; `scale` the first value of the scale, which stays between 1 and `max_scale`
    (kept as its logarithm `logit_scale`). Vectors of the first side carry the scale, so that products are logits.
    """

    modality = PAIRS
    term: str
    backbone: DualEncoder
    projections: Any  # a dictionary of linear layers

    def __init__(
        self, *, backbone: DualEncoder, optimizer: Optimizer, width: int, scale: float, max_scale: float, bias: bool
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        if not 1.0 <= scale <= max_scale:
            told = f"objective.scale={scale} and objective.max_scale={max_scale}"
            raise ValueError(f"{told}: give a first scale of at least 1 and at most the largest")
        self.projections = nn.ModuleDict()
        for name, tower in backbone.towers.items():
            self.projections[name] = nn.Linear(tower.dim, width, bias=bias)
            nn.init.normal_(self.projections[name].weight, std=tower.dim**-0.5)
        self.first, self.second = backbone.towers
        self.width, self.limit = width, math.log(max_scale)
        self.logit_scale = nn.Parameter(torch.tensor([math.log(scale)]))

    @abstractmethod
    def contrast(self, sides: Sides) -> Contrasted:
        """Compute the loss of this rank's pairs."""

    def on_device(self, batch: Batch) -> Batch:
        """Bring real inputs to the model's precision."""
        inputs = {
            side: {name: part.to(self.dtype) if part.is_floating_point() else part for name, part in given.items()}
            for side, given in batch["inputs"].items()
        }
        return batch | {"inputs": inputs}

    def represent(self, batch: Batch) -> Tensor:
        """Compute both sides' vectors, the first one's times the scale. [B, 2, D], in at least single precision

        Behind them stand those of the pair's false captions, [B, 2 + K, D]; zeros where it has fewer.
        """
        features = self.backbone(**batch["inputs"])
        vectors = [self.projections[name](features[name].pooled) for name in (self.first, self.second)]
        first, second = (unit(part) for part in vectors)
        both = torch.stack([first * self.logit_scale.to(first.dtype).exp(), second[: len(first)]], 1)
        there = batch["false"] >= 0
        false = both.new_zeros(*there.shape, self.width).masked_scatter(there[..., None], second[len(first) :])
        return torch.cat([both, false], 1)

    def place(self, side: str, inputs: dict[str, Tensor]) -> Tensor:
        """Bring examples of one side into the space. [B, D], of unit length"""
        return unit(self.projections[side](self.backbone.towers[side](**inputs).pooled))

    def quality(self, loader: EvalLoader) -> dict[str, float]:
        """Measure whether what is most similar in the whole of a split is right."""
        return quality(self, loader)

    def coupled_loss(self, representations: Tensor, batches: list[Batch]) -> Loss:
        """Contrast this rank's pairs with those of all ranks; in evaluation with those of the batch alone."""
        numbers = {name: torch.cat([batch[name] for batch in batches]) for name in NUMBERS}
        found = self.contrast(Sides.gathered(representations, numbers, across_ranks=self.training))
        count = torch.full((), len(representations), device=representations.device, dtype=torch.int64)
        scale = representations.detach()[:, 0, : self.width].norm(dim=1).sum()
        metrics = {
            f"{self.first}_to_{self.second}": Term(found.first_right, count),
            f"{self.second}_to_{self.first}": Term(found.second_right, count),
            "scale": Term(scale, count),
        }
        if numbers["false"].shape[1]:
            metrics["false_told"] = _told(representations.detach(), numbers["false"] >= 0)
        return Loss({self.term: Term(found.total, count)}, metrics)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the pairs."""
        return {self.term: torch.full((), len(batch["caption"]), device=batch["caption"].device, dtype=torch.int64)}

    @torch.no_grad()
    def after_step(self, number: int) -> None:
        """Keep the scale in its bounds: clamped here it can come back, which in the forward pass it could not."""
        local(self.logit_scale).clamp_(0.0, self.limit)


def _told(representations: Tensor, there: Tensor) -> Term:
    """Find the share of false captions that are less similar than the pair's true one."""
    first, second, false = representations[:, :1], representations[:, 1:2], representations[:, 2:]
    less = (first * false).sum(2) < (first * second).sum(2)
    return Term((less & there).sum(), there.sum())
