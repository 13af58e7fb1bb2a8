"""Supervised pretraining: predict each example's class. The reference that self-supervised objectives are compared with.

Shapes: B examples of a micro-batch, V views of an image, C classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.augment import Views
from pretraining.backbones.base import Backbone
from pretraining.data.image import ImageExamples
from pretraining.objectives.base import Batch, Loss, Objective
from pretraining.objectives.simclr import StackImages
from pretraining.optim import Optimizer
from pretraining.random import Keys
from pretraining.step import Term


class LabelledImages(StackImages):
    """Hands pixels on with their classes. Training images become views on the device; others are prepared as downstream."""

    def __call__(self, examples: ImageExamples, keys: Keys) -> Batch:
        """Turn raw images and labels into tensors."""
        batch = super().__call__(examples, keys)
        return batch if keys.stream == "train" else batch | {"views": self.preprocess(batch["images"])}


class Supervised(Objective):
    """Cross-entropy of a linear layer on the pooled vector. A subclass says how a batch is read.

    `label_smoothing` is the share of the target spread over all classes (Szegedy et al. 2016, section 7).
    """

    def __init__(self, *, backbone: Backbone, optimizer: Optimizer, classes: int, label_smoothing: float = 0.0) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        if classes < 2 or not 0.0 <= label_smoothing < 1.0:
            raise ValueError(
                f"got objective.classes={classes} and objective.label_smoothing={label_smoothing}: give at least 2 classes, "
                "and a share from 0 to below 1"
            )
        self.classes, self.label_smoothing = classes, label_smoothing
        self.head = nn.Linear(backbone.dim, classes)

    @abstractmethod
    def pooled(self, batch: Batch) -> Tensor:
        """Compute the vectors to classify: V for each example, view after view. [V * B, D]"""

    def loss(self, batch: Batch) -> Loss:
        """Classify each vector."""
        scores = self.head(self.pooled(batch))
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        labels = batch["labels"].repeat(len(scores) // len(batch["labels"]))
        total = F.cross_entropy(scores, labels, reduction="sum", label_smoothing=self.label_smoothing)
        count = torch.tensor(len(scores))
        return Loss({"cross_entropy": Term(total, count)}, {"accuracy": Term((scores.argmax(1) == labels).sum(), count)})

    def forward_flops(self, shape: Sequence[float]) -> float:
        """Count the backbone and the linear layer."""
        return self.backbone.forward_flops(shape) + 2.0 * self.head.weight.numel()


class SupervisedImages(Supervised):
    """Classes of images, from random views in training and from the prepared image in validation."""

    modality = "image"

    def __init__(self, *, backbone: Backbone, optimizer: Optimizer, classes: int, views: Views, label_smoothing: float = 0.0) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer, classes=classes, label_smoothing=label_smoothing)
        self.views = views

    def on_device(self, batch: Batch) -> Batch:
        """Make the views. [V * B, C, S, S]"""
        views = batch["views"] if "views" in batch else self.views(batch["images"], batch["keys"])
        return batch | {"views": views.to(self.dtype)}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count every view."""
        return {"cross_entropy": torch.tensor(len(batch["labels"]) * (1 if "views" in batch else self.views.count))}

    def pooled(self, batch: Batch) -> Tensor:
        """Compute the vectors of all views in one forward pass."""
        return self.backbone(images=batch["views"]).pooled

    def forward_flops(self, shape: Sequence[float]) -> float:
        """Count all views of one image; `shape` is (channels, height, width)."""
        size = self.views.crop.size
        return self.views.count * super().forward_flops((shape[0], size, size))
