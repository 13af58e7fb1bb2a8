"""Watches a finetuning run: logs training, evaluates on validation, and ends the run when that no longer improves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers.logger import Logger

from finetuning.task import Task
from pretraining.engine.batch import Step
from pretraining.engine.callback import StepCallback, is_due, log
from pretraining.engine.step import StepModule
from pretraining.engine.terminal import Progress
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
        self._bar = Progress(show=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the bar."""
        self._bar = Progress(show=self.show and trainer.is_global_zero)
        self._bar.draw(trainer.global_step, trainer.max_steps, "starting" if self._bar.live else None)

    def at_end(self) -> None:
        """Leave the bar."""
        self._bar.close()

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
            self._bar.draw(trainer.global_step, trainer.max_steps)
            return
        row["time"] = time.perf_counter() - self._started
        log(trainer, row)
        self._bar.draw(trainer.global_step, trainer.max_steps, self._news(module, row))

    def _news(self, task: Task, row: dict[str, float]) -> str:
        name = task.select.removeprefix("-")
        shown = {"loss": row.get("train/loss"), f"validation {name}": row.get(f"validation/{name}")}
        text = "  ".join(f"{key} {value:.4f}" for key, value in shown.items() if value is not None)
        constant = row.get("validation/majority_accuracy")
        return text if constant is None else f"{text} (always one class: {constant:.3f})"
