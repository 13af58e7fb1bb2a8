"""The predictor of I-JEPA, and which blocks it is asked for.

Shapes: B images, L = side * side patches, K of them in the context, T targets, P places of a target at most, D width,
E width of the predictor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pretraining.image.backbones.fixed_positions import sine_cosine
from pretraining.objectives.image.blocks import rectangles

CONTEXT_SCALE = (0.85, 1.0)  # of the square around the context (appendix A.1)


class Asked(NamedTuple):
    """What the student sees of each image and what it is asked for."""

    context: Tensor  # int64 [B, K]
    targets: Tensor  # int64 [B, T, P]
    valid: Tensor  # bool [B, T, P]: places that hold a patch


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """`targets` blocks of each image, of a share of its patches from `scale`, height over width from `aspect`.

    The context is a share `context` of the patches, of those that no target has; where fewer are left, some come twice.
    Every image has sizes of its own (one draw for a batch, and patches cut off to its shortest context, in the authors'
    code).
    """

    targets: int = 4
    scale: tuple[float, float] = (0.15, 0.2)
    aspect: tuple[float, float] = (0.75, 1.5)
    context: float = 0.4

    def __post_init__(self) -> None:
        if self.targets < 1 or not 0.0 < self.scale[0] <= self.scale[1] or self.targets * self.scale[1] >= 1.0:
            told = f"got {self.targets} of {list(self.scale)}"
            raise ValueError(
                f"objective.blocks must leave something of an image to see, {told}: lower targets or scale"
            )
        if not 0.0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"objective.blocks.aspect must rise from above 0, got {list(self.aspect)}: swap the two")
        if not 0.0 < self.context <= 1.0:
            raise ValueError(f"objective.blocks.context is a share above 0 and up to 1, got {self.context}")

    def numbers(self, side: int) -> int:
        """Count the uniform numbers that `ask` takes per image."""
        return 4 * (self.targets + 1) + side * side

    def most(self, side: int) -> int:
        """Bound the patches of a target."""
        area, longest = self.scale[1] * side * side, max(self.aspect[1], 1.0 / self.aspect[0]) ** 0.5
        return min(side * side, int(area + 0.5 * area**0.5 * (longest + 1.0 / longest) + 0.25))

    def ask(self, drawn: Tensor, side: int) -> Asked:
        """Turn uniform numbers [B, numbers(side)] into contexts and targets that share no patch."""
        patches, (low, high) = side * side, self.scale
        placed = drawn[:, : 4 * (self.targets + 1)].unflatten(1, (self.targets + 1, 4))
        areas, grid = patches * (low + (high - low) * placed[:, :, 0]), (side, side)
        blocks = [rectangles(placed[:, n, 1:], areas[:, n], grid, self.aspect) for n in range(self.targets)]
        targets = torch.stack(blocks, 1).flatten(2)  # bool [B, T, L]
        low, high = CONTEXT_SCALE
        around = patches * (low + (high - low) * placed[:, -1, 0])
        free = rectangles(placed[:, -1, 1:], around, grid, (1.0, 1.0)).flatten(1) & ~targets.any(1)
        order = (drawn[:, -patches:] + ~free).argsort(dim=1, stable=True)
        turns = torch.arange(max(1, round(self.context * patches)), device=drawn.device)
        context = order.gather(1, turns % free.sum(1, keepdim=True).clamp(min=1))
        seen = torch.zeros_like(free).scatter(1, context, True)
        targets = targets & ~seen[:, None]  # changes something only where targets cover all
        places = (~targets).to(torch.uint8).argsort(dim=2, stable=True)[:, :, : self.most(side)]
        return Asked(context, places, targets.gather(2, places))


@dataclass(frozen=True, kw_only=True)
class PatchPredictor:
    """A narrow transformer of `layers` blocks of `width`, with a hidden layer four times as wide in each."""

    width: int = 48
    layers: int = 2
    heads: int = 4

    def build(self, dim: int, side: int) -> Predictor:
        """Build it for features of width `dim` and `side` x `side` patches."""
        if self.width % 4 or self.width % self.heads or self.layers < 1:
            told = f"got objective.predictor.width={self.width}, heads={self.heads} and layers={self.layers}"
            remedy = "the width must be a multiple of 4 (for sine and cosine of two axes) and of heads"
            raise ValueError(f"{told}: {remedy}, with at least one layer")
        return Predictor(self, dim, side)


class Predictor(nn.Module):
    """Predicts the features of target patches from those of the context, each target by itself."""

    places: Tensor

    def __init__(self, sizes: PatchPredictor, dim: int, side: int) -> None:
        super().__init__()
        width = sizes.width
        shape = {"d_model": width, "nhead": sizes.heads, "dim_feedforward": 4 * width, "layer_norm_eps": 1e-6}
        options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.embed, self.predict = nn.Linear(dim, width), nn.Linear(width, dim)
        self.hidden = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(**shape, **options) for _ in range(sizes.layers))  # type: ignore[arg-type]
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.register_buffer("places", sine_cosine(side, width), persistent=False)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def forward(self, context: Tensor, asked: Asked) -> Tensor:
        """Predict from features [B, K, D] of the context. [B, T, P, D]"""
        count, kept = asked.targets.shape[1], context.shape[1]
        known = (self.embed(context) + self.places[asked.context])[:, None].expand(-1, count, -1, -1)
        hidden = (self.hidden + self.places[asked.targets]).to(known.dtype)
        tokens = torch.cat([known, hidden], 2).flatten(0, 1)  # [B * T, K + P, E]
        unused = torch.cat([torch.zeros_like(known[..., 0], dtype=torch.bool), ~asked.valid], 2).flatten(0, 1)
        for block in self.blocks:
            tokens = block(tokens, src_key_padding_mask=unused)
        return self.predict(self.norm(tokens[:, kept:])).unflatten(0, (-1, count))
