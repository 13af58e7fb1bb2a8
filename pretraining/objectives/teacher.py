"""A teacher: a moving average of parts of an objective, from which it learns (mean teacher, BYOL, DINO, data2vec).

An objective makes one in its constructor and updates it in `after_step`, which is inside the optimizer step:

    self.teacher = Teacher(self, ("backbone", "projector"), momentum=0.996)

    def after_step(self, number):
        self.teacher.update(self, number, self.settings.max_steps)

The copies are the teacher's attributes of the same names (`self.teacher.backbone(...)`), and part of each checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pretraining.distributed.collectives import local
from pretraining.optim.schedules import Schedule


class Teacher(nn.Module):
    """Copies of an objective's `parts` (attributes) that follow them: copy <- momentum * copy + (1 - momentum) * part.

    - `momentum`, `last_momentum`: at the first step of a run, and what it rises to on half a cosine; or a schedule.
    - `buffers`: running statistics and the like are the parts' own (copied), follow them as weights do (averaged), or
      are left to the copies' own forward passes (own; needs mode train, or they would never move).
    - `mode`: eval keeps the copies in evaluation mode; train puts them in the objective's mode, without any dropout.

    The copies take no gradient. They are equal on all ranks, as the parts are after each step.
    """

    def __init__(
        self, objective: nn.Module, parts: Sequence[str], *, momentum: float | Schedule, last_momentum: float = 1.0,
        buffers: Literal["copied", "averaged", "own"] = "copied", mode: Literal["eval", "train"] = "eval",
    ) -> None:  # fmt: skip
        super().__init__()
        rise = momentum if isinstance(momentum, Schedule) else Schedule(first=momentum, last=last_momentum)
        if not 0.0 <= rise.first <= rise.last <= 1.0:
            raise ValueError(f"a teacher's momentum must rise within 0 to 1, got {rise.first} to {rise.last}")
        if buffers not in ("copied", "averaged", "own") or mode not in ("eval", "train"):
            known = "a teacher's buffers are copied, averaged or own, its mode eval or train"
            raise ValueError(f"{known}: {buffers}, {mode}")
        if buffers == "own" and mode == "eval":
            raise ValueError("a teacher in mode eval never moves buffers of its own: choose copied or averaged")
        self.parts, self.momentum = tuple(parts), rise
        self.buffers_kind, self.follows_mode = buffers, mode == "train"
        for name in parts:
            self.add_module(name, without_dropout(copy.deepcopy(getattr(objective, name))).requires_grad_(False))
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
            for pair in zip(own.buffers(), part.buffers(), strict=True) if self.buffers_kind != "own" else ():
                averaged = self.buffers_kind == "averaged" and pair[0].is_floating_point()
                (moved if averaged else copied).append(pair)
        owned, followed = ([local(tensor) for tensor in side] for side in zip(*moved, strict=True))
        torch._foreach_lerp_(owned, followed, 1.0 - self.momentum(step, steps))
        for buffer, source in copied:
            buffer.copy_(source)


def without_dropout(module: nn.Module) -> nn.Module:
    """Set every dropout and drop-path rate of `module` to zero, in place: a target is not to be noisy."""
    for part in module.modules():
        if isinstance(getattr(part, "p", None), float):  # of torch's dropouts and torchvision's stochastic depth
            part.p = 0.0  # type: ignore[assignment]
        if isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
    return module
