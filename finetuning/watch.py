"""Watches a finetuning run: logs training, evaluates on validation, and ends the run when that no longer improves."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers.logger import Logger

from finetuning.task import Task


class StayOpen(Logger):
    """Keeps a logger open when training ends, since the test's numbers follow."""

    def __init__(self, inner: Logger) -> None:
        super().__init__()
        self.inner = inner

    @property
    def name(self) -> str | None:
        """The logger's name."""
        return self.inner.name

    @property
    def version(self) -> int | str | None:
        """The logger's version."""
        return self.inner.version

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the configuration went along at the start."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Pass metrics on."""
        self.inner.log_metrics(metrics, step)

    def save(self) -> None:
        """Pass on."""
        self.inner.save()

    def finalize(self, status: str) -> None:
        """Close only what has failed."""
        if status != "success":
            self.inner.finalize(status)


class Watch(pl.Callback):
    """Evaluates every `every` steps and at the last one; stops after `patience` evaluations without a better one (None: never)."""

    def __init__(self, loader: Any, *, every: int, log_every: int, patience: int | None, show: bool) -> None:
        self.loader, self.every, self.log_every, self.patience, self.show = loader, every, log_every, patience, show
        self._started = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what trains, and start the clock."""
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log and evaluate, where this step is due."""
        step, last = trainer.global_step, trainer.global_step == trainer.max_steps
        assert isinstance(pl_module, Task)
        row: dict[str, float] = {}
        if step % self.log_every == 0 or last:
            row = pl_module.meter.read("train")
            row["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        if last or (self.every and step % self.every == 0):
            pl_module.measured = pl_module.evaluate(self.loader)
            row |= pl_module.measured
            if self.patience is not None and pl_module.best.evaluations_since >= self.patience:
                trainer.should_stop = True
        if not row:
            return
        row["time"] = time.perf_counter() - self._started
        for logger in trainer.loggers:
            logger.log_metrics(row, step)
        if self.show and trainer.is_global_zero:
            self._print(pl_module, step, trainer.max_steps, row)

    def _print(self, task: Task, step: int, steps: int, row: dict[str, float]) -> None:
        name = task.select.removeprefix("-")
        shown = {"loss": row.get("train/loss"), f"validation {name}": row.get(f"validation/{name}")}
        text = "  ".join(f"{key} {value:.4f}" for key, value in shown.items() if value is not None)
        print(f"step {step}/{steps}  {text}", file=sys.stderr, flush=True)
