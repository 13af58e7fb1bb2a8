"""wav2vec 2.0 (Baevski et al. 2020): tell the quantised frame that is hidden from others of the same recording.

Shapes: B rows, T frames, M hidden frames, K negatives, G groups, V codes of a group, D width of what is compared.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.audio.backbones.speech_encoder import SpeechEncoder
from pretraining.audio.modality import AUDIO
from pretraining.backbones.base import Backbone
from pretraining.distributed.collectives import gather_with_gradient, rank
from pretraining.engine.batch import Batch, Loss, Term
from pretraining.objectives.audio.frames import at_least_single, at_places, present, speech_encoder, stemmed
from pretraining.objectives.audio.quantiser import ProductQuantiser, gumbel, perplexity
from pretraining.objectives.coupled import CoupledObjective
from pretraining.optim.optimizers import Optimizer
from pretraining.random import integers, uniform

TEMPERATURE = 0.1  # of cosines (section 4.2)
AT_CHANCE, FEW_CODES = 0.99, 0.05  # a loss above so much of chance, codes below so much of all: a collapse
WARM_UP = 0.1  # share of a run in which it is none


class Wav2Vec2(CoupledObjective):
    """Contrastive loss over hidden frames, with a term for diverse codes and one for small outputs of the stem.

    - `negatives` are drawn for each hidden frame, with replacement, from the other hidden ones of its row; those with
      the same codes do not count.
    - `width`: of what is compared. `stem_gradient` scales what flows back into the stem.
    - `diversity_weight`, `penalty_weight`: of the two terms, beside 1 for the contrastive one.

    Diversity is that of the mean distribution over all hidden frames of a step, whatever micro-batches and ranks hold
    them. Negatives and Gumbel noise are keyed by example.
    """

    modality = AUDIO
    library_heads = ("quantiser", "project_target", "project_context")  # which transformers has a class for
    backbone: SpeechEncoder

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        quantiser: ProductQuantiser = ProductQuantiser(),
        negatives: int = 100,
        width: int = 256,
        diversity_weight: float = 0.1,
        penalty_weight: float = 10.0,
        stem_gradient: float = 0.1,
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        if negatives < 1 or width < 1 or min(diversity_weight, penalty_weight, stem_gradient) < 0:
            what = f"got objective.negatives={negatives}, width={width}, diversity_weight={diversity_weight},"
            what += f" penalty_weight={penalty_weight} and stem_gradient={stem_gradient}"
            raise ValueError(f"{what}: give at least 1 of the first two, and nothing below 0")
        speech_encoder(backbone).learn_mask()
        self.negatives, self.stem_gradient = negatives, stem_gradient
        self.weights = {"contrastive": 1.0, "diversity": diversity_weight, "feature_penalty": penalty_weight}
        self.quantiser = quantiser.build(self.backbone.stem_dim)
        self.project_target = nn.Linear(quantiser.width, width)
        self.project_context = nn.Linear(backbone.dim, width)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the hidden frames that have others to be told from, and all frames."""
        hidden = contrasted(batch["hidden"]).sum()
        return {"contrastive": hidden, "diversity": hidden, "feature_penalty": batch["frames"].sum()}

    def on_device(self, batch: Batch) -> Batch:
        """Draw negatives, int64 [B, M, K] places among a row's hidden frames, and in training Gumbel noise."""
        keys, hidden, most = batch["keys"].to(batch["places"].device), batch["hidden"], batch["places"].shape[1]
        others = (hidden - 1).clamp(min=1)[:, None]
        drawn: Any = integers(keys, "negatives", others, most * self.negatives)
        drawn = drawn.unflatten(1, (most, self.negatives))
        own = torch.arange(most, device=drawn.device)[:, None]
        finished = batch | {"negatives": (drawn + (drawn >= own)).clamp(max=most - 1)}
        if not self.training:
            return finished
        noise: Any = uniform(keys, "gumbel", most * self.quantiser.total)
        return finished | {"noise": gumbel(noise).unflatten(1, (most, self.quantiser.groups, self.quantiser.codes))}

    def represent(self, batch: Batch) -> Tensor:
        """Sum up each row: its losses, right answers and penalty; its codes' probabilities and counts. [B, 3 + 2 G V]

        All that the loss needs is a function of these sums.
        """
        stem = stemmed(self.backbone, batch, self.stem_gradient)
        features = self.backbone.encode(stem.normed, stem.valid, batch["inputs"]["mask"])
        context = self.project_context(at_places(features.positions, batch["places"]))
        noise, progress = batch.get("noise") if self.training else None, batch["keys"].progress
        quantised = self.quantiser(at_places(stem.normed, batch["places"]), noise, progress)
        target = self.project_target(quantised.vectors.to(self.project_target.weight.dtype))
        counted = present(batch) & (batch["hidden"] > 1)[:, None]
        losses, right = contrast(context, target, quantised.chosen, batch["negatives"])
        weight = counted.to(losses.dtype)
        one_hot = F.one_hot(quantised.chosen, self.quantiser.codes).to(losses.dtype)
        soft, hard = ((each * weight[..., None, None]).sum(1) for each in (quantised.probabilities, one_hot))
        sums = [(losses * weight).sum(1), (right & counted).sum(1), stem.penalty]
        return torch.cat(
            [torch.stack([each.to(losses.dtype) for each in sums], 1), soft.flatten(1), hard.flatten(1)], 1
        )

    def coupled_loss(self, representations: Tensor, batches: list[Batch]) -> Loss:
        """Add up the rows of this rank, and the codes of all ranks."""
        counts = [self.counts(batch) for batch in batches]
        hidden, frames = (
            torch.stack([each[name] for each in counts]).sum() for name in ("diversity", "feature_penalty")
        )
        sums = representations.sum(0)
        codes = gather_with_gradient(torch.cat([sums[3:], hidden[None].to(sums)])[None]).sum(0)
        soft, hard = (codes[:-1] / codes[-1].detach().clamp(min=1.0)).unflatten(0, (2, self.quantiser.groups, -1))
        diverse, total = perplexity(soft), self.quantiser.total
        totals = {"contrastive": sums[0], "diversity": (total - diverse) / total * hidden, "feature_penalty": sums[2]}
        of = {"contrastive": hidden, "diversity": hidden, "feature_penalty": frames}
        terms = {name: Term(value, of[name], self.weights[name]) for name, value in totals.items()}
        shown = {"code_perplexity": perplexity(hard) * hidden, "probability_perplexity": diverse * hidden}
        shown |= {"accuracy": sums[1], "chance": hidden * math.log(1 + self.negatives)}
        shown["temperature"] = hidden * self.quantiser.settings.temperature.at(batches[0]["keys"].progress)
        return Loss(terms, {name: Term(value.detach(), hidden) for name, value in shown.items()})

    def evaluate(self, loader: Iterable[tuple[Batch, float]], prefix: str = "validation") -> dict[str, float]:
        """Evaluate, and say so where the codes or the loss have collapsed."""
        values = super().evaluate(loader, prefix)
        told = collapse(values, prefix, self.quantiser.total)
        if told and rank() == 0 and self._trainer is not None and self.global_step > WARM_UP * self.settings.max_steps:
            cure = "raise data.batch_size, lower optimizer.peak_lr, or take objective=masked_units"
            print(f"collapse at step {self.global_step}: {told}; {cure}", file=sys.stderr)
        return values


def contrasted(hidden: Tensor) -> Tensor:
    """Count the hidden frames that have others to be told from: a row's only one has none. [B]"""
    return torch.where(hidden > 1, hidden, torch.zeros_like(hidden))


class Contrast(NamedTuple):
    """What was made of each hidden frame."""

    losses: Tensor  # [B, M]
    right: Tensor  # bool [B, M]: the target is more similar than every negative, and there is one


def contrast(context: Tensor, target: Tensor, chosen: Tensor, negatives: Tensor) -> Contrast:
    """Compute -log of the target's share in exp(cosine / temperature) of target and negatives.

    `context`, `target` [B, M, D]; `chosen` [B, M, G], the codes of targets: a negative with the same ones is left out;
    `negatives` [B, M, K], places of other targets of the row. All similarities of a row are one product.
    """
    with torch.autocast(context.device.type, enabled=False):
        sides = (F.normalize(at_least_single(side), dim=-1) for side in (context, target))
        similar = torch.einsum("bmd,bnd->bmn", *sides) / TEMPERATURE
        same = (chosen[:, :, None] == chosen[:, None]).all(-1)
        positive = similar.diagonal(dim1=1, dim2=2)
        others = similar.masked_fill(same, float("-inf")).gather(2, negatives)
        losses = torch.cat([positive[..., None], others], 2).logsumexp(2) - positive
        best = others.max(2).values
        return Contrast(losses, (positive > best) & best.isfinite())


def collapse(values: dict[str, float], prefix: str, codes: int) -> str | None:
    """Name what says that nothing is told apart any more; None where nothing does."""
    loss, chance = values.get(f"{prefix}/contrastive", 0.0), values.get(f"{prefix}/chance", math.inf)
    used = values.get(f"{prefix}/code_perplexity", math.inf)
    if loss > AT_CHANCE * chance:
        return f"{prefix}/contrastive={loss:.3f} is what guessing costs ({chance:.3f})"
    if used < FEW_CODES * codes:
        return f"{prefix}/code_perplexity={used:.1f} of {codes}: a few codes stand for everything"
    return None
