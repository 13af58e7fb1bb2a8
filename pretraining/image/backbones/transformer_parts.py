"""Parts of vision transformers that compute the same as torch's in less time on CPUs, with the same weights.

Shapes: B images, L tokens of each, D width; C channels, H and W pixels, h and w patches.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from pretraining.kernels.attention import Layout, attend, lay_out


class SelfAttention(nn.MultiheadAttention):
    """Attention of each image's tokens to each other; torch's fused kernel takes several times as long backwards."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Any:
        """Attend [B, L, D]."""
        itself = query is key and key is value and options == {"need_weights": False} and not args
        if not itself or query.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(query, key, value, *args, **options)
        images, tokens, _ = query.shape
        projected = F.linear(query, self.in_proj_weight, self.in_proj_bias).flatten(0, 1)
        rate = self.dropout if self.training else 0.0
        attended = attend(
            projected, _whole(images, tokens, self.num_heads), heads=self.num_heads, window=None, rate=rate
        )
        return self.out_proj(attended.unflatten(0, (images, tokens))), None


class PatchEmbedding(nn.Conv2d):
    """A convolution whose windows do not overlap, as a matrix product, whose gradients in bf16 are right on any CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Embed patches: [B, C, H, W] -> [B, D, h, w]."""
        side = self.kernel_size[0]
        rows = input.unfold(2, side, side).unfold(3, side, side)  # [B, C, h, w, side, side]
        embedded = F.linear(rows.permute(0, 2, 3, 1, 4, 5).flatten(3), self.weight.flatten(1), self.bias)
        return embedded.permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=4)
def _whole(images: int, tokens: int, heads: int) -> Layout:
    """Lay rows out that are full: the batch sizes of a run are few."""
    return lay_out(torch.ones(images, tokens, dtype=torch.int64), heads, keep_padding=False)


def adopt(model: nn.Module) -> None:
    """Let the parts of a vision transformer be these, of the same weights."""
    if not isinstance(model, VisionTransformer):
        return
    for block in model.encoder.layers:
        block.self_attention.__class__ = SelfAttention  # nothing is drawn or copied
    embed_by_product(model.conv_proj)


def embed_by_product(part: nn.Module) -> None:
    """Let a convolution whose windows lie side by side be a `PatchEmbedding`."""
    if type(part) is nn.Conv2d and part.kernel_size == part.stride and part.padding in ((0, 0), "valid"):
        part.__class__ = PatchEmbedding
