"""What two processes make of two cores (or GPUs), and what checkpoints cost.

    python -m experiments.benchmarks.scaling

One process with a batch, and two with twice the batch (DDP), take turns; each process has one thread. `ratio_scaling` is the rate of two
over twice the rate of one, and what it lacks is communication, and on a shared memory bus the neighbour. `checkpoint_share` is the time
of writing one checkpoint over the time of the steps between two of them, at the default cadence. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.benchmarks.mlm_sides import SHAPES

DEFAULT_CADENCE = 200  # steps: conf/trainer/cpu.yaml


def overrides(shape: str, device: str, steps: int, checkpoint_every: int) -> list[str]:
    """Describe a run without evaluation."""
    config = SHAPES[shape]
    return [
        "objective=masked_language",
        "data=stdlib_docs",
        "backbone=bert_mini",
        *(f"backbone.config.{name}={value}" for name, value in config.items()),
        "backbone.impl=fast",
        "data.max_tokens=128",
        f"trainer.max_steps={steps}",
        "trainer.log_every=10",
        "trainer.val_every=0",
        f"trainer.checkpoint_every={checkpoint_every}",
        f"trainer.accelerator={device}",
        "trainer.precision=bf16" if device == "cuda" else "trainer.precision=fp32",
        "logger.wandb.mode=disabled",
        "logger.progress=false",
    ]


def run(arguments: list[str]) -> dict[str, Any]:
    """Carry out one run; give its final numbers."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "pretraining", *arguments, f"run_dir={directory}/run"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
        return json.loads((Path(directory) / "run" / "metrics.json").read_text())


def checkpoint_seconds(arguments: list[str]) -> tuple[float, float]:
    """Train in this process and time its checkpoints; give the medians of a checkpoint and of a step."""
    import pytorch_lightning as pl

    from pretraining.checkpoints import Checkpointing
    from pretraining.configuration import compose, instantiate
    from pretraining.launch import build, loaders_of
    from pretraining.step import StepSettings
    from pretraining.trainer import build_trainer, quieten

    quieten()
    config = compose(arguments)
    parts, settings = build(config), instantiate(config.trainer)
    steps: list[float] = []
    writes: list[float] = []

    class Clock(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            self.started = time.perf_counter()

        def on_train_batch_end(self, *_: Any) -> None:
            steps.append(time.perf_counter() - self.started)

    class Timed(Checkpointing):
        def save(self, trainer: pl.Trainer, *, wait: bool) -> None:
            started = time.perf_counter()
            super().save(trainer, wait=wait)
            writes.append(time.perf_counter() - started)

    parts.objective.settings = StepSettings(seed=1, max_steps=settings.max_steps, clip_norm=1.0)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        saver = Timed(path / "checkpoints", every=settings.checkpoint_every, keep_last=2, monitor=None)
        build_trainer(settings, [], [Clock(), saver], path).fit(parts.objective, loaders_of(parts, settings, 1)[0])
    return statistics.median(writes), statistics.median(steps)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="mini")
    parser.add_argument("--batch", type=int, default=32, help="rows of each process")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    given = parser.parse_args()
    shared = overrides(given.shape, given.device, given.steps, checkpoint_every=10**6)
    sides = {
        "one": [*shared, f"data.batch_size={given.batch}"],
        "two": [*shared, f"data.batch_size={2 * given.batch}", "trainer.strategy=ddp", "trainer.devices=2"],
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(given.rounds):
        for name, arguments in sides.items():
            rates[name].append(run(arguments)["throughput/tokens_per_second"])
            print(f"  round {number + 1}, {name} process(es): {rates[name][-1]:,.0f} tokens/s", file=sys.stderr, flush=True)
    median = {name: statistics.median(values) for name, values in rates.items()}
    timed = [*overrides(given.shape, given.device, 13, checkpoint_every=3), f"data.batch_size={given.batch}"]
    write, step = checkpoint_seconds(timed)
    scaling = median["two"] / (2 * median["one"])
    found = {
        "ratio_scaling": round(scaling, 3),
        "communication_share": round(1.0 - scaling, 3),
        "tokens_per_second": {name: round(value) for name, value in median.items()},
        "checkpoint_seconds": round(write, 4),
        "step_seconds": round(step, 4),
        "checkpoint_share": round(write / (DEFAULT_CADENCE * step), 5),
    }
    print(json.dumps({**found, "shape": given.shape, "batch": given.batch, "device": given.device}))


if __name__ == "__main__":
    main()
