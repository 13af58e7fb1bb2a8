"""SpanBERT's span-boundary objective (Joshi et al. 2020, section 3.2): a hidden token from both neighbours of its span.

Shapes: B rows, T tokens, K predictions of a micro-batch (padded), D width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.objectives.text.vocabulary_loss import NO_LABEL

LONGEST = 15  # tokens of a span that are predicted, from its left end
PLACE_DIM = 200  # of the embeddings of a token's place in its span


class Neighbours(NamedTuple):
    """Of each prediction: flat places of the tokens around its span, its place in the span, and its label. [K] each."""

    before: Tensor
    behind: Tensor
    place: Tensor
    labels: Tensor  # NO_LABEL where a neighbour is missing, and beyond a span's longest part


def neighbours(target_positions: Tensor, labels: Tensor, document_ids: Tensor) -> Neighbours:
    """Find spans among the predictions: runs of neighbouring `target_positions` [K], which ascend, with padding last.

    A neighbour is a token of the same document, its special tokens included.
    """
    flat, last = document_ids.flatten(), document_ids.numel() - 1
    number = torch.arange(len(target_positions), device=target_positions.device)
    opens = torch.ones_like(target_positions, dtype=torch.bool)
    opens[1:] = target_positions[1:] != target_positions[:-1] + 1
    opens[1:] |= flat[target_positions[1:]] != flat[target_positions[:-1]]
    opens |= labels == NO_LABEL
    first = torch.where(opens, number, 0).cummax(0).values
    closes = torch.ones_like(opens)
    closes[:-1] = opens[1:]
    final = torch.where(closes, number, len(number)).flip(0).cummin(0).values.flip(0)
    before, behind = target_positions[first] - 1, target_positions[final] + 1
    inside = (before >= 0) & (behind <= last)
    before, behind = before.clamp(min=0), behind.clamp(max=last)
    width = document_ids.shape[1]
    for place in (before, behind):  # two documents of the same number may touch where a row ends
        inside &= (flat[place] == flat[target_positions]) & (place // width == target_positions // width)
    place = number - first
    kept = inside & (place < LONGEST)
    return Neighbours(before, behind, place.clamp(max=LONGEST - 1), torch.where(kept, labels, NO_LABEL))


class BoundaryHead(nn.Module):
    """Two layers over both neighbours and the place in the span; the token embeddings are the output weights."""

    def __init__(self, dim: int, *, vocab_size: int) -> None:
        super().__init__()
        self.places = nn.Embedding(LONGEST, PLACE_DIM)
        self.first, self.first_norm = nn.Linear(2 * dim + PLACE_DIM, dim), nn.LayerNorm(dim)
        self.second, self.second_norm = nn.Linear(dim, dim), nn.LayerNorm(dim)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        for layer in (self.first, self.second, self.places):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (self.first, self.second):
            nn.init.zeros_(layer.bias)

    def flops(self) -> float:
        """Count one prediction's forward pass."""
        layers = self.first.weight.numel() + self.second.weight.numel()
        return 2.0 * (layers + self.second.out_features * len(self.bias))

    def forward(self, hidden: Tensor, around: Neighbours) -> Tensor:
        """Compute what is multiplied by the token embeddings: [B * T, D] -> [K, D]."""
        sides = [hidden.index_select(0, place) for place in (around.before, around.behind)]
        joined = torch.cat([*sides, self.places(around.place).to(hidden.dtype)], dim=-1)
        middle = self.first_norm(F.gelu(self.first(joined)))
        return self.second_norm(F.gelu(self.second(middle)))
