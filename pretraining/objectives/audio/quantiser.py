"""The product quantiser of wav2vec 2.0 (Baevski et al. 2020, section 2): a code of each group's codebook per frame.

Shapes: B rows, M hidden frames, C channels, G groups, V codes of a group, E width of a target.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pretraining.objectives.audio.frames import at_least_single


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """Gumbel's temperature: falls from `start` to `end`, by the same factor each step, over the first `share` of a run.

    The published 2 * 0.999995 ** step, at least 0.5, reaches its end at 69 % of 400,000 steps.
    """

    start: float = 2.0
    end: float = 0.5
    share: float = 0.69

    def __post_init__(self) -> None:
        if not 0 < self.end <= self.start or not 0 < self.share <= 1:
            what = f"got a temperature from {self.start} to {self.end} over {self.share} of the run"
            raise ValueError(f"{what}: it must fall, stay above 0, and end within the run")

    def at(self, progress: float) -> float:
        """Compute it after this share of the run."""
        return self.start * (self.end / self.start) ** min(progress / self.share, 1.0)


@dataclass(frozen=True, kw_only=True)
class ProductQuantiser:
    """`groups` codebooks of `codes` vectors, `width` wide together; `dropout` is of what is quantised."""

    groups: int = 2
    codes: int = 320
    width: int = 256
    dropout: float = 0.1
    temperature: Temperature = field(default_factory=Temperature)

    def build(self, channels: int) -> Quantiser:
        """Build it for frames of so many channels."""
        if self.groups < 1 or self.codes < 2 or self.width % self.groups:
            what = f"got objective.quantiser.groups={self.groups}, codes={self.codes} and width={self.width}"
            raise ValueError(f"{what}: give at least 1 group of 2 codes, and a width that groups divide")
        return Quantiser(self, channels)


class Quantised(NamedTuple):
    """What a quantiser makes of frames."""

    vectors: Tensor  # [B, M, E]
    chosen: Tensor  # int64 [B, M, G]
    probabilities: Tensor  # [B, M, G, V]: without noise and temperature


class Quantiser(nn.Module):
    """Chooses codes; in training by Gumbel's softmax, whose gradient goes straight through the choice."""

    def __init__(self, settings: ProductQuantiser, channels: int) -> None:
        super().__init__()
        self.settings, self.groups, self.codes = settings, settings.groups, settings.codes
        self.dropout = nn.Dropout(settings.dropout)
        self.score = nn.Linear(channels, self.groups * self.codes)
        nn.init.normal_(self.score.weight)  # confident and diverse from the start: smaller weights collapse
        nn.init.zeros_(self.score.bias)
        self.vectors = nn.Parameter(torch.rand(self.groups, self.codes, settings.width // self.groups))

    @property
    def total(self) -> int:
        """Count the codes of all groups."""
        return self.groups * self.codes

    def forward(self, frames: Tensor, noise: Tensor | None, progress: float) -> Quantised:
        """Quantise frames [B, M, C]; `noise` [B, M, G, V] is Gumbel's, None chooses the best codes."""
        with torch.autocast(frames.device.type, enabled=False):  # logits deviate by 20 from each other
            return self._quantised(at_least_single(frames), noise, progress)

    def _quantised(self, frames: Tensor, noise: Tensor | None, progress: float) -> Quantised:
        logits = self.score(self.dropout(frames)).unflatten(2, (self.groups, self.codes))
        probabilities = logits.softmax(-1)
        if noise is None:
            chosen = logits.argmax(-1)
            weights = torch.zeros_like(logits).scatter(-1, chosen[..., None], 1.0)
        else:
            soft = ((logits + noise) / self.settings.temperature.at(progress)).softmax(-1)
            chosen = soft.argmax(-1)
            hard = torch.zeros_like(logits).scatter(-1, chosen[..., None], 1.0)
            weights = hard - soft.detach() + soft
        vectors = torch.einsum("bmgv,gve->bmge", weights, self.vectors)
        return Quantised(vectors.flatten(2), chosen, probabilities)


def gumbel(draws: Tensor) -> Tensor:
    """Turn draws from [0, 1) into Gumbel noise."""
    return draws.clamp(min=2.0**-25).log().neg().log().neg()


def perplexity(shares: Tensor) -> Tensor:
    """Sum the perplexities of each group's distribution [G, V]: G where one code takes all, G * V where none is better.

    []
    """
    return torch.exp(-torch.xlogy(shares, shares).sum(-1)).sum()
