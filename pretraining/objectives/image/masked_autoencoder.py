"""Masked autoencoders (He et al. 2021, "Masked autoencoders are scalable vision learners").

A vision transformer sees a few patches of an image, and a small decoder rebuilds the others.

Shapes: B images of a micro-batch, V views, N = V * B, L patches of an image, K of them visible, D width, E width of the
decoder, P pixels of a patch (channels included).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import EncoderBlock

from pretraining.backbones.base import Backbone
from pretraining.engine.batch import Term
from pretraining.image.augment import Views
from pretraining.image.backbones.fixed_positions import sine_cosine
from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.image.denoising import ImageAutoencoder
from pretraining.optim.optimizers import Optimizer
from pretraining.random import Keys, uniform


@dataclass(frozen=True, kw_only=True)
class PatchDecoder:
    """A transformer of `layers` blocks of `width`, with a hidden layer four times as wide in each."""

    width: int = 96
    layers: int = 2
    heads: int = 3

    def build(self, dim: int, side: int, pixels: int) -> Decoder:
        """Build it for features of width `dim`, `side` x `side` patches and `pixels` numbers in each."""
        if self.width % 4 or self.width % self.heads or self.layers < 1:
            told = f"got objective.decoder.width={self.width}, heads={self.heads} and layers={self.layers}"
            remedy = "the width must be a multiple of 4 (for sine and cosine of two axes) and of heads"
            raise ValueError(f"{told}: {remedy}, with at least one layer")
        return Decoder(self, dim, side, pixels)


class Decoder(nn.Module):
    """Rebuilds all patches from the visible ones' features and a learnt vector for each other."""

    places: Tensor

    def __init__(self, sizes: PatchDecoder, dim: int, side: int, pixels: int) -> None:
        super().__init__()
        width, norm = sizes.width, partial(nn.LayerNorm, eps=1e-6)
        self.embed = nn.Linear(dim, width)
        self.hidden = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        blocks = (EncoderBlock(sizes.heads, width, 4 * width, 0.0, 0.0, norm) for _ in range(sizes.layers))
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.predict = norm(width), nn.Linear(width, pixels)
        for layer in (self.embed, self.predict):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        places = torch.cat([torch.zeros(1, width), sine_cosine(side, width)])
        self.register_buffer("places", places[None], persistent=False)

    def forward(self, pooled: Tensor, patches: Tensor, order: Tensor) -> Tensor:
        """Predict pixels [N, L, P] from class tokens [N, D] and visible patches [N, K, D], first in `order` [N, L]."""
        known = self.embed(patches)
        hidden = self.hidden.to(known.dtype).expand(len(known), order.shape[1] - known.shape[1], -1)
        shuffled = torch.cat([known, hidden], 1)
        place = order.argsort(1)[..., None].expand(-1, -1, known.shape[2])
        tokens = torch.cat([self.embed(pooled)[:, None], shuffled.gather(1, place)], 1) + self.places
        return self.predict(self.norm(self.blocks(tokens)))[:, 1:]


class MaskedAutoencoder(ImageAutoencoder):
    """Mean squared error of the hidden patches' pixels, each normalised by its own mean and deviation unless told not.

    `mask_ratio` of an image's patches is hidden, an exact count, drawn anew for each image, view and epoch.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        views: Views,
        mask_ratio: float = 0.75,
        decoder: PatchDecoder = PatchDecoder(),
        normalise_patches: bool = True,
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer, views=views)
        patches = getattr(backbone, "patches", None)
        if patches is None:
            told = "a masked autoencoder hides patches of a vision transformer"
            raise ValueError(f"{told}: set backbone=vit_tiny, or take objective=denoising_image")
        self.patch, self.side = patches
        self.visible = int(self.side**2 * (1 - mask_ratio))
        if not 0 < self.visible < self.side**2:
            told = f"objective.mask_ratio={mask_ratio} of {self.side**2} patches leaves {self.visible} visible"
            raise ValueError(f"{told}: at least one must be, and one hidden")
        self.normalise_patches = normalise_patches
        self.decoder = decoder.build(backbone.dim, self.side, len(views.output.mean) * self.patch**2)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the hidden patches."""
        return {"squared_error": torch.tensor(len(batch["images"]) * self.views.count * (self.side**2 - self.visible))}

    def draw_corruption(self, keys: Keys, view: int, device: torch.device) -> Tensor:
        """Draw the order of an image's patches, of which the first are visible. [B, L]"""
        drawn = torch.as_tensor(uniform(keys, "patches", self.side**2, view), device=device)
        return drawn.argsort(dim=1, stable=True)

    def corrupt(self, views: Tensor, drawn: Tensor) -> Batch:
        """Show the visible patches alone."""
        return {"inputs": {"images": views, "visible": drawn[:, : self.visible]}, "order": drawn}

    def rebuild(self, batch: Batch) -> Tensor:
        """Predict the pixels of all patches. [N, L, P]"""
        features = self.backbone(**batch["inputs"])
        return self.decoder(features.pooled, features.positions, batch["order"])

    def loss(self, batch: Batch) -> Loss:
        """Compare the hidden patches with what was predicted of them."""
        rebuilt = self.rebuild(batch)
        wanted = patches_of(batch["views"], self.patch).to(torch.promote_types(rebuilt.dtype, torch.float32))
        if self.normalise_patches:
            variance, mean = torch.var_mean(wanted, 2, keepdim=True)
            wanted = (wanted - mean) * (variance + 1e-6).rsqrt()
        error = (rebuilt - wanted).square().mean(2).gather(1, batch["order"][:, self.visible :])
        return Loss({"squared_error": Term(error.sum(), torch.tensor(error.numel()))})


def patches_of(images: Tensor, size: int) -> Tensor:
    """Cut images [N, C, S, S] into patches of `size`, row by row; each is rows, columns, channels. [N, L, P]"""
    count, channels, height, width = images.shape
    grid = images.reshape(count, channels, height // size, size, width // size, size)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(count, -1, size * size * channels)
