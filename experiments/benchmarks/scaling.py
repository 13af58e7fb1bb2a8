"""What two processes make of two cores (or GPUs), and what checkpoints cost.

    python -m experiments.benchmarks.scaling

One process with a batch, and two with twice the batch (DDP), take turns; each process has one thread. `ratio_scaling`
is the rate of two over twice the rate of one. `communication_share` is what of a micro-batch's forward and backward
pass the two wait for each other's gradients: the same passes, in turn with the exchange and without. `checkpoint_share`
is the time of writing one checkpoint over the time of the steps between two of them, at the default cadence. The last
line is one JSON object.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.benchmarks.mlm_text import SHAPES
from experiments.benchmarks.turns import DEVICE, alternate, read_options

DEFAULT_CADENCE = 200  # steps: conf/trainer/cpu.yaml


def overrides(shape: str, device: str, steps: int, checkpoint_every: int) -> list[str]:
    """Describe a run without evaluation."""
    sizes = [f"backbone.config.{name}={value}" for name, value in SHAPES[shape].items()]
    model = ["objective=masked_language", "data=stdlib_docs", "data.max_tokens=128", "backbone=bert_mini", *sizes]
    cadence = [f"trainer.max_steps={steps}", "trainer.log_every=10", "trainer.val_every=0"]
    machine = [f"trainer.accelerator={device}", f"trainer.precision={'bf16' if device == 'cuda' else 'fp32'}"]
    quiet = ["logger.wandb.mode=disabled", "logger.progress=false"]
    cadence += [f"trainer.checkpoint_every={checkpoint_every}"]
    return [*model, "backbone.impl=fast", *cadence, *machine, *quiet]


def tokens_per_second(name: str, arguments: list[str]) -> float:
    """Carry out one run and print its speed."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "pretraining", *arguments, f"run_dir={directory}/run"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
        numbers = json.loads((Path(directory) / "run" / "metrics.json").read_text())
    rate = numbers["throughput/tokens_per_second"]
    print(f"  {name} process(es): {rate:,.0f} tokens/s", file=sys.stderr, flush=True)
    return rate


def checkpoint_seconds(arguments: list[str]) -> tuple[float, float]:
    """Train in this process and time its checkpoints; returns the medians of a checkpoint and of a step."""
    import pytorch_lightning as pl

    from pretraining.cli.configuration import compose, instantiate
    from pretraining.engine.batch import StepSettings
    from pretraining.engine.checkpoints import Checkpointing
    from pretraining.engine.trainer import build_trainer, quieten
    from pretraining.launch import build, loaders_of
    from pretraining.runs.directory import RunDirectory

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
        run = RunDirectory(Path(directory))
        saver = Timed(run, every=settings.checkpoint_every, keep_last=2, monitor=None)
        build_trainer(settings, [], [Clock(), saver], run.path).fit(parts.objective, loaders_of(parts, settings, 1)[0])
    return statistics.median(writes), statistics.median(steps)


def communication_share(arguments: list[str], passes: int) -> float:
    """Time passes in two processes, in turn with and without the exchange of gradients; returns the share it adds."""
    import torch

    with socket.socket() as probe, tempfile.TemporaryDirectory() as directory:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        answer = Path(directory) / "seconds.json"
        torch.multiprocessing.spawn(_pass_times, args=(port, arguments, passes, str(answer)), nprocs=2)
        seconds = json.loads(answer.read_text())
    return 1.0 - statistics.median(seconds["alone"]) / statistics.median(seconds["together"])


def _pass_times(number: int, port: int, arguments: list[str], passes: int, answer: str) -> None:
    ranks = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    os.environ |= ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from pretraining.cli.configuration import compose, instantiate
    from pretraining.launch import build, loaders_of

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = compose(arguments)
    parts, settings = build(config), instantiate(config.trainer)
    cuda = settings.accelerator == "cuda"
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", number) if cuda else torch.device("cpu")
    objective = parts.objective.to(device)
    together = DistributedDataParallel(objective, device_ids=[number] if cuda else None)
    seconds: dict[str, list[float]] = {"together": [], "alone": []}
    for step in loaders_of(parts, settings, 1)[0]:
        batch = objective.transfer_batch_to_device(step.micro_batches[0], device, 0)
        for name, exchange in (("together", contextlib.nullcontext()), ("alone", together.no_sync())):
            torch.distributed.barrier()
            started = time.perf_counter()
            with exchange:
                loss = together(objective.loss, objective.finished(batch))
                objective.objective(loss, objective.global_counts([batch])).backward()
            if cuda:
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
        if len(seconds["alone"]) > passes:
            break
    if number == 0:
        Path(answer).write_text(json.dumps({name: values[1:] for name, values in seconds.items()}))
    torch.distributed.destroy_process_group()


def main() -> None:
    """Measure and print."""
    rows = 32, "rows of each process"
    given = read_options(__doc__, shape=("mini", sorted(SHAPES)), batch=rows, steps=40, rounds=3, device=DEVICE)
    shared = overrides(given.shape, given.device, given.steps, checkpoint_every=10**6)
    sides = {
        "one": [*shared, f"data.batch_size={given.batch}"],
        "two": [*shared, f"data.batch_size={2 * given.batch}", "trainer.strategy=ddp", "trainer.devices=2"],
    }
    rates = alternate({name: functools.partial(tokens_per_second, name, a) for name, a in sides.items()}, given.rounds)
    median = {name: statistics.median(values) for name, values in rates.items()}
    timed = [*overrides(given.shape, given.device, 13, checkpoint_every=3), f"data.batch_size={given.batch}"]
    write, step = checkpoint_seconds(timed)
    scaling = median["two"] / (2 * median["one"])
    found = {
        "ratio_scaling": round(scaling, 3),
        "communication_share": round(communication_share(sides["two"], passes=given.steps), 4),
        "tokens_per_second": {name: round(value) for name, value in median.items()},
        "checkpoint_seconds": round(write, 4),
        "step_seconds": round(step, 4),
        "checkpoint_share": round(write / (DEFAULT_CADENCE * step), 5),
    }
    print(json.dumps({**found, "shape": given.shape, "batch": given.batch, "device": given.device}))


if __name__ == "__main__":
    main()
