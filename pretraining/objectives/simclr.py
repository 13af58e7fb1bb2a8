"""SimCLR (Chen et al. 2020, "A simple framework for contrastive learning of visual representations").

Views of one image should be alike, and unlike those of all other images in the step.

Shapes: B images of this rank, V views, D width of the projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.augment import Views
from pretraining.backbones.base import Backbone
from pretraining.data.image import ImageExamples
from pretraining.objectives.base import Batch, CoupledObjective, Loss
from pretraining.objectives.nt_xent import nt_xent
from pretraining.objectives.projector import Projector
from pretraining.optim import Optimizer
from pretraining.preprocess.image import ImagePreprocess
from pretraining.random import Keys
from pretraining.step import Term


class StackImages:
    """Hands pixels on as they are; the views are made on the device."""

    def __init__(self, *, preprocess: ImagePreprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, examples: ImageExamples, keys: Keys) -> Batch:
        """Turn raw images into tensors."""
        images = torch.from_numpy(np.ascontiguousarray(examples.images))
        if images.shape[1] != self.preprocess.channels:
            raise ValueError(
                f"images have {images.shape[1]} channel(s), but the backbone takes {self.preprocess.channels}: set "
                f"preprocess.channels={images.shape[1]} with as many numbers in preprocess.mean and preprocess.std, or decode others"
            )
        batch: Batch = {"images": images}
        return batch if examples.labels is None else batch | {"labels": torch.from_numpy(examples.labels)}

    def draw(self, batch: Batch, path: Path, count: int = 12) -> None:
        """Save a picture of `count` images of a finished batch, one per column, with their views below them."""
        images, size = batch["images"][:count], batch["views"].shape[-1]
        mean, std = (torch.tensor(part)[:, None, None] for part in (self.preprocess.mean, self.preprocess.std))
        views = batch["views"].float().cpu().unflatten(0, (-1, len(batch["images"])))[:, :count] * std + mean
        originals = F.interpolate(images.float().cpu() / 255.0, (size, size), mode="nearest")
        rows = torch.cat([originals[None], views]).flatten(0, 1).clamp(0.0, 1.0)
        scale = max(1, 64 // size)
        torchvision.utils.save_image(F.interpolate(rows, scale_factor=scale, mode="nearest"), path, nrow=len(images), pad_value=1.0)


class SimCLR(CoupledObjective):
    """Contrast of views, through a projector, at a temperature.

    `decoupled` leaves the positives out of the denominator (Yeh et al. 2022, DCL); `supervised` counts images of the same class as
    positives too (Khosla et al. 2020, SupCon's L_out). `weight` multiplies the mean over anchors.
    """

    modality = "image"

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        views: Views,
        projector: Projector,
        temperature: float,
        decoupled: bool = False,
        supervised: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        if views.count < 2 or not temperature > 0:
            raise ValueError(f"SimCLR contrasts at least 2 views at a temperature above 0, got {views.count} and {temperature}")
        self.views, self.temperature, self.decoupled, self.supervised = views, temperature, decoupled, supervised
        self.weight, self.projector = weight, projector.build(backbone.dim)
        if views.output.channels_last:  # as the views come, or each convolution would reorder its weights in each step
            backbone.to(memory_format=torch.channels_last)

    def on_device(self, batch: Batch) -> Batch:
        """Make the views. [V * B, C, S, S]"""
        return batch | {"views": self.views(batch["images"], batch["keys"]).to(self.dtype)}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Every view is an anchor."""
        return {"nt_xent": _number(len(batch["images"]) * self.views.count, batch["images"])}

    def represent(self, batch: Batch) -> Tensor:
        """Project all views in one forward pass. [B, V, D], of unit length, in at least single precision"""
        projected = self.projector(self.backbone(images=batch["views"]).pooled)
        projected = F.normalize(projected.to(torch.promote_types(projected.dtype, torch.float32)), dim=-1)
        return projected.unflatten(0, (self.views.count, -1)).transpose(0, 1)

    def coupled_loss(self, representations: Tensor, batches: list[Batch]) -> Loss:
        """Contrast this rank's views with those of all ranks; in evaluation with those of the batch, however many ranks share the work."""
        labels = torch.cat([batch["labels"] for batch in batches]) if self.supervised else None
        total = nt_xent(representations, self.temperature, labels=labels, decoupled=self.decoupled, across_ranks=self.training)
        return Loss({"nt_xent": Term(total, _number(representations[..., 0].numel(), total), self.weight)})

    def forward_flops(self, shape: Sequence[float]) -> float:
        """Count all views of one image; `shape` is (channels, height, width)."""
        size, linear = self.views.crop.size, [part for part in self.projector if isinstance(part, nn.Linear)]
        per_view = self.backbone.forward_flops((shape[0], size, size)) + sum(2.0 * part.weight.numel() for part in linear)
        return self.views.count * per_view

    def comparison_flops(self, batch_size: int) -> float:
        """Count the similarities of one image's views to all views."""
        width = [part for part in self.projector if isinstance(part, nn.Linear)][-1].out_features
        return 2.0 * self.views.count * (batch_size * self.views.count) * width


def _number(value: int, beside: Tensor) -> Tensor:
    """Give a number as a tensor on another's device, without a copy that the host would wait for."""
    return torch.full((), value, device=beside.device, dtype=torch.int64)
