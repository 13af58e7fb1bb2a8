"""VICReg (Bardes et al. 2022, "Variance-invariance-covariance regularization for self-supervised learning").

Shapes: B images of this rank, N of all ranks, V = 2 views, D width of the embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pretraining.backbones.base import Backbone
from pretraining.image.augment import Views
from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.heads import Projector
from pretraining.objectives.image.joint import CoupledEmbedding, precisely
from pretraining.objectives.losses.decorrelation import covariance_penalty, variance_hinge
from pretraining.optim.optimizers import Optimizer


class VICReg(CoupledEmbedding):
    """Views agree, each feature varies by at least 1 over the step, and features do not covary.

    The variance term is the mean over both views and the covariance term their sum, as in the authors' code (the paper
    adds both: its 25 is 50 here).
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        views: Views,
        projector: Projector = Projector(layers=3, hidden=256, output=256),
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer, views=views)
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
        self.projector = projector.build(backbone.dim)

    def coupled_loss(self, representations: Tensor, batches: list[Batch]) -> Loss:
        """Measure all three over the images of all ranks; in evaluation over those of the batch."""
        views = self.gathered(representations).unbind(1)
        with precisely(representations):
            invariance = F.mse_loss(views[0], views[1])
            variance = torch.stack([variance_hinge(view) for view in views]).mean()
            covariance = torch.stack([covariance_penalty(view) for view in views]).sum()
        return self.of_the_step((invariance, variance, covariance), representations)
