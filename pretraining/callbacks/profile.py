"""A trace of some steps, for chrome://tracing or perfetto."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from pretraining.engine.batch import Step
from pretraining.engine.callback import StepCallback
from pretraining.engine.step import StepModule

WAIT, WARM_UP, STEPS = 5, 2, 3  # of this process: steps let pass, traced but not written, and written


class Profile(StepCallback):
    """Writes `trace-rank-R.json`, what host and device did in a few steps, and a table of the longest operations."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._profiler: torch.profiler.profile | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count steps."""
        rank = trainer.global_rank
        device = "cuda" if pl_module.device.type == "cuda" else "cpu"

        def write(profiler: torch.profiler.profile) -> None:
            self.directory.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(self.directory / f"trace-rank-{rank}.json"))
            options = {"sort_by": f"self_{device}_time_total", "row_limit": 40, "max_name_column_width": 80}
            table = profiler.key_averages().table(**options)
            (self.directory / f"operations-rank-{rank}.txt").write_text(table + "\n", encoding="utf-8")

        kinds = torch.profiler.ProfilerActivity
        activities = [kinds.CPU, *([kinds.CUDA] if device == "cuda" else [])]
        schedule = torch.profiler.schedule(wait=WAIT, warmup=WARM_UP, active=STEPS, repeat=1)
        what: dict[str, Any] = {"activities": activities, "schedule": schedule, "record_shapes": True}
        self._profiler = torch.profiler.profile(on_trace_ready=write, **what)
        self._profiler.start()

    def after_step(self, trainer: pl.Trainer, module: StepModule, batch: Step) -> None:
        """Count the step."""
        if self._profiler is not None:
            self._profiler.step()

    def at_end(self) -> None:
        """Stop; a run too short for a trace has written what there was."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None
