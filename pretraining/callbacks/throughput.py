"""Speed and progress of a run: examples and units per second, FLOP/s, utilisation, time of each phase, memory.

Model FLOPs are counted analytically over tokens that are no padding; a peak is looked up or measured, never assumed.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from pretraining.distributed.collectives import all_reduce_sum
from pretraining.engine.batch import Step
from pretraining.engine.callback import StepCallback, log
from pretraining.engine.step import StepModule
from pretraining.engine.terminal import Progress, describe_quality

# Dense bf16 peaks in FLOP/s from the vendors' data sheets.
PEAKS = {
    **{"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12},
    **{"L4": 121e12, "4090": 165e12, "V100": 125e12, "T4": 65e12},
}
PHASES = ("data", "copy", "augment", "forward", "backward", "optimizer")  # data: what the loop waits for the loader


def peak_flops(device: torch.device) -> float | None:
    """Find a device's peak in FLOP/s: looked up for known GPUs, measured by matrix products on a CPU, else None."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return next((peak for part, peak in PEAKS.items() if part in name), None)
    best = 0.0
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.ones(1024, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        left @ right
        for _ in range(4):
            started = time.perf_counter()
            left @ right
            best = max(best, 2 * 1024**3 / (time.perf_counter() - started))
    return best


def peak_memory(device: torch.device) -> float:
    """Read the most memory that was in use so far, in GB: the device's, or on a CPU that of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


@dataclass(kw_only=True, eq=False)
class Throughput(StepCallback):
    """Logs training metrics with speed each `every` steps, and keeps the totals that metrics.json and hand-offs report.

    `unit` names what the modality counts (tokens, images). `step_flops` counts one optimizer step of this rank;
    `wait_seconds` reads how long the loader has kept the loop waiting so far. Every `evaluated_every` steps (0: never)
    others log at steps of their own, and get the totals beside it. `facts` are what results are read against.
    """

    every: int
    evaluated_every: int
    step_flops: Callable[[Step], float]
    wait_seconds: Callable[[], float]
    unit: str
    facts: dict[str, float]
    show: bool

    def __post_init__(self) -> None:
        self.totals = {"examples": 0.0, "units": 0.0, "flops": 0.0, "seconds": 0.0}  # of the whole run, over all ranks
        self.peak: float | None = None
        self._pending = {"examples": 0.0, "units": 0.0, "flops": 0.0}  # of this rank, not yet in the totals
        self._clock = time.perf_counter()
        self._window: dict[str, float] = {}  # totals and waiting when the open log interval began
        self._whole: dict[str, float] = {}  # and when this process began
        self._summary: dict[str, float] = {}
        self._module: StepModule | None = None

    def state_dict(self) -> dict[str, Any]:
        """Save the totals (called on every rank)."""
        self._fold()
        return {"totals": dict(self.totals)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the totals."""
        totals = dict(state_dict["totals"])
        if "tokens" in totals:  # a checkpoint of a release that counted tokens, and examples where there were none
            totals["units"] = totals.pop("tokens") or totals["examples"]
        self.totals = totals

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        assert isinstance(pl_module, StepModule)
        self._module, self.peak = pl_module, peak_flops(pl_module.device)
        self._steps = trainer.global_step
        self._clock = time.perf_counter()
        self._window = self._whole = self._mark()
        self._bar = Progress(show=self.show and trainer.is_global_zero)
        self._bar.draw(self._steps, trainer.max_steps, "starting" if self._bar.live else None)

    def _mark(self) -> dict[str, float]:
        assert self._module is not None
        return {**self.totals, "steps": self._steps, "data": self.wait_seconds(), **self._module.timer.read()}

    def _fold(self) -> None:
        """Add what all ranks have done since the last fold to the totals."""
        summed = all_reduce_sum(torch.tensor(list(self._pending.values()), dtype=torch.float64)).tolist()
        for name, value in zip(self._pending, summed, strict=True):
            self.totals[name] += value
            self._pending[name] = 0.0
        now = time.perf_counter()
        self.totals["seconds"] += now - self._clock
        self._clock = now

    def after_step(self, trainer: pl.Trainer, module: StepModule, batch: Step) -> None:
        """Count the step, and log if it is due."""
        self._pending["examples"] += batch.examples
        self._pending["units"] += batch.units
        self._pending["flops"] += self.step_flops(batch)
        step = self._steps = trainer.global_step
        if step % self.every and step != trainer.max_steps:
            self._log_axes(trainer)
            self._bar.draw(step, trainer.max_steps)
            return
        row = self._row(module, trainer)
        log(trainer, row)
        self._bar.draw(step, trainer.max_steps, self._news(step, trainer.max_steps, row, module.measured))
        self._window = self._mark()

    def at_end(self) -> None:
        """Leave the bar."""
        if self._module is not None:
            self._bar.close()

    def _log_axes(self, trainer: pl.Trainer) -> None:
        """Put the totals beside what was evaluated at this step, so that it can be drawn over each of them."""
        if self.evaluated_every and trainer.global_step % self.evaluated_every == 0:
            self._fold()
            log(trainer, self._axes())

    def _axes(self) -> dict[str, float]:
        return self.spent() | {"time": self.totals["seconds"]}

    def spent(self) -> dict[str, float]:
        """Name what all ranks have read and computed so far."""
        return {"examples": self.totals["examples"], self.unit: self.totals["units"], "flops": self.totals["flops"]}

    def _row(self, module: StepModule, trainer: pl.Trainer) -> dict[str, float]:
        self._fold()
        row = module.meter.read("train")
        if module.gradient_norm is not None:
            row["train/gradient_norm"] = float(module.gradient_norm)
        row["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        return {**row, **self._axes(), **self._speeds(self._window, trainer.world_size)}

    def _speeds(self, since: dict[str, float], ranks: int) -> dict[str, float]:
        """Compute rates over all ranks since a mark, and this rank's waiting for data, phases of a step and memory."""
        assert self._module is not None
        now = self._mark()
        steps = max(self._steps - since["steps"], 1)
        seconds = max(self.totals["seconds"] - since["seconds"], 1e-9)
        flops = (self.totals["flops"] - since["flops"]) / seconds
        speeds = {
            f"throughput/{self.unit}_per_second": (self.totals["units"] - since["units"]) / seconds,
            "throughput/flops_per_second": flops,
            "throughput/data_wait_share": (now["data"] - since["data"]) / seconds,
            "throughput/peak_memory_gb": peak_memory(self._module.device),
            **{f"throughput/{name}_ms": 1e3 * (now.get(name, 0.0) - since.get(name, 0.0)) / steps for name in PHASES},
        }
        return speeds | ({"throughput/mfu": flops / (self.peak * ranks)} if self.peak else {})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sum up the whole run in one line."""
        super().on_train_end(trainer, pl_module)
        self._fold()
        self._summary = self._speeds(self._whole, trainer.world_size)
        if self.show and trainer.is_global_zero:
            seconds, peak = self.totals["seconds"] - self._whole["seconds"], "hardware peak unknown"
            found = {name.removeprefix("throughput/"): value for name, value in self._summary.items()}
            if self.peak:
                peak = f"MFU {found['mfu']:.1%} of {self.peak * trainer.world_size / 1e9:,.0f} GFLOP/s"
            phases = ", ".join(f"{name} {found[f'{name}_ms']:.1f} ms" for name in PHASES)
            rates = f"{found[f'{self.unit}_per_second']:,.0f} {self.unit}/s, {found['flops_per_second'] / 1e9:,.1f}"
            waited = f"waiting for data {found['data_wait_share']:.1%}, at most {found['peak_memory_gb']:.2f} GB"
            took = f"{trainer.global_step} steps in {seconds:.1f} s"
            print(f"{took}: {rates} GFLOP/s, {peak}, {waited}\nof a step: {phases}", file=sys.stderr)

    def summary(self) -> dict[str, float]:
        """Collect the totals and the whole run's speeds, for metrics.json."""
        return {**self.spent(), "seconds": self.totals["seconds"], **self._summary}

    def _news(self, step: int, steps: int, row: dict[str, float], measured: dict[str, float]) -> str:
        left = self.totals["seconds"] / step * (steps - step)
        parts = [f"loss {row.get('train/loss', float('nan')):.4f}", describe_quality(measured, self.facts)]
        parts += [f"{left:.0f} s left", f"lr {row['learning_rate']:.2e}"]
        return "  ".join(filter(None, [*parts, f"{row[f'throughput/{self.unit}_per_second']:,.0f} {self.unit}/s"]))
