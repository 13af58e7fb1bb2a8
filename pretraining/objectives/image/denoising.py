"""Denoising autoencoders on images (Vincent et al. 2008): rebuild a view from the features of its noisy version.

Shapes: B images of a micro-batch, V views, N = V * B, C channels, S size of a view.
"""

from __future__ import annotations

import copy
import itertools
import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from pretraining.backbones.base import Backbone
from pretraining.engine.batch import Term
from pretraining.image.augment import Views
from pretraining.image.augment.views import require_views
from pretraining.image.modality import IMAGE
from pretraining.objectives.base import Batch, Loss, Objective
from pretraining.optim.optimizers import Optimizer
from pretraining.random import Keys, uniform


class ImageAutoencoder(Objective):
    """What autoencoders of images share: views to rebuild, corrupted on the device as a function of their keys."""

    modality = IMAGE

    def __init__(self, *, backbone: Backbone, optimizer: Optimizer, views: Views) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        self.views = require_views(views)

    def on_device(self, batch: Batch) -> Batch:
        """Make the views and draw their damage."""
        views = self.views(batch["images"], batch["keys"]).to(self.dtype)
        drawn = [self.draw_corruption(batch["keys"], view, views.device) for view in range(self.views.count)]
        return batch | {"views": views} | self.corrupt(views, torch.cat(drawn))

    @abstractmethod
    def draw_corruption(self, keys: Keys, view: int, device: torch.device) -> Tensor:
        """Draw what one view of each image loses. [B, ...]"""

    @abstractmethod
    def corrupt(self, views: Tensor, drawn: Tensor) -> Batch:
        """Make the backbone's inputs of the views, and what the loss must know of their corruption."""


class DenoisingImages(ImageAutoencoder):
    """Mean squared error, in normalised pixels, of a view rebuilt from its features under Gaussian noise.

    `noise` is the noise's deviation. The decoder doubles the feature map's resolution by transposed convolutions, from
    `decoder_width` channels on, half as many each time.
    """

    def __init__(
        self, *, backbone: Backbone, optimizer: Optimizer, views: Views, noise: float = 0.5, decoder_width: int = 256
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer, views=views)
        if not noise > 0 or decoder_width < 1:
            raise ValueError(f"objective.noise={noise} and objective.decoder_width={decoder_width} must be above 0")
        self.noise = noise
        size, self.channels = views.crop.size, len(views.output.mean)
        with torch.no_grad():
            shapes = copy.deepcopy(backbone).to("meta").eval()
            features = shapes(images=torch.empty(1, self.channels, size, size, device="meta"))
        self.side = math.isqrt(features.positions.shape[1])
        doublings = math.log2(size / self.side)
        if doublings != round(doublings):
            told = f"images of {size} x {size} pixels become {self.side} x {self.side} features"
            remedy = f"set preprocess.size to {self.side} times a power of 2"
            raise ValueError(f"{told}, which doubling does not bring back: {remedy}")
        self.decoder = upsampling(backbone.dim, decoder_width, self.channels, round(doublings))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the views."""
        return {"squared_error": torch.tensor(len(batch["images"]) * self.views.count)}

    def draw_corruption(self, keys: Keys, view: int, device: torch.device) -> Tensor:
        """Draw Gaussian noise (Box & Muller 1958). [B, C, S, S]"""
        shape = (self.channels, self.views.crop.size, self.views.crop.size)
        count = math.prod(shape)
        drawn = torch.as_tensor(uniform(keys, "noise", 2 * count, view), device=device)
        radius, angle = (-2.0 * torch.log1p(-drawn[:, :count])).sqrt(), 2.0 * math.pi * drawn[:, count:]
        return (self.noise * radius * angle.cos()).unflatten(1, shape).to(self.dtype)

    def corrupt(self, views: Tensor, drawn: Tensor) -> Batch:
        """Add the noise."""
        return {"inputs": {"images": views + drawn}}

    def rebuild(self, batch: Batch) -> Tensor:
        """Predict the clean views. [N, C, S, S]"""
        cells = self.backbone(**batch["inputs"]).positions
        return self.decoder(cells.transpose(1, 2).unflatten(2, (self.side, self.side)))

    def loss(self, batch: Batch) -> Loss:
        """Compare the rebuilt views with the clean ones."""
        rebuilt = self.rebuild(batch)
        difference = (rebuilt - batch["views"]).to(torch.promote_types(rebuilt.dtype, torch.float32))
        error = difference.square().mean((1, 2, 3))
        return Loss({"squared_error": Term(error.sum(), torch.tensor(len(error)))})


def upsampling(dim: int, width: int, channels: int, doublings: int) -> nn.Sequential:
    """Build a decoder of `doublings` transposed convolutions between two pointwise ones, with ReLU between all."""
    widths = [max(width >> number, 16) for number in range(doublings + 1)]
    layers: list[nn.Module] = [nn.Conv2d(dim, widths[0], 1)]
    for before, after in itertools.pairwise(widths):
        layers += [nn.ReLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(widths[-1], channels, 1))
