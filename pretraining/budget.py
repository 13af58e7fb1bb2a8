"""What a run costs, and a budget as a number of optimizer steps, before training: so that objectives can be compared at equal cost."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pretraining.backbones.base import TextRow
from pretraining.run import RunError
from pretraining.step import Step
from pretraining.trainer import TrainerSettings


def row_flops(parts: Any, settings: TrainerSettings) -> float:
    """Count training on an average row: every view, decoder and head, and a second forward pass where micro-batches need one."""
    return parts.objective.step_flops(parts.row, batch_size=parts.data.batch_size, micro_batches=settings.accumulate)


def step_flops(parts: Any, settings: TrainerSettings) -> Callable[[Step], float]:
    """Count a step's operations from what is in it: per token for text (padding is not counted), per image else."""
    per_row, row = row_flops(parts, settings), parts.row
    if isinstance(row, TextRow):
        return lambda step: per_row / row.tokens * step.tokens
    return lambda step: per_row * step.examples


def steps(budget: Any, settings: TrainerSettings, parts: Any, batch_size: int) -> int:
    """Give the steps that fit `budget` ({steps, examples, tokens, flops, hours: at most one}), or trainer.max_steps without one.

    Tokens and FLOPs are counted for the average training row, padding excluded; hours by a short calibration on this machine, which
    must have nothing else to do.
    """
    given = {name: value for name, value in budget.items() if value is not None}
    if not given:
        return settings.max_steps
    if len(given) > 1:
        raise RunError(f"budget has {', '.join(f'{k}={v}' for k, v in given.items())}: give one of them")
    ((kind, amount),) = given.items()
    cost = _hours_of_step(parts, settings, batch_size) if kind == "hours" else _cost_of_step(kind, parts, settings, batch_size)
    number = math.floor(amount / cost + 1e-9)
    if number < 1:
        raise RunError(f"budget.{kind}={amount} does not pay for one step, which costs {cost:.3g}: raise it, or lower data.batch_size")
    print(f"budget.{kind}={amount:g}: {number} steps of {cost:.4g}", file=sys.stderr)
    return number


def frozen_steps(config: Any) -> int | None:
    """Give the steps that an earlier life of this run was given for its hours: they are measured once."""
    written = Path(config.run_dir) / "config.yaml"
    if config.budget.hours is None or config.resume == "none" or not written.exists():
        return None
    before = OmegaConf.load(written)
    return before.trainer.max_steps if OmegaConf.select(before, "budget.hours") == config.budget.hours else None


def _hours_of_step(parts: Any, settings: TrainerSettings, batch_size: int) -> float:
    from pretraining.dry_run import seconds_per_step

    if settings.ranks > 1:
        raise RunError(
            f"budget.hours is measured in one process, but this run has {settings.ranks} ranks: give budget.steps, from the seconds per "
            "step that a short run of them prints"
        )
    return seconds_per_step(parts, settings, batch_size) / 3600


def _cost_of_step(kind: str, parts: Any, settings: TrainerSettings, batch_size: int) -> float:
    if kind == "steps":
        return 1.0
    if kind == "examples":
        return float(batch_size)
    if kind == "flops":
        return batch_size * row_flops(parts, settings)
    if not isinstance(parts.row, TextRow):
        raise RunError("budget.tokens is for text: give budget.examples, flops, steps or hours")
    return batch_size * parts.row.tokens
