"""An objective of one file: predict how bright an image is from its features."""

import torch
from torch.nn import functional as F

from pretraining.engine.batch import Term
from pretraining.image.modality import IMAGE
from pretraining.objectives.base import Batch, Loss, Objective


class Stack:
    """The collate: turns raw images into tensors."""

    def __init__(self, *, preprocess):
        self.preprocess = preprocess

    def __call__(self, examples, keys) -> Batch:
        return {"inputs": {"images": torch.from_numpy(examples.images).float() / 255}}


class Brightness(Objective):
    """Mean squared error of the predicted mean pixel, in units of the whole range."""

    modality = IMAGE

    def __init__(self, *, backbone, optimizer, gain: float):
        super().__init__(backbone=backbone, optimizer=optimizer)
        self.head, self.gain = torch.nn.Linear(backbone.dim, 1), gain

    def loss(self, batch: Batch) -> Loss:
        images, features = batch["inputs"]["images"], self.backbone(**batch["inputs"])
        error = self.gain * self.head(features.pooled)[:, 0] - images.mean((1, 2, 3))
        total = F.mse_loss(error, torch.zeros_like(error), reduction="sum")
        return Loss({"brightness": Term(total, torch.tensor(len(images)))})

    def counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"brightness": torch.tensor(len(batch["inputs"]["images"]))}
