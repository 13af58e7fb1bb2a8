"""Turns a budget into a number of optimizer steps, before training: so that objectives can be compared at equal cost."""

from __future__ import annotations

import math
import sys
from typing import Any

from pretraining.run import RunError
from pretraining.trainer import TrainerSettings


def steps(budget: Any, settings: TrainerSettings, parts: Any, batch_size: int) -> int:
    """Give the steps that fit `budget` ({steps, examples, tokens, flops, hours: at most one}), or trainer.max_steps without one.

    Tokens and FLOPs are counted for the average training row, padding excluded; hours by a short calibration on this machine.
    """
    given = {name: value for name, value in budget.items() if value is not None}
    if not given:
        return settings.max_steps
    if len(given) > 1:
        raise RunError(f"budget has {', '.join(f'{k}={v}' for k, v in given.items())}: give one of them")
    ((kind, amount),) = given.items()
    cost = batch_size * _cost_of_row(kind, parts) if kind not in ("steps", "hours") else 1.0
    if kind == "hours":
        from pretraining.dry_run import seconds_per_step

        cost = seconds_per_step(parts, settings, batch_size) / 3600
    number = math.floor(amount / cost + 1e-9)
    if number < 1:
        raise RunError(f"budget.{kind}={amount} does not pay for one step, which costs {cost:.3g}: raise it, or lower data.batch_size")
    print(f"budget.{kind}={amount:g}: {number} steps of {cost:.4g}", file=sys.stderr)
    return number


def _cost_of_row(kind: str, parts: Any) -> float:
    if kind == "examples":
        return 1.0
    if kind == "flops":
        return parts.objective.step_flops(parts.flops_shape)
    if parts.objective.modality != "text":
        raise RunError("budget.tokens is for text: give budget.examples, flops, steps or hours")
    return float(parts.flops_shape[0])
