"""A vision transformer that is told where patches lie, as MoCo v3, masked autoencoders and I-JEPA have it.

Shapes: S x S patches, D width.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pretraining.image.backbones.torchvision_model import TorchvisionBackbone


class FixedPositions(TorchvisionBackbone):
    """torchvision's `VisionTransformer` with sines and cosines of rows and columns for positions, which stay.

    Learnt ones start near zero: before some thousand steps such a network hardly knows where a patch lies. The class
    token has no position. `init` draws the weights as a method's code does:

    - `xavier`: those of queries, keys and values apart, and of the patch embedding as a linear map (Chen et al. 2021,
      "An empirical study of training self-supervised vision transformers").
    - `small`: a deviation of 0.02, of what block n adds over the root of 2 n (Assran et al. 2023, I-JEPA): an untrained
      network hardly changes its patches. The embedding of patches is torchvision's.

    With `frozen_patches` the random patch embedding is never trained (Chen et al., section 4.2: it trains more stably).
    """

    def __init__(
        self,
        *,
        options: dict[str, Any],
        in_channels: int = 3,
        pooling: Literal["class", "mean"] = "class",
        init: Literal["xavier", "small"] = "xavier",
        frozen_patches: bool = False,
    ) -> None:
        super().__init__(name="vision_transformer", options=options, in_channels=in_channels, pooling=pooling)
        self.kwargs = {"options": dict(options), "in_channels": in_channels, "pooling": pooling}
        self.kwargs |= {"init": init, "frozen_patches": frozen_patches}
        model, dim = self.model, self.dim
        if dim % 4:
            raise ValueError(f"positions of two axes take a width that is a multiple of 4, got hidden_dim={dim}")
        if init not in ("xavier", "small"):
            raise ValueError(f"backbone.init={init} is unknown: choose xavier or small")
        for number, layer in enumerate(model.encoder.layers, 1):
            attention, mlp = layer.self_attention, layer.mlp
            for matrix in (*attention.in_proj_weight.data.chunk(3), mlp[0].weight):
                _draw(matrix, init)
            for matrix in (attention.out_proj.weight, mlp[3].weight):
                _draw(matrix, init, 1.0 / math.sqrt(2 * number))
            for part in (attention.out_proj, mlp[0], mlp[3]):
                nn.init.zeros_(part.bias)
        if init == "xavier":
            nn.init.xavier_uniform_(model.conv_proj.weight.data.view(dim, -1))
            nn.init.normal_(model.class_token, std=1e-6)
        places = sine_cosine(model.image_size // model.patch_size, dim)
        model.encoder.pos_embedding.data.copy_(torch.cat([torch.zeros(1, dim), places]))
        model.encoder.pos_embedding.requires_grad_(False)
        model.conv_proj.requires_grad_(not frozen_patches)


def _draw(matrix: Tensor, init: str, share: float = 1.0) -> None:
    if init == "xavier":
        nn.init.xavier_uniform_(matrix)
    else:
        nn.init.trunc_normal_(matrix, std=0.02 * share)


def sine_cosine(side: int, width: int) -> Tensor:
    """Encode each cell of a square grid: sine and cosine of the column, then of the row, a quarter of `width` each.

    Frequencies fall from 1 to 1/10,000 (Vaswani et al. 2017, section 3.5). [side * side, width]
    """
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], 1)  # [side, width / 2]
    columns, rows = waves[None].expand(side, -1, -1), waves[:, None].expand(-1, side, -1)
    return torch.cat([columns, rows], 2).flatten(0, 1).float()
