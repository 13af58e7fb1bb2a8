"""Watches a finetuning run: logs training, evaluates on validation, and ends the run when that no longer improves."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers.logger import Logger

from finetuning.task import Task
from pretraining.engine.batch import Step
from pretraining.engine.callback import StepCallback, is_due, log
from pretraining.engine.step import StepModule
from pretraining.runs.csv_logger import CsvHistory


def kept_open(loggers: Sequence[Any]) -> list[Any]:
    """Keep loggers open when training ends, since the test's numbers follow. Files need not be kept."""
    return [logger if isinstance(logger, CsvHistory) else _StayOpen(logger) for logger in loggers]


class _StayOpen:
    def __init__(self, inner: Logger) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def finalize(self, status: str) -> None:
        if status != "success":
            self.inner.finalize(status)


class Watch(StepCallback):
    """Evaluates every `every` steps and at the last; ends the run after `patience` evaluations without a better one."""

    def __init__(self, loader: Any, *, every: int, log_every: int, patience: int | None, show: bool) -> None:
        self.loader, self.every, self.log_every, self.patience, self.show = loader, every, log_every, patience, show
        self._started = time.perf_counter()

    def after_step(self, trainer: pl.Trainer, module: StepModule, batch: Step) -> None:
        """Log and evaluate, where this step is due."""
        assert isinstance(module, Task)
        row: dict[str, float] = {}
        if is_due(trainer, self.log_every):
            row = module.meter.read("train")
            row["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        if is_due(trainer, self.every):
            module.measured = module.validate(self.loader)
            row |= module.measured
            if self.patience is not None and module.best.evaluations_since >= self.patience:
                trainer.should_stop = True
        if not row:
            return
        row["time"] = time.perf_counter() - self._started
        log(trainer, row)
        if self.show and trainer.is_global_zero:
            self._print(module, trainer.global_step, trainer.max_steps, row)

    def _print(self, task: Task, step: int, steps: int, row: dict[str, float]) -> None:
        name = task.select.removeprefix("-")
        shown = {"loss": row.get("train/loss"), f"validation {name}": row.get(f"validation/{name}")}
        text = "  ".join(f"{key} {value:.4f}" for key, value in shown.items() if value is not None)
        print(f"step {step}/{steps}  {text}", file=sys.stderr, flush=True)
