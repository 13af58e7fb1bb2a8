"""Names a hang: which rank stopped where, on every rank that waits for it, within a time limit.

Every rank posts where it is to the process group's key-value store, from a thread and without a collective, so that
posting never waits for another rank. A rank that has made no progress for the limit reads what the others posted, says
it, and leaves.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch.distributed as dist

EXIT_HUNG = 86
PATIENCE_SECONDS = 3.0  # for an answer of the store, whose process may be the one that is stuck
PHASES = ("data", "forward and backward", "update", "between steps", "validation")  # of one step, in their order


class Heartbeat(NamedTuple):
    """The last sign of progress of a process: the phase that it entered then."""

    step: int
    phase: str
    since: float  # time.time()


class Posted(NamedTuple):
    """The last heartbeat that a rank has posted, and when it posted it."""

    step: int
    phase: str
    since: float
    at: float


_last = Heartbeat(0, "start", time.time())


def heartbeat(phase: str, step: int | None = None) -> None:
    """Note that this process makes progress. Costs nothing worth measuring: call it as often as there is any."""
    global _last
    _last = Heartbeat(_last.step if step is None else step, phase, time.time())


class Watchdog(pl.Callback):
    """Ends this process with exit code 86 after `timeout` seconds without heartbeat, and reports which rank is behind.

    `directory` gets `hang-rank-R.txt`: every rank's last heartbeat, and what each thread of this rank was doing.
    """

    def __init__(self, directory: Path, *, timeout: float) -> None:
        self.directory, self.timeout = directory, timeout
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._store: Any = None
        self._rank = self._ranks = 0

    # -- where the run is ----------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to watch."""
        self._rank, self._ranks = trainer.global_rank, trainer.world_size
        heartbeat("data", trainer.global_step)
        self._store = _own_connection() if self._ranks > 1 else None
        self._over.clear()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """The data are there."""
        heartbeat("forward and backward", trainer.global_step)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """The gradient is there."""
        heartbeat("update")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """The step is taken; evaluation, hand-off and checkpoint follow."""
        heartbeat("between steps", trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop watching."""
        self._over.set()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stop watching; where the others' end may be the reason, say where they were."""
        self._over.set()
        if self._ranks > 1 and isinstance(exception, RuntimeError):
            print(self._report("an error on this rank"), file=sys.stderr, flush=True)

    # -- watching ------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._over.wait(min(self.timeout / 10, 10.0)):
            last = _last
            self._post(last)
            if time.time() - last.since > self.timeout and not self._over.is_set():
                self._leave(time.time() - last.since)

    def _post(self, last: Heartbeat) -> None:
        if self._store is None:
            return
        # An error says that rank 0, which keeps the store, is stuck or gone: `_report` tells.
        with contextlib.suppress(dist.DistError):
            self._store.set(f"heartbeat/{self._rank}", json.dumps([*last, time.time()]))

    def _leave(self, seconds: float) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        text = self._report(f"no progress for {seconds:.0f} s (trainer.timeout={self.timeout:g})")
        print(text, file=sys.stderr, flush=True)
        with (self.directory / f"hang-rank-{self._rank}.txt").open("w", encoding="utf-8") as file:
            print(text, "", sep="\n", file=file, flush=True)
            faulthandler.dump_traceback(file=file, all_threads=True)
            os.fsync(file.fileno())
        faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
        os._exit(EXIT_HUNG)  # the main thread is stuck, and would answer to no exception

    def _report(self, reason: str) -> str:
        now = time.time()  # before the questions, which may take long
        posted = self._read(now)
        lines = [f"rank {self._rank}: {reason}"]
        for rank, last in sorted(posted.items()):
            if last is None:
                also = ", and with it the store of what the others posted" if rank == 0 else ""
                lines.append(f"  rank {rank}: no answer{also}")
            else:
                spent, ago = now - last.since, max(0.0, now - last.at)
                lines.append(f"  rank {rank}: step {last.step}, {last.phase} for {spent:.0f} s, said {ago:.0f} s ago")
        behind = ranks_behind(posted, silent_after=0.3 * self.timeout, now=now)
        if behind:
            lines.append("behind: rank " + ", ".join(map(str, behind)))
        return "\n".join(lines)

    def _read(self, now: float) -> dict[int, Posted | None]:
        posted: dict[int, Posted | None] = {self._rank: Posted(*_last, now)}
        for rank in range(self._ranks):
            if rank == self._rank:
                continue
            answer = _read_in_time(self._store, f"heartbeat/{rank}")
            posted[rank] = None if answer is None else Posted(*answer)
            if answer is None and rank == 0:
                break  # the store lives there: each further question would wait in vain
        return posted


def ranks_behind(posted: dict[int, Posted | None], *, silent_after: float, now: float) -> list[int]:
    """Find the ranks that the others wait for: those that have stopped posting, else those that have come least far."""
    silent = [rank for rank, last in posted.items() if last is None or now - last.at > silent_after]
    if silent:
        return sorted(silent)
    phases = {phase: number for number, phase in enumerate(PHASES)}
    reached = {rank: (last.step, phases.get(last.phase, -1)) for rank, last in posted.items() if last}
    least = min(reached.values())
    return sorted(rank for rank, at in reached.items() if at == least) if least < max(reached.values()) else []


def _read_in_time(store: Any, key: str) -> Any:
    """Read a key, or None after a while: a store whose process is stopped keeps even timed requests waiting."""
    answers: list[Any] = []

    def answer() -> None:
        with contextlib.suppress(dist.DistError):
            answers.append(json.loads(store.get(key)))

    asking = threading.Thread(target=answer, daemon=True)
    asking.start()
    asking.join(2 * PATIENCE_SECONDS)
    return answers[0] if answers else None


def _own_connection() -> Any:
    """Connect to the process group's store once more: its own connection may be waiting for others, and patiently."""
    store = dist.distributed_c10d._get_default_store().clone()
    store.set_timeout(timedelta(seconds=PATIENCE_SECONDS))
    return store
