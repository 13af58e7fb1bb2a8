"""The sides of `joint_step`: four joint embeddings of this package, and the same of lightly's parts in a plain loop.

All train a ResNet-18 with CIFAR stem by SGD on two 32 x 32 views of the same pictures, with heads and augmentations of
lightly's benchmarks for CIFAR-10 (no blur, no local views), and of its VICReg for small images. lightly has no loss of
MoCo v3: its NT-Xent stands for it, on BYOL's heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.simclr_sides import SIZE, EachView, Setting, train_ours, train_peer
from experiments.benchmarks.turns import Turn

METHODS = ["byol", "vicreg", "moco_v3", "dino"]
MOMENTUM, PROTOTYPES = 0.99, 2048
RATES = {"vicreg": 1e-3}  # its terms are weighed by 25: at the others' rate it is not finite after five steps


def ours(method: str, turn: Turn, setting: Setting) -> None:
    """Train with this package as its command line does."""
    from pretraining.objectives.heads import Projector
    from pretraining.objectives.image.byol import BYOL
    from pretraining.objectives.image.dino import DINO
    from pretraining.objectives.image.moco_v3 import MoCoV3
    from pretraining.objectives.image.vicreg import VICReg
    from pretraining.objectives.losses.distillation import Distillation
    from pretraining.optim.schedules import Schedule

    still, sharp = Schedule(first=MOMENTUM, last=MOMENTUM), Schedule(first=0.04, last=0.04)
    head = Projector(layers=2, hidden=1024, output=256)
    both: dict[str, Any] = {"projector": head, "predictor": head, "momentum": still}
    asymmetric: dict[str, Any] = {"saturation": 0.2, "solarise": [0.0, 0.2]}
    if method == "byol":
        train_ours(turn, setting, BYOL, **both, **asymmetric)
    elif method == "moco_v3":
        train_ours(turn, setting, MoCoV3, **both, temperature=0.2, **asymmetric)
    elif method == "vicreg":
        expander = Projector(layers=3, hidden=2048, output=2048)
        weights: dict[str, Any] = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}
        train_ours(turn, setting, VICReg, projector=expander, **weights, saturation=0.2, solarise=0.1)
    else:
        told: dict[str, Any] = {"prototypes": PROTOTYPES, "temperature": 0.1, "teacher_temperature": sharp}
        wide = Projector(layers=3, hidden=2048, output=256, activation="gelu", output_bias=True, init_std=0.02)
        parts: dict[str, Any] = {
            "projector": wide,
            "distillation": Distillation(**told, centre_momentum=0.9),
            "momentum": still,
        }
        crop: dict[str, Any] = {"area": (0.4, 1.0), "saturation": 0.2, "solarise": [0.0, 0.2]}
        train_ours(turn, setting, DINO, **parts, **crop)


def lightly(method: str, turn: Turn, setting: Setting) -> None:
    """Train with lightly's networks, transforms, heads and losses, a forward pass for each view."""
    network, criterion = _network(method), _criterion(method)
    after = network.follow if isinstance(network, Taught) else None
    train_peer(turn, network, criterion, _transform(method), setting, after)


class Taught(nn.Module):
    """A student, its slower copy and, where it has one, its predictor, which see one view after the other."""

    def __init__(self, head: Callable[[], nn.Module], predictor: nn.Module | None = None) -> None:
        super().__init__()  # twice by hand: lightly's normalised weights cannot be copied
        self.student, self.teacher = (EachView(nn.Sequential(_backbone(), head())) for _ in range(2))
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.predictor = predictor or nn.Identity()

    def forward(self, views: list[Tensor]) -> list[Tensor]:
        """Compute the student's answers, then the teacher's. [2 * V of [B, D]]"""
        with torch.no_grad():
            known = self.teacher(views)
        return [*(self.predictor(answer) for answer in self.student(views)), *known]

    def follow(self) -> None:
        """Move the copy."""
        from lightly.models.utils import update_momentum

        update_momentum(self.student, self.teacher, MOMENTUM)


def _backbone() -> nn.Module:
    from lightly.models import ResNetGenerator

    layers = list(ResNetGenerator("resnet-18").children())[:-1]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _network(method: str) -> nn.Module:
    from lightly.models.modules import heads

    if method == "vicreg":
        return EachView(nn.Sequential(_backbone(), heads.VICRegProjectionHead(512, 2048, 2048)))
    if method == "dino":
        return Taught(lambda: heads.DINOProjectionHead(512, 2048, 256, PROTOTYPES, batch_norm=True))
    return Taught(lambda: heads.BYOLProjectionHead(512, 1024, 256), heads.BYOLPredictionHead(256, 1024, 256))


def _criterion(method: str) -> Any:
    from lightly.loss import DINOLoss, NegativeCosineSimilarity, NTXentLoss, VICRegLoss

    if method == "vicreg":
        return VICRegLoss()
    if method == "dino":
        sharp = DINOLoss(output_dim=PROTOTYPES)
        return lambda one, two, first, second: sharp([first, second], [one, two], epoch=0)
    crossed = NegativeCosineSimilarity() if method == "byol" else NTXentLoss(temperature=0.2)
    return lambda one, two, first, second: 0.5 * (crossed(one, second) + crossed(two, first))


def _transform(method: str) -> Any:
    from lightly import transforms
    from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform

    if method == "vicreg":
        return transforms.VICRegTransform(input_size=SIZE, cj_strength=0.5, gaussian_blur=0.0)
    if method == "dino":
        shape: dict[str, Any] = {"global_crop_size": SIZE, "n_local_views": 0, "gaussian_blur": (0.0, 0.0, 0.0)}
        return transforms.DINOTransform(**shape, cj_strength=0.5)
    views: dict[str, Any] = {"input_size": SIZE, "gaussian_blur": 0.0}
    return transforms.BYOLTransform(BYOLView1Transform(**views), BYOLView2Transform(**views))
