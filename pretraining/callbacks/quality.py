"""What an objective itself can measure of a whole validation split, while it trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytorch_lightning as pl

from pretraining.data.loader import EvalLoader
from pretraining.engine.batch import Step
from pretraining.engine.callback import StepCallback, is_due, log
from pretraining.engine.step import StepModule
from pretraining.engine.watchdog import heartbeat
from pretraining.objectives.base import Objective


@dataclass(frozen=True, kw_only=True)
class QualitySettings:
    """There is nothing to set: the data and the objective say what is measured."""

    kind: ClassVar[str] = "pairs"  # its option of probe=


class Quality(StepCallback):
    """Measures `Objective.quality` of untouched validation examples each `every` steps and at the last one."""

    def __init__(self, loader: EvalLoader, *, every: int) -> None:
        self.loader, self.every = loader, every

    def after_step(self, trainer: pl.Trainer, module: StepModule, batch: Step) -> None:
        """Measure if this step is due."""
        if is_due(trainer, self.every):
            assert isinstance(module, Objective)
            heartbeat("validation")
            values = {f"probe/{name}": value for name, value in module.quality(self.loader).items()}
            heartbeat("between steps")
            module.measured |= values
            log(trainer, values)
