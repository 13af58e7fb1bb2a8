"""Checkpoints that are complete or absent, and the callback that writes them: on a cadence, on a signal, at the end.

A checkpoint is `step-XXXXXXX.ckpt` with `step-XXXXXXX.json` beside it (size, sha256, step, metric), written after it:
one without the other does not count. It holds tensors and plain containers only, and is always read with
`weights_only=True`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor

from pretraining.cache import replace_file, replace_text, sha256
from pretraining.distributed.environment import job_is_ending
from pretraining.engine.batch import Step
from pretraining.engine.callback import StepCallback
from pretraining.engine.step import StepModule
from pretraining.errors import CheckpointError, NoSpaceError, Preempted
from pretraining.runs.checkpoint_files import MARKER, facts_of
from pretraining.runs.directory import RunDirectory

EXIT_PREEMPTED = 85  # stopped by SIGTERM, SIGUSR1 or SIGUSR2 with everything saved
EXIT_INTERRUPTED = 130  # stopped by Ctrl-C with everything saved


class AtomicIO(CheckpointIO):
    """Writes a file that is whole or absent, then the json beside it; in the `background`, a thread writes a copy."""

    metric: float | None = None  # of the checkpoint being written: lower is better

    def __init__(self, *, background: bool = False) -> None:
        self.background = background
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write one checkpoint; failures leave nothing behind and raise `CheckpointError`, here or at `finish`."""
        self.finish()
        if self.background:
            self._pending = self._writer.submit(self._write, copy_to_cpu(checkpoint, {}), Path(path), self.metric)
        else:
            self._write(checkpoint, Path(path), self.metric)

    def finish(self) -> None:
        """Wait until what is written in the background is on disk; raise what kept it from getting there."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, checkpoint: dict[str, Any], path: Path, metric: float | None) -> None:
        size = sum(part.nbytes for part in tensors_of(checkpoint))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(path, "wb", needed=size) as file:
                torch.save(checkpoint, file)
                file.flush()
                written = Path(file.name)
                facts = {"sha256": sha256(written), "size": written.stat().st_size}
            facts |= {"step": int(checkpoint["global_step"]), "metric": metric}
            try:
                replace_text(path.with_suffix(".json"), json.dumps(facts) + "\n")
            except NoSpaceError as error:  # for its note: what does not count gives its space back
                path.unlink()
                raise NoSpaceError(path.parent, size) from error
        except OSError as error:
            known = isinstance(error, NoSpaceError)
            reason = str(error) if known else f"cannot write {path}: {error.strerror or error}"
            raise CheckpointError(f"{reason}. Earlier checkpoints are intact: free space, then resume=auto") from error

    def teardown(self) -> None:
        """End the thread (called by Lightning)."""
        self._writer.shutdown(wait=True)

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Read one checkpoint onto the CPU, never unpickling code."""
        return torch.load(path, map_location="cpu", weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove one checkpoint, its json first."""
        Path(path).with_suffix(".json").unlink(missing_ok=True)
        Path(path).unlink(missing_ok=True)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """List the tensors in plain containers."""
    if isinstance(value, Tensor):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from tensors_of(part)


def copy_to_cpu(value: Any, seen: dict[Any, Tensor]) -> Any:
    """Copy plain containers with their tensors, to the CPU; tensors that share their memory share it afterwards too."""
    if isinstance(value, dict):
        return {key: copy_to_cpu(part, seen) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(copy_to_cpu(part, seen) for part in value)
    if not isinstance(value, Tensor):
        return value
    memory = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
    if value.numel() == 0 or memory not in seen:
        seen[memory] = value.detach().to("cpu", copy=True)
    return seen[memory]


class Checkpointing(StepCallback, Checkpoint):
    """Saves each `every` steps and at the end, keeps the newest `keep_last` and the best, stops the run on a signal.

    A signal only sets a flag; the ranks agree on it between two steps, save there, and leave. As a `Checkpoint` it runs
    after all other callbacks, so what they log about a step is in the files before the checkpoint of that step.
    """

    def __init__(self, run: RunDirectory, *, every: int, keep_last: int, monitor: str | None) -> None:
        self.directory, self.fingerprint = run.checkpoints, run.fingerprint
        self.every, self.keep_last, self.monitor = every, keep_last, monitor
        self.received: int | None = None
        self._previous: dict[int, Any] = {}
        self._process = os.getpid()

    # -- signals -------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals, after Lightning has registered its own handlers."""
        self._process = os.getpid()
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked loader worker: the run's process decides
            return
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def at_end(self) -> None:
        """Restore the handlers of before."""
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    # -- saving --------------------------------------------------------------------------------------------------------

    def after_step(self, trainer: pl.Trainer, module: StepModule, batch: Step) -> None:
        """Save if this step is due, or stop here if a signal came."""
        step = trainer.global_step
        stop = self._agreed_to_stop(trainer)
        if stop or (self.every and step % self.every == 0) or step == trainer.max_steps:
            self.save(trainer, wait=stop or step == trainer.max_steps)
        if stop:
            self._leave(trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Add what the run reads (called by Lightning)."""
        checkpoint["fingerprint"] = self.fingerprint

    def save(self, trainer: pl.Trainer, *, wait: bool) -> None:
        """Write the checkpoint of this step, on disk at return if `wait`; drop those that are no longer kept."""
        for logger in trainer.loggers:
            logger.save()
        path = self.directory / f"step-{trainer.global_step:07d}.ckpt"
        module, io = trainer.lightning_module, trainer.strategy.checkpoint_io
        assert isinstance(io, AtomicIO) and isinstance(module, StepModule)
        io.metric = module.measured.get(self.monitor) if self.monitor else None
        trainer.save_checkpoint(path)
        if wait:
            io.finish()
        if trainer.is_global_zero:
            self._drop_old(io)

    def _drop_old(self, io: AtomicIO) -> None:
        paths = sorted(self.directory.glob("step-*.ckpt"))
        whole = {path: facts for path in paths if (facts := facts_of(path))}
        measured = {path: facts["metric"] for path, facts in whole.items() if facts["metric"] is not None}
        kept = [*list(whole)[-self.keep_last :], min(measured, key=lambda path: measured[path], default=None)]
        # One that is newer than all whole ones is being written at this moment.
        for path in [path for path in paths if whole and path < max(whole)]:
            if path not in kept:
                io.remove_checkpoint(path)

    def _agreed_to_stop(self, trainer: pl.Trainer) -> bool:
        wanted = self.received is not None
        return wanted if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(wanted, all=False)

    def _leave(self, trainer: pl.Trainer) -> None:
        interrupted = self.received == signal.SIGINT
        if trainer.is_global_zero:
            name = signal.Signals(self.received).name if self.received else "a signal on another rank"
            print(f"stopped by {name}: step {trainer.global_step} is saved, resume=auto continues", file=sys.stderr)
            if not interrupted:
                replace_text(self.directory.parent / MARKER, f"{trainer.global_step}\n")
        launchers = self._previous.get(signal.SIGUSR2)
        self.at_end()
        # submitit requeues its job in a handler of its own, which had to wait until everything was saved.
        if callable(launchers) and not interrupted and not job_is_ending():
            for logger in trainer.loggers:
                logger.finalize("preempted")
            launchers(signal.SIGUSR2, None)
        raise Preempted(EXIT_INTERRUPTED if interrupted else EXIT_PREEMPTED)
