"""Supervised pretraining: predict each example's class. The reference that self-supervised ones are compared with.

Shapes: B examples of a micro-batch, V views of an example, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.backbones.base import Backbone
from pretraining.engine.batch import Term
from pretraining.objectives.base import Batch, Loss, Objective
from pretraining.optim.optimizers import Optimizer


class Supervised(Objective):
    """Cross-entropy of a linear layer on the pooled vector, of any modality.

    `label_smoothing` is the share of the target spread over all classes (Szegedy et al. 2016, section 7).
    """

    def __init__(self, *, backbone: Backbone, optimizer: Optimizer, classes: int, label_smoothing: float = 0.0) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        if classes < 2 or not 0.0 <= label_smoothing < 1.0:
            told = f"got objective.classes={classes} and objective.label_smoothing={label_smoothing}"
            raise ValueError(f"{told}: give at least 2 classes, and a share from 0 to below 1")
        self.classes, self.label_smoothing = classes, label_smoothing
        self.head = nn.Linear(backbone.dim, classes)

    def loss(self, batch: Batch) -> Loss:
        """Classify each vector: V for each example, view after view. [V * B]"""
        scores = self.head(self.backbone(**batch["inputs"]).pooled)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        labels = batch["labels"].repeat(len(scores) // len(batch["labels"]))
        total = F.cross_entropy(scores, labels, reduction="sum", label_smoothing=self.label_smoothing)
        count = torch.tensor(len(scores))
        correct = (scores.argmax(1) == labels).sum()
        return Loss({"cross_entropy": Term(total, count)}, {"accuracy": Term(correct, count)})

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the examples."""
        return {"cross_entropy": torch.tensor(len(batch["labels"]))}
