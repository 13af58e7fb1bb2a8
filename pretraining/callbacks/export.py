"""Hand-offs on a cadence and at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from pretraining import handoff
from pretraining.objectives.base import Objective


class Export(pl.Callback):
    """Writes `handoff/step-XXXXXXX` every `every` steps and at the last one.

    `origin` tells what there is to tell about the run so far (called on every rank); `recipe` is the configuration of objective and
    collate.
    """

    def __init__(
        self, directory: Path, *, every: int, preprocess: Any, origin: Callable[[], dict[str, Any]], recipe: dict[str, Any]
    ) -> None:
        self.directory, self.every, self.preprocess, self.origin, self.recipe = directory, every, preprocess, origin, recipe

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Export if this step is due."""
        step = trainer.global_step
        if step != trainer.max_steps and (self.every == 0 or step % self.every):
            return
        assert isinstance(pl_module, Objective)
        origin = {**self.origin(), "steps": step, "metrics": dict(pl_module.measured)}
        if trainer.is_global_zero:
            with pl_module.averaged():
                handoff.write(
                    self.directory / f"step-{step:07d}",
                    backbone=pl_module.backbone,
                    preprocess=self.preprocess,
                    origin=origin,
                    recipe=self.recipe,
                    heads=pl_module.heads(),
                )
        trainer.strategy.barrier("handoff")
