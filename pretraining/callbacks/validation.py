"""Evaluation during pretraining, on a cadence and at the end."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from pretraining.engine.step import StepModule


class Validation(pl.Callback):
    """Evaluates on held-out data each `every` steps and at the last one, under masks and views that never change."""

    def __init__(self, loader: Any, *, every: int) -> None:
        self.loader, self.every = loader, every

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate if this step is due."""
        step = trainer.global_step
        if step != trainer.max_steps and (self.every == 0 or step % self.every):
            return
        assert isinstance(pl_module, StepModule)
        pl_module.measured = pl_module.evaluate(self.loader)
        for logger in trainer.loggers:
            logger.log_metrics(pl_module.measured, step)
