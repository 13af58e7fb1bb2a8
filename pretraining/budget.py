"""A budget as a number of optimizer steps, before training."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pretraining.cost import check_formula, row_flops, seconds_per_step
from pretraining.engine.trainer import TrainerSettings
from pretraining.errors import RunError
from pretraining.runs.directory import read_config


def affordable_steps(budget: Any, settings: TrainerSettings, parts: Any) -> int:
    """Count the steps that fit `budget` (one of steps, examples, units, flops, hours); without one trainer.max_steps.

    Units are those of the modality (tokens, images, seconds of audio), which `budget.tokens` names where it is that.
    Units and FLOPs are counted for the average training row, padding excluded; hours by a short calibration on this
    machine, which must have nothing else to do.
    """
    given = {name: value for name, value in budget.items() if value is not None}
    if not given:
        return settings.max_steps
    if len(given) > 1:
        raise RunError(f"budget has {', '.join(f'{k}={v}' for k, v in given.items())}: give one of them")
    ((kind, amount),) = given.items()
    cost = _cost_of_step(kind, parts, settings)
    number = math.floor(amount / cost + 1e-9)
    if number < 1:
        told = f"budget.{kind}={amount} does not pay for one step, which costs {cost:.3g}"
        raise RunError(f"{told}: raise it, or lower data.batch_size")
    print(f"budget.{kind}={amount:g}: {number} steps of {cost:.4g}", file=sys.stderr)
    return number


def frozen_steps(config: Any) -> int | None:
    """Read the steps that an earlier life of this run was given for its hours: they are measured once."""
    written = Path(config.run_dir) / "config.yaml"
    if config.budget.hours is None or config.resume == "none" or not written.exists():
        return None
    before = read_config(written)
    return before.trainer.max_steps if OmegaConf.select(before, "budget.hours") == config.budget.hours else None


def _cost_of_step(kind: str, parts: Any, settings: TrainerSettings) -> float:
    if kind == "steps":
        return 1.0
    if kind == "examples":
        return float(parts.batches.rows_per_step)
    if kind == "flops":
        check_formula(parts)
        return parts.batches.rows_per_step * row_flops(parts, settings)
    if kind == "hours":
        if settings.ranks > 1:
            told = f"budget.hours is measured in one process, but this run has {settings.ranks} ranks"
            raise RunError(f"{told}: give budget.steps, from the seconds per step that a short run of them prints")
        return seconds_per_step(parts, settings) / 3600
    unit = parts.data.modality.unit
    if kind not in ("units", unit):
        told = f"budget.{kind} is not what this data is counted in"
        raise RunError(f"{told}: give budget.units ({unit}), examples, flops, steps or hours")
    return parts.batches.rows_per_step * parts.row.units
