"""Cross-entropy between distributions over prototypes, of views of the same images.

Shapes: B images, V views of the student, T of the teacher (the student's first ones), K prototypes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pretraining.optim.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How a teacher's scores for prototypes become targets.

    `temperature` is the student's; the teacher's follows a schedule. `centre_momentum`: of the mean score that is taken
    off. Prototypes keep length 1 unless `learn_lengths`, and rest for `freeze_steps` first steps.
    """

    prototypes: int = 512
    temperature: float = 0.1
    teacher_temperature: Schedule = field(
        default_factory=lambda: Schedule(first=0.04, last=0.04, shape="linear", steps=0)
    )
    centre_momentum: float = 0.9
    learn_lengths: bool = False
    freeze_steps: int = 0

    def __post_init__(self) -> None:
        teacher = (self.teacher_temperature.first, self.teacher_temperature.last)
        if not min(self.temperature, *teacher) > 0:
            raise ValueError(f"temperatures must be above 0, got {self.temperature} and the teacher's {teacher}")


@dataclass(frozen=True, kw_only=True)
class MaskedDistillation(Distillation):
    """Distillation of hidden patches, too: `mask_chance` of the views hide a share of theirs from `mask_ratio`.

    `patch_weight` is that of their term.
    """

    mask_chance: float = 0.5
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    patch_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.mask_ratio[0] <= self.mask_ratio[1] <= 1.0 or not 0.0 <= self.mask_chance <= 1.0:
            told = f"got mask_ratio={list(self.mask_ratio)} and mask_chance={self.mask_chance}"
            raise ValueError(f"shares of hidden patches must rise within 0 to 1, as must their chance: {told}")


def cross_entropy_of_views(targets: Tensor, logits: Tensor) -> Tensor:
    """Average -sum_k target_k log softmax(logits)_k over all pairs of a teacher's view and another of the student's.

    `targets` [T, B, K] sum to 1 and take no gradient; `logits` [V, B, K] are divided by their temperature already. One
    number per image: [B].
    """
    logs = logits.log_softmax(-1)
    others = logs.sum(0) - logs[: len(targets)]  # [T, B, K]: of all views but the target's own
    return -(targets * others).sum((0, 2)) / (len(targets) * (len(logits) - 1))


def divergence_from_mean(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the entropy of distributions [N, K], averaged, and their divergence KL(each || their mean), averaged.

    A teacher that says the same of all images has divergence 0, whether it spreads or concentrates what it says.
    """
    entropy = torch.special.entr(targets).sum(-1).mean()
    return entropy, torch.special.entr(targets.mean(0)).sum() - entropy
