"""Optimizers and learning-rate schedules, described by plain numbers and built for given parameters.

A schedule is a function of the optimizer step alone, so a resumed run continues it exactly and nothing is rescaled
behind a config.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from pretraining.distributed.collectives import local, whole
from pretraining.distributed.environment import process_rank
from pretraining.errors import RunError
from pretraining.optim.schedules import ramp_at
from pretraining.settings import check_fields

Schedule = Literal["linear", "cosine", "constant", "inverse_sqrt", "tri_stage"]
CUT_TO = 0.1  # of a run that is shorter than the warm-up that was stated


@dataclass
class ParameterGroup:
    """Parameters that share a rate: `lr_scale` times the schedule's; `decayed` says whether weight decay applies.

    Those that are not `scheduled` keep their peak rate.
    """

    parameters: list[nn.Parameter]
    decayed: bool = True
    lr_scale: float = 1.0
    names: list[str] = field(default_factory=list)
    scheduled: bool = True


def split_by_decay(named: Iterable[tuple[str, nn.Parameter]], lr_scale: float = 1.0) -> list[ParameterGroup]:
    """Group trainable parameters by weight decay: matrices and filters take it, vectors (biases, norms) do not."""
    groups = [ParameterGroup([], decayed, lr_scale) for decayed in (True, False)]
    for name, parameter in named:
        if parameter.requires_grad:
            group = groups[0 if parameter.ndim > 1 else 1]
            group.parameters.append(parameter)
            group.names.append(name)
    return [group for group in groups if group.parameters]


def scale_at(
    step: int,
    *,
    schedule: Schedule,
    warmup_steps: int,
    max_steps: int,
    final_fraction: float,
    warmup_from: float | None = None,
    plateau: float = 0.0,
) -> float:
    """Compute the fraction of the peak rate at optimizer step `step`, counted from 0.

    Warm-up is linear: from `warmup_from` at step 0 to 1 at `warmup_steps`, or where that is null (step + 1) /
    warmup_steps, so that the first step already learns. Decay then goes to `final_fraction` at `max_steps`; that of
    tri_stage (Park et al. 2019, "SpecAugment", section 4.2) is exponential, and begins after the share `plateau`.
    """
    if step < warmup_steps:
        if warmup_from is None:
            return (step + 1) / warmup_steps
        return warmup_from + (1.0 - warmup_from) * step / warmup_steps
    if schedule == "constant":
        return 1.0
    if schedule == "inverse_sqrt":
        return math.sqrt(max(warmup_steps, 1) / max(step + 1, 1))
    if schedule == "tri_stage":
        begin = min(warmup_steps + round(plateau * max_steps), max_steps)
        return ramp_at(max(0, step - begin), max_steps - begin, first=1.0, last=final_fraction, shape="exponential")
    done = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    falling = 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return final_fraction + (1.0 - final_fraction) * falling


@dataclass(kw_only=True)
class Optimizer(ABC):
    """What all optimizers share: a peak rate and its schedule.

    `peak_lr` is the rate used, after any scaling rule; `warmup_steps` optimizer steps, or below 1 this share of the
    run's, lead up to it, from `warmup_from` of it (null: one step's share). The rate changes every `hold_steps` steps.
    The schedule tri_stage stays at the peak for the share `plateau` of the run.
    `decay_vectors` decays biases and norms, too. With `last_weight_decay` the decay goes there from `weight_decay` over
    the run, on half a cosine (Caron et al. 2021, "Emerging properties in self-supervised vision transformers").
    """

    peak_lr: float
    warmup_steps: float = 0
    schedule: Schedule
    final_fraction: float = 0.0
    weight_decay: float
    warmup_from: float | None = None
    hold_steps: int = 1
    plateau: float = 0.0
    decay_vectors: bool = False
    last_weight_decay: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, "optimizer")
        if self.schedule == "tri_stage" and not self.final_fraction > 0:
            what = f"got optimizer.schedule=tri_stage and optimizer.final_fraction={self.final_fraction}"
            raise RunError(f"{what}: give a share above 0, to which the rate decays by the same factor each step")
        if self.schedule != "tri_stage" and self.plateau:
            what = f"got optimizer.plateau={self.plateau} and optimizer.schedule={self.schedule}"
            raise RunError(f"{what}: set optimizer.schedule=tri_stage, which alone stays at its peak")

    @abstractmethod
    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Build the torch optimizer over groups that carry `params`, `lr` and `weight_decay`."""

    def build(self, groups: list[ParameterGroup], max_steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """Build the optimizer and its per-step schedule for a run of `max_steps`."""
        described = []
        for group in groups:
            decay = self.weight_decay if group.decayed or self.decay_vectors else 0.0
            rates = {"lr": self.peak_lr * group.lr_scale, "weight_decay": decay}
            described.append({"params": group.parameters, **rates, "decayed": group.decayed})
        optimizer = self.make(described)
        scale = self._scale(max_steps)
        return optimizer, LambdaLR(optimizer, [scale if group.scheduled else _unchanged for group in groups])

    def set_decay(self, optimizer: torch.optim.Optimizer, step: int, max_steps: int) -> None:
        """Give the groups that decay what optimizer step `step` of `max_steps` takes, where that moves."""
        if self.last_weight_decay is None:
            return
        decay = ramp_at(step, max_steps, first=self.weight_decay, last=self.last_weight_decay)
        for group in optimizer.param_groups:
            if group["decayed"] or self.decay_vectors:
                group["weight_decay"] = decay

    def warmup_in(self, max_steps: int) -> int:
        """Count the warm-up's steps in a run of `max_steps`, which is no shorter: its peak would not be reached."""
        share = self.warmup_steps if self.warmup_steps < 1 else CUT_TO
        if self.warmup_steps == 0 or 1 <= self.warmup_steps <= max_steps:
            return int(self.warmup_steps)
        return max(1, round(share * max_steps))

    def announce(self, max_steps: int) -> None:
        """Say where the warm-up that was stated is longer than a run of `max_steps`, which takes a part of it."""
        if self.warmup_steps > max_steps and process_rank() == 0:
            what = f"optimizer.warmup_steps={self.warmup_steps} is longer than the run of {max_steps} steps"
            print(f"{what}: warm-up takes {self.warmup_in(max_steps)}, a tenth of them", file=sys.stderr)

    def describe(self, max_steps: int) -> str:
        """Describe the schedule of a run of `max_steps`: its warm-up, its peak, its last rate."""
        warmup, peak, last = self.rates(max_steps).values()
        begin = f"peak rate {peak:.4g} after {warmup:,} of {max_steps:,} steps"
        return f"{begin}, then {self.schedule}, at the end {last:.4g}"

    def rates(self, max_steps: int) -> dict[str, float]:
        """Name the warm-up's steps, the peak and the last rate of a run of `max_steps`."""
        last = self.peak_lr * self._scale(max_steps)(max_steps)
        found = {"warmup_steps": self.warmup_in(max_steps), "peak_rate": self.peak_lr, "final_rate": last}
        return {f"schedule/{name}": value for name, value in found.items()}

    def _scale(self, max_steps: int) -> Callable[[int], float]:
        names = ("schedule", "final_fraction", "warmup_from", "plateau")
        numbers: dict[str, Any] = {name: getattr(self, name) for name in names}
        numbers |= {"max_steps": max_steps, "warmup_steps": self.warmup_in(max_steps)}
        return lambda step: scale_at(step // self.hold_steps * self.hold_steps, **numbers)


def _unchanged(step: int) -> float:
    """Keep the peak rate."""
    return 1.0


@dataclass(kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), in torch's fused form."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-06
    weight_decay: float = 0.01
    schedule: Schedule = "linear"
    warmup_steps: float = 0.1
    peak_lr: float = 0.001

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Build torch's AdamW."""
        return torch.optim.AdamW(groups, betas=(self.betas[0], self.betas[1]), eps=self.eps, fused=True)


@dataclass(kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0005
    schedule: Schedule = "cosine"
    peak_lr: float = 0.06

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise ValueError("optimizer.nesterov=true looks ahead along the momentum: give optimizer.momentum above 0")

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Build torch's SGD."""
        return torch.optim.SGD(groups, lr=self.peak_lr, momentum=self.momentum, nesterov=self.nesterov, foreach=True)


@dataclass(kw_only=True)
class Adafactor(Optimizer):
    """Adam with factored second moments, clipped updates and rates relative to the weights (Shazeer & Stern 2018).

    The rate at a step is the lesser of the schedule's and 1 / sqrt(step), times the root mean square of the weight.
    """

    beta2_decay: float = -0.8
    clip_update: float = 1.0
    weight_decay: float = 0.0
    final_fraction: float = 1.0
    schedule: Schedule = "constant"
    peak_lr: float = 0.01

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Build torch's Adafactor."""
        return torch.optim.Adafactor(groups, lr=self.peak_lr, beta2_decay=self.beta2_decay, d=self.clip_update)


def clip_by_norm(parameters: Iterable[nn.Parameter], max_norm: float | None, *, each: bool = False) -> Tensor:
    """Scale gradients in place to a joint 2-norm of at most `max_norm`; returns the norm before, unread by the host.

    With `each` every tensor by its own norm, as in DINO's code.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(gradients, foreach=True))
    if max_norm is not None:
        norms = torch.stack([whole(part) for part in torch._foreach_norm(gradients)]) if each else norm
        scales = torch.clamp(max_norm / (norms + 1e-6), max=1.0).to(gradients[0].dtype)
        torch._foreach_mul_([local(gradient) for gradient in gradients], [*scales.unbind()] if each else scales)  # type: ignore[call-overload]
    return norm
