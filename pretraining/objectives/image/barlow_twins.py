"""Barlow Twins (Zbontar et al. 2021, "Self-supervised learning via redundancy reduction").

Shapes: B images of this rank, N of all ranks, V = 2 views, D width of the embedding.
"""

from __future__ import annotations

from torch import Tensor

from pretraining.backbones.base import Backbone
from pretraining.image.augment import Views
from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.heads import Projector
from pretraining.objectives.image.joint import CoupledEmbedding, precisely
from pretraining.objectives.losses.decorrelation import cross_correlation, off_diagonal_squares
from pretraining.optim.optimizers import Optimizer


class BarlowTwins(CoupledEmbedding):
    """The cross-correlation of two views' features over the step is the identity: sum of squares off it.

    Not divided by D: with independent views the redundancy is D (D - 1) / N. `weight` multiplies both terms,
    `redundancy` the second alone (the paper's lambda).
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        optimizer: Optimizer,
        views: Views,
        projector: Projector = Projector(layers=3, hidden=256, output=256),
        redundancy: float = 0.0051,
        weight: float = 1.0,
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer, views=views)
        self.weights = {"invariance": weight, "redundancy": weight * redundancy}
        self.projector = projector.build(backbone.dim)

    def coupled_loss(self, representations: Tensor, batches: list[Batch]) -> Loss:
        """Correlate over the images of all ranks; in evaluation over those of the batch."""
        with precisely(representations):
            first, second = self.gathered(representations).unbind(1)
            matrix = cross_correlation(first, second)
        invariance = (matrix.diagonal() - 1.0).square().sum()
        return self.of_the_step((invariance, off_diagonal_squares(matrix)), representations)
