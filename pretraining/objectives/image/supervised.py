"""Supervised pretraining on views of labelled images. See `pretraining.objectives.supervised`.

Shapes: B images of a micro-batch, V views, C channels, S size of a view.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pretraining.backbones.base import Backbone
from pretraining.image.augment import Views
from pretraining.image.augment.views import require_views
from pretraining.image.modality import IMAGE
from pretraining.objectives.base import Batch
from pretraining.objectives.supervised import Supervised
from pretraining.optim.optimizers import Optimizer


class SupervisedImages(Supervised):
    """Classes of images, from random views in training and from the prepared image in validation."""

    modality = IMAGE

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        classes: int,
        views: Views,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer, classes=classes, label_smoothing=label_smoothing)
        self.views = require_views(views)

    def on_device(self, batch: Batch) -> Batch:
        """Make the views of a training batch. [V * B, C, S, S]"""
        views = batch["inputs"]["images"] if "inputs" in batch else self.views(batch["images"], batch["keys"])
        return batch | {"inputs": {"images": views.to(self.dtype)}}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count every view."""
        return {"cross_entropy": torch.tensor(len(batch["labels"]) * (1 if "inputs" in batch else self.views.count))}
