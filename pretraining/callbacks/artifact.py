"""The hand-off of a finished run as a W&B artifact: what a finetuning run is shown to come from."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl

from pretraining.runs.wandb_logger import WandbHistory


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
