"""Hand-offs on a cadence and at the end, the last one as a W&B artifact: what finetuning is shown to come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from pretraining import handoff
from pretraining.backbones.base import Backbone
from pretraining.distributed.collectives import is_sharded, whole
from pretraining.engine.batch import Step
from pretraining.engine.callback import StepCallback, is_due
from pretraining.engine.step import StepModule
from pretraining.objectives.base import Objective
from pretraining.runs.wandb_logger import WandbHistory


@dataclass(kw_only=True, eq=False)
class Export(StepCallback):
    """Writes `handoff/step-XXXXXXX` every `every` steps and at the last one.

    `origin` tells what there is to tell about the run so far (called on every rank); `recipe` is the configuration of
    objective and collate.
    """

    directory: Path
    every: int
    preprocess: Any
    origin: Callable[[], dict[str, Any]]
    recipe: dict[str, Any]

    def after_step(self, trainer: pl.Trainer, module: StepModule, batch: Step) -> None:
        """Export if this step is due."""
        if not is_due(trainer, self.every):
            return
        assert isinstance(module, Objective)
        origin = {**self.origin(), "steps": trainer.global_step, "metrics": dict(module.measured)}
        if module.network is not None:
            origin["network"] = module.network
        with module.averaged():
            backbone, heads = whole_parts(module)  # every rank takes part
            if trainer.is_global_zero:
                towers = backbone.modality.towers(backbone, self.preprocess)
                place = self.directory / f"step-{trainer.global_step:07d}"
                handoff.write(place, towers=towers, origin=origin, recipe=self.recipe, heads=heads)
        trainer.strategy.barrier("handoff")


class Artifact(pl.Callback):
    """Logs `handoff/last` when training has ended, before the loggers close."""

    def __init__(self, handoffs: Path) -> None:
        self.handoffs = handoffs

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log it once, from the first rank."""
        last = self.handoffs / "last"
        if trainer.is_global_zero and last.exists():
            for logger in trainer.loggers:
                if isinstance(logger, WandbHistory):
                    logger.log_handoff(last)


def whole_parts(objective: Objective) -> tuple[Backbone, dict[str, Tensor]]:
    """Split an objective into the network to hand over and the other weights; sharded ones are gathered into copies."""
    network: Any = objective.get_submodule(objective.handed_over)
    if not any(is_sharded(parameter) for parameter in objective.parameters()):
        return network, objective.heads()
    state, prefix = {name: whole(value).cpu() for name, value in objective.state_dict().items()}, objective.handed_over
    backbone = type(network)(**network.kwargs).to(next(objective.parameters()).dtype)
    mine = {name.removeprefix(f"{prefix}."): value for name, value in state.items() if name.startswith(f"{prefix}.")}
    backbone.load_state_dict(mine)
    return backbone, {name: value for name, value in state.items() if not name.startswith(f"{prefix}.")}
