"""A teacher: a moving average of parts of an objective, from which it learns (mean teacher, BYOL, DINO, data2vec).

An objective makes one in its constructor and updates it in `after_step`, which is inside the optimizer step:

    self.teacher = Teacher(self, ("backbone", "projector"), momentum=0.996)

    def after_step(self, number):
        self.teacher.update(self, number, self.settings.max_steps)

The copies are the teacher's attributes of the same names (`self.teacher.backbone(...)`), and part of each checkpoint.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pretraining.distributed.collectives import local


def momentum_at(step: int, steps: int, *, first: float, last: float) -> float:
    """Compute the momentum at step `step` of `steps`: half a cosine from `first` to `last` (Grill et al. 2020)."""
    return last - (last - first) * 0.5 * (1.0 + math.cos(math.pi * min(step / steps, 1.0)))


class Teacher(nn.Module):
    """Copies of an objective's `parts` (attributes) that follow them: copy <- momentum * copy + (1 - momentum) * part.

    - `momentum`, `last_momentum`: at the first step of a run, and what it rises to.
    - `buffers`: running statistics and the like are the parts' own (copied), or follow them as weights do (averaged).
    - `mode`: eval keeps the copies in evaluation mode; train puts them in the objective's mode.

    The copies take no gradient. They are equal on all ranks, as the parts are after each step.
    """

    def __init__(
        self, objective: nn.Module, parts: Sequence[str], *, momentum: float, last_momentum: float = 1.0,
        buffers: Literal["copied", "averaged"] = "copied", mode: Literal["eval", "train"] = "eval",
    ) -> None:  # fmt: skip
        super().__init__()
        if not 0.0 <= momentum <= last_momentum <= 1.0:
            raise ValueError(f"a teacher's momentum must rise within 0 to 1, got {momentum} to {last_momentum}")
        if buffers not in ("copied", "averaged") or mode not in ("eval", "train"):
            raise ValueError(f"a teacher's buffers are copied or averaged, its mode eval or train: {buffers}, {mode}")
        self.parts, self.momentum, self.last_momentum = tuple(parts), momentum, last_momentum
        self.averages_buffers, self.follows_mode = buffers == "averaged", mode == "train"
        for name in parts:
            self.add_module(name, copy.deepcopy(getattr(objective, name)).requires_grad_(False))
        self.train(objective.training)

    def train(self, mode: bool = True) -> Teacher:
        """Put the copies in training mode, unless they are kept from it."""
        return super().train(mode and self.follows_mode)

    @torch.no_grad()
    def update(self, objective: nn.Module, step: int, steps: int) -> None:
        """Move towards the parts after optimizer step `step` of `steps`."""
        moved, copied = list[tuple[Tensor, Tensor]](), list[tuple[Tensor, Tensor]]()
        for own, part in ((getattr(self, name), getattr(objective, name)) for name in self.parts):
            moved += zip(own.parameters(), part.parameters(), strict=True)
            for pair in zip(own.buffers(), part.buffers(), strict=True):
                (moved if self.averages_buffers and pair[0].is_floating_point() else copied).append(pair)
        owned, followed = ([local(tensor) for tensor in side] for side in zip(*moved, strict=True))
        momentum = momentum_at(step, steps, first=self.momentum, last=self.last_momentum)
        torch._foreach_lerp_(owned, followed, 1.0 - momentum)
        for buffer, source in copied:
            buffer.copy_(source)
