"""What a training step costs, in operations and in seconds, before training: to compare objectives at equal cost."""

from __future__ import annotations

import copy
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pretraining.data.loader import EVALUATION_SEED, StepLoader, collated
from pretraining.engine.batch import Batch, Step, StepSettings
from pretraining.engine.trainer import TrainerSettings, build_trainer, quieten
from pretraining.errors import RunError
from pretraining.random import Keys

OFF_BY = 0.1  # of what is measured, a formula may be
SAMPLED_EXAMPLES = 4  # of a measured step
COMPARED_EXAMPLES = (
    32  # where losses compare examples, which are then measured twice over, too: rows may differ in cost
)


def row_flops(parts: Any, settings: TrainerSettings) -> float:
    """Count the operations (2 per multiply-add) of training on an average row: all its views and all parts, both ways.

    Where the modality has a formula it is used, with twice the forward pass for the backward one. Else a step on a few
    rows is measured by running it on shapes alone.
    """
    if parts.row.flops is not None:
        return 3.0 * parts.row.flops
    if not parts.objective.coupled:
        return measured_flops(parts, SAMPLED_EXAMPLES, settings.accumulate) / SAMPLED_EXAMPLES
    few, more = COMPARED_EXAMPLES, 2 * COMPARED_EXAMPLES
    each = measured_flops(parts, few, settings.accumulate) / few
    # An example costs a + c * n in a step of n examples: comparisons grow with the number of others.
    growth = (measured_flops(parts, more, settings.accumulate, distinct=few) / more - each) / (more - few)
    return each + growth * (parts.batches.rows_per_step - few * settings.accumulate) / settings.accumulate


def check_formula(parts: Any) -> None:
    """Refuse a formula that is off by more than `OFF_BY` of what is measured, on rows as they are laid out.

    Those of this package are tested, and cost no time here.
    """
    if parts.row.flops is None or type(parts.objective).__module__.startswith("pretraining."):
        return
    plain = copy.copy(parts)
    plain.objective = copy.deepcopy(parts.objective)
    plain.objective.backbone.take_no_shortcut()
    with torch.random.fork_rng():
        batch = sampled(plain, SAMPLED_EXAMPLES)
    said = 3.0 * parts.data.modality.flops_as_laid_out(plain.objective, batch, parts.row)
    found = measured_flops(plain, SAMPLED_EXAMPLES, 1) / SAMPLED_EXAMPLES
    if abs(said - found) > OFF_BY * found:
        what = f"{type(parts.objective).__name__}.forward_flops says {said:.4g} FLOP per row, but {found:.4g}"
        raise RunError(f"{what} are measured: mend it, or leave it out, and budget.flops takes what is measured")


def sampled(parts: Any, examples: int, distinct: int | None = None) -> Batch:
    """Finish a batch of the first `examples` training rows, or of the first `distinct` ones over and over."""
    rows = np.arange(min(distinct or examples, parts.train.count(0)), dtype=np.int64)
    rows = np.resize(rows, examples)
    keys = Keys(EVALUATION_SEED, "train", np.zeros_like(rows), rows, 0.5)
    return parts.objective.finished(collated(parts.collate, parts.train.read(0, rows), keys))


def measured_flops(parts: Any, examples: int, micro_batches: int, distinct: int | None = None) -> float:
    """Count one micro-batch of `examples` training rows, forward and backward, as torch does (`FlopCounterMode`).

    The operations run on the meta device, without data; an objective whose work depends on data runs on the rows.
    """
    objective = parts.objective
    with torch.random.fork_rng():
        batch = sampled(parts, examples, distinct)
        try:
            return _counted(objective, batch, torch.device("meta"), micro_batches)
        except (NotImplementedError, RuntimeError):  # there are no data on the meta device to depend on
            return _counted(objective, batch, objective.device, micro_batches)


def _counted(objective: Any, batch: Batch, device: torch.device, micro_batches: int) -> float:
    """Count a step's passes over one of its micro-batches."""
    twin = copy.deepcopy(objective).to(device).train()
    twin.manual_backward = lambda loss: loss.backward()
    twin.on_device = lambda batch: batch  # it is finished
    twin.compared = True  # there are no data to count
    moved = placed(batch, device)
    counter = FlopCounterMode(display=False)
    counts = {name: torch.ones((), dtype=torch.float64, device=device) for name in objective.counts(batch)}
    with counter, torch.enable_grad():
        twin.backward_step([moved] * micro_batches, counts)
    return float(counter.get_total_flops()) / micro_batches


def placed(value: Any, device: torch.device) -> Any:
    """Copy the tensors of a batch to a device, however they are nested."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: placed(part, device) for name, part in value.items()}
    return value


def step_flops(parts: Any, settings: TrainerSettings) -> Callable[[Step], float]:
    """Count a step's operations from the units that are in it (tokens without padding, images)."""
    per_unit = row_flops(parts, settings) / parts.row.units
    return lambda step: per_unit * step.units


class Served(list[Step]):
    """Steps held in memory: a list of its own type, which Lightning takes for one loader and not for many."""


def seconds_per_step(parts: Any, settings: TrainerSettings, steps: int = 4) -> float:
    """Time optimizer steps on a copy of the model: the best of `steps`, after one that warms up."""
    return min(timed(parts, settings, steps + 1)[0][1:])


def timed(parts: Any, settings: TrainerSettings, steps: int) -> tuple[list[float], Step]:
    """Time each of the first `steps` steps on a copy of the model; returns the first step, too."""

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.marks = [time.perf_counter()]

        def on_train_batch_end(self, *_: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.marks.append(time.perf_counter())

    shape = {"batch_size": parts.batches, "max_steps": steps, "accumulate": settings.accumulate}
    served = Served(StepLoader(parts.train, parts.collate, **shape, seed=0, ranks=(0, settings.ranks)))
    module, clock = copy.deepcopy(parts.objective), Clock()
    module.settings = StepSettings(seed=0, max_steps=steps, clip_norm=settings.clip_norm)
    short = replace(settings, max_steps=steps, devices=1, num_nodes=1, strategy="single")
    with tempfile.TemporaryDirectory() as directory:
        quieten()
        clock.marks = [time.perf_counter()]
        build_trainer(short, [], [clock], Path(directory)).fit(module, served)
    return [after - before for before, after in itertools.pairwise(clock.marks)], served[0]
