"""Layer-wise adaptive rates (You et al. 2017, "Large batch training of convolutional networks") in two published forms.

They are those of SimCLR's recipes. Nothing waits for the device: the ratios of all layers are computed and applied as
tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pretraining.distributed.collectives import local, whole
from pretraining.optim.optimizers import Optimizer, Schedule

Form = Literal["rate_inside", "rate_outside"]


@dataclass(kw_only=True)
class LARS(Optimizer):
    """Momentum whose steps are, per parameter tensor w with gradient g, in proportion to the norm of w.

    `form` says what momentum accumulates, with decayed gradient d = g + weight_decay * w:

    - `rate_inside`, Google's: rate * trust * |w| / |d| * d, which is then the step.
    - `rate_outside`, of lightly, solo-learn and others after Bolts: trust * |w| / (|g| + weight_decay * |w| + eps) * d,
      of which the step is rate times the sum; with `clip` (LARC) the factor before d is divided by the rate and at most
      1.

    Biases and norms take neither decay nor a ratio, as in all of those recipes; `adapt_vectors` gives them a ratio. A
    zero weight has ratio 1. A zero gradient leaves only decay (`rate_inside`) or nothing (`rate_outside`) to
    accumulate.
    """

    momentum: float = 0.9
    nesterov: bool = False
    trust: float = 0.001
    form: Form = "rate_inside"
    clip: bool = False
    eps: float = 1e-8
    adapt_vectors: bool = False
    weight_decay: float = 0.0001
    schedule: Schedule = "cosine"
    peak_lr: float = 4.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip and self.form == "rate_inside":
            why = "Google's form has no clipped ratio"
            raise ValueError(f"optimizer.clip belongs to optimizer.form=rate_outside: {why}")

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Build the torch optimizer."""
        return LayerwiseSGD([{**group, "adapted": group["decayed"] or self.adapt_vectors} for group in groups], self)


class LayerwiseSGD(torch.optim.Optimizer):
    """The torch optimizer of `LARS`; its state is one momentum buffer per parameter."""

    def __init__(self, groups: list[dict[str, Any]], settings: LARS) -> None:
        self.settings = settings
        super().__init__(groups, {"lr": settings.peak_lr, "weight_decay": settings.weight_decay, "adapted": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [parameter for parameter in group["params"] if parameter.grad is not None]
            if weights:
                self._update(weights, group["lr"], group["weight_decay"], group["adapted"])
        return loss

    def _update(self, weights: list[Tensor], rate: float, decay: float, adapted: bool) -> None:
        inside, momentum = self.settings.form == "rate_inside", self.settings.momentum
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        steps: Sequence[Tensor] = torch._foreach_add(gradients, weights, alpha=decay)
        if adapted:
            ratios = self._ratios(weights, gradients if not inside else steps, rate, decay)
            torch._foreach_mul_([local(step) for step in steps], [*ratios.to(steps[0].dtype).unbind()])
        if inside:
            torch._foreach_mul_([*steps], rate)
        if momentum:
            buffers = [self._buffer(weight) for weight in weights]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, [*steps])
            steps = torch._foreach_add([*steps], buffers, alpha=momentum) if self.settings.nesterov else buffers
        torch._foreach_add_(weights, [*steps], alpha=-1.0 if inside else -rate)

    def _ratios(self, weights: list[Tensor], gradients: Sequence[Tensor], rate: float, decay: float) -> Tensor:
        """Compute each tensor's factor; `gradients` are decayed where the rate is inside. [tensors], at least fp32"""
        settings, dtype = self.settings, torch.promote_types(weights[0].dtype, torch.float32)
        norms = (torch._foreach_norm([*part], 2) for part in (weights, gradients))
        weight, gradient = (torch.stack([whole(norm) for norm in part]).to(dtype) for part in norms)
        if settings.form == "rate_inside":
            return torch.where((weight > 0) & (gradient > 0), settings.trust * weight / gradient, 1.0)
        ratio = settings.trust * weight / (gradient + decay * weight + settings.eps)
        if settings.clip:
            ratio = (ratio / rate).clamp_(max=1.0)
        return torch.where(weight > 0, ratio, 1.0) * (gradient > 0)

    def _buffer(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return state["momentum_buffer"]
