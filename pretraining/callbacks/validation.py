"""Evaluation during pretraining, on a cadence and at the end."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from pretraining.engine.batch import Step
from pretraining.engine.callback import StepCallback, is_due, log
from pretraining.engine.step import StepModule


class Validation(StepCallback):
    """Evaluates on held-out data each `every` steps and at the last one, under masks and views that never change."""

    def __init__(self, loader: Any, *, every: int) -> None:
        self.loader, self.every = loader, every

    def after_step(self, trainer: pl.Trainer, module: StepModule, batch: Step) -> None:
        """Evaluate if this step is due."""
        if is_due(trainer, self.every):
            module.measured = module.evaluate(self.loader)
            log(trainer, module.measured)
