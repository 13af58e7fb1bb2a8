"""This package's training loop in a comparison: loader, step, throughput and metrics.csv, as its command line has."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from experiments.benchmarks.turns import Turn
from pretraining.callbacks.throughput import Throughput
from pretraining.data.loader import StepLoader
from pretraining.engine.batch import StepSettings
from pretraining.engine.memory import keep_freed_memory
from pretraining.engine.precision import choose_precision
from pretraining.engine.trainer import TrainerSettings, build_trainer, choose_kernels, quieten
from pretraining.runs.csv_logger import CsvHistory

LOG_EVERY = 10


class Losses(CsvHistory):
    """metrics.csv, which also remembers the last loss."""

    latest = float("nan")

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Remember the loss."""
        self.latest = metrics["train/loss"]
        super().log_metrics(metrics, step)


class Pace(pl.Callback):
    """Takes turns between steps."""

    def __init__(self, turn: Turn, losses: Losses, facts: dict[str, Any]) -> None:
        self.turn, self.losses, self.facts = turn, losses, facts

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what this side is, and wait for its first block."""
        self.turn.tell(self.facts)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the step."""
        self.turn.step(batch.units, self.losses.latest if trainer.global_step % LOG_EVERY == 0 else None)


def prepare_process() -> None:
    """Set this process up as the command line does, before anything is built."""
    keep_freed_memory()
    quieten()


def train(
    turn: Turn, setting: Any, module: Any, source: Any, collate: Any, *, facts: dict[str, Any], **options: Any
) -> None:
    """Train an objective in a side's setting; `facts` are what is told of it, `options` the trainer's own."""
    backbone = module.backbone
    precision = choose_precision(setting.precision, setting.device, convolves=backbone.convolves)
    options = {"clip_norm": None, "log_every": LOG_EVERY, **options}
    settings = TrainerSettings(accelerator=setting.device, precision=precision, **options)
    backbone.set_compute(compiled=settings.compile, activation_checkpointing=False, sharded=False)
    choose_kernels(module, settings)
    module.settings = StepSettings(setting.seed, settings.max_steps, settings.clip_norm)
    order = {"batch_size": setting.batch, "max_steps": settings.max_steps, "seed": setting.seed}
    loader = StepLoader(source, collate, **order)
    with tempfile.TemporaryDirectory() as directory:
        losses = Losses(Path(directory) / "metrics.csv")
        unit = backbone.modality.unit
        silent: dict[str, Any] = {"evaluated_every": 0, "step_flops": lambda step: 0.0, "show": False, "facts": {}}
        throughput = Throughput(every=LOG_EVERY, wait_seconds=lambda: loader.wait_seconds, unit=unit, **silent)
        pace = Pace(turn, losses, {"precision": precision, **facts})
        build_trainer(settings, [losses], [throughput, pace], Path(directory)).fit(module, loader)
