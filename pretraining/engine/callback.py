"""What watches a training run from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from pretraining.engine.batch import Step
from pretraining.engine.step import StepModule


class StepCallback(pl.Callback):
    """A callback that is told of each optimizer step, and of the end of training, whatever ends it."""

    def after_step(self, trainer: pl.Trainer, module: StepModule, batch: Step) -> None:
        """Look at what the step left behind."""

    def at_end(self) -> None:
        """Stop watching."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Pass on what Lightning says."""
        self.after_step(trainer, pl_module, batch)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Pass on what Lightning says."""
        self.at_end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Pass on what Lightning says."""
        self.at_end()


def is_due(trainer: pl.Trainer, every: int) -> bool:
    """Tell whether something is due after each `every` steps (0: never) and after the last one."""
    step = trainer.global_step
    return step == trainer.max_steps or (every > 0 and step % every == 0)


def log(trainer: pl.Trainer, values: Mapping[str, Any]) -> None:
    """Hand numbers about the step just taken to all loggers."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), trainer.global_step)
