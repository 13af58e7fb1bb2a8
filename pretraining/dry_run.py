"""What a run would be: one real step on its parts, timed and counted, with nothing left behind."""

from __future__ import annotations

import copy
import itertools
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from pretraining.budget import row_flops
from pretraining.data.loader import StepLoader
from pretraining.step import Step, StepSettings
from pretraining.trainer import TrainerSettings, build_trainer, quieten


class Served(list[Step]):
    """Steps held in memory: a list of its own type, which Lightning takes for one loader and not for many."""


def seconds_per_step(parts: Any, settings: TrainerSettings, batch_size: int, steps: int = 4) -> float:
    """Time optimizer steps on a copy of the model: the best of `steps`, after one that warms up."""
    return min(_timed(parts, settings, batch_size, steps + 1)[0][1:])


def _timed(parts: Any, settings: TrainerSettings, batch_size: int, steps: int) -> tuple[list[float], Step]:
    import pytorch_lightning as pl

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.marks = [time.perf_counter()]

        def on_train_batch_end(self, *_: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.marks.append(time.perf_counter())

    loader = StepLoader(
        parts.train,
        parts.collate,
        batch_size=batch_size,
        max_steps=steps,
        seed=0,
        accumulate=settings.accumulate,
        ranks=(0, settings.ranks),
    )
    served = Served(loader)
    module, clock = copy.deepcopy(parts.objective), Clock()
    module.settings = StepSettings(seed=0, max_steps=steps, clip_norm=settings.clip_norm)
    short = TrainerSettings(**{**vars(settings), "max_steps": steps, "devices": 1, "num_nodes": 1, "strategy": "single"})
    with tempfile.TemporaryDirectory() as directory:
        quieten()
        clock.marks = [time.perf_counter()]
        build_trainer(short, [], [clock], Path(directory)).fit(module, served)
    return [after - before for before, after in itertools.pairwise(clock.marks)], served[0]


def show(config: DictConfig, settings: TrainerSettings, parts: Any) -> None:
    """Print shapes, parameters, memory, FLOPs, the estimated time and three examples (or write a grid of views)."""
    seconds, step = _timed(parts, settings, config.data.batch_size, 3)
    objective = parts.objective
    trainable = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    backbone = sum(p.numel() for p in objective.backbone.parameters())
    per_step = row_flops(parts, settings) * config.data.batch_size
    best = min(seconds[1:])
    lines = [
        f"objective   {type(objective).__name__} on {type(objective.backbone).__name__}: {trainable:,} trainable parameters, "
        f"{backbone:,} in the backbone",
        f"data        {type(parts.data).__name__}: {parts.train.count(0):,} training rows, {parts.validation.count(0):,} validation rows",
        f"step        {config.data.batch_size} rows = {settings.ranks} rank(s) x {settings.accumulate} micro-batch(es) x "
        f"{config.data.batch_size // settings.ranks // settings.accumulate}; {settings.max_steps} steps, {settings.precision}",
        *(
            f"  {name:<12}{tuple(value.shape)} {value.dtype}"
            for name, value in step.micro_batches[0].items()
            if isinstance(value, torch.Tensor)
        ),
        f"cost        {per_step:.3g} FLOP per step, {per_step * settings.max_steps:.3g} in all; {best:.3f} s per step, "
        f"about {best * settings.max_steps / 60:.1f} min in all on this machine",
        f"memory      {_memory(settings)}",
        f"run_dir     {config.run_dir} (not created)",
    ]
    print("\n".join(lines))
    describe(step, parts)


def _memory(settings: TrainerSettings) -> str:
    if settings.accelerator == "cuda":
        return f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB at most on the GPU"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB at most"


def describe(step: Step, parts: Any) -> None:
    """Show what the model is asked: decoded pairs of input and target, or views of images."""
    batch = step.micro_batches[0]
    if hasattr(parts.collate, "describe"):
        for number, text in enumerate(parts.collate.describe(batch, 3)):
            print(f"example {number + 1}\n{text}")
        return
    with torch.no_grad():
        prepared = parts.objective.on_device(batch)
    path = Path(tempfile.gettempdir()) / "pretraining-views.png"
    parts.collate.draw(prepared, path)
    print(f"views       {path}", file=sys.stderr)
