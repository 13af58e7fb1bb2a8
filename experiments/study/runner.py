"""Carry out a study's runs: what is done stays done, what fails is written down, the rest goes on.

Beside ``runs/`` (which the commands write) a study keeps ``state/<run>.json`` (one flat object per run, replaced as a
whole) and ``logs/<run>.txt`` (everything that the run printed).
"""

import io
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from experiments.study.graph import FINETUNING, Node, Study
from experiments.study.spec import StudyError
from pretraining.cache import read_object, replace_text, try_lock
from pretraining.runs.directory import make_directory

Run = Callable[[str, Sequence[str]], None]
"""(command, overrides): runs it to its end, or raises."""

DONE, FAILED, SKIPPED, RUNNING = "done", "failed", "skipped", "running"


class Watch(Protocol):
    """Follows a study."""

    def started(self, node: Node) -> None:
        """Take note of a run that begins."""

    def ended(self, node: Node, state: Mapping[str, Any]) -> None:
        """Take note of a run that is done, failed or skipped."""


class Journal:
    """The state of each run of a study, on disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def _path(self, folder: str, name: str) -> Path:
        path = self.directory / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def read(self, node: Node) -> dict[str, Any]:
        """Read the last state written, or an empty one."""
        path = self.directory / "state" / f"{node.name}.json"
        return read_object(path) if path.exists() else {}

    def write(self, node: Node, **state: Any) -> dict[str, Any]:
        """Replace the state; a reader sees the old or the new one, never half."""
        replace_text(self._path("state", f"{node.name}.json"), json.dumps(state, indent=1))
        return state

    def log(self, node: Node) -> Path:
        """Name the file that everything goes to which the run prints."""
        return self._path("logs", f"{node.name}.txt")

    def has_numbers(self, name: str) -> bool:
        """Tell whether a run has written its final numbers."""
        return (self.directory / "runs" / name / "metrics.json").exists()

    def is_done(self, node: Node) -> bool:
        """Tell whether a run is marked as done, and its numbers are really there."""
        return self.read(node).get("status") == DONE and self.has_numbers(node.name)


@contextmanager
def redirect_output(path: Path) -> Iterator[None]:
    """Send what this process and its libraries print to ``path``.

    The file descriptors themselves are switched: a library's handler, bound earlier or kept for later, always writes to
    where the descriptor points.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    # Never closed on purpose: a logging handler made meanwhile may keep one of them.
    files = [io.FileIO(descriptor, "w", closefd=False) for descriptor in (1, 2)]
    out, err = (io.TextIOWrapper(file, line_buffering=True) for file in files)
    with path.open("a") as file:
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            with redirect_stdout(out), redirect_stderr(err):
                yield
        finally:
            out.flush()
            err.flush()
            for saved, descriptor in zip(kept, (1, 2), strict=True):
                os.dup2(saved, descriptor)
                os.close(saved)


def perform(node: Node, directory: Path, run: Run) -> dict[str, Any]:
    """Carry out one run in this process and write down how it ended."""
    journal, run_dir, begin = Journal(directory), directory / "runs" / node.name, time.time()
    journal.write(node, status=RUNNING, pid=os.getpid(), started=begin)
    ending: dict[str, Any] = {"status": DONE}
    with redirect_output(journal.log(node)):
        try:
            if node.command == FINETUNING and run_dir.exists():
                shutil.rmtree(run_dir)  # What a killed finetuning left: seconds of work, begun anew.
            run(node.command, node.overrides)
            if not journal.has_numbers(node.name):
                raise StudyError(f"the run ended without writing metrics.json in {run_dir}")
        except Exception as error:  # the one place where any error of a run stops: the study goes on
            traceback.print_exception(error)
            ending = {"status": FAILED, "error": f"{type(error).__name__}: {error}"}
    return journal.write(node, seconds=time.time() - begin, ended=time.time(), **ending)


class Executor:
    """Carries runs out, `slots` at a time; where it `chains`, a run may be submitted while the one it needs goes on."""

    slots, chains = 1, False

    def __init__(self, directory: Path) -> None:
        self.directory, self.journal = directory, Journal(directory)
        self.submitted: dict[Any, Any] = {}  # and not handed back

    @property
    def busy(self) -> int:
        """Count the runs submitted and not handed back."""
        return len(self.submitted)

    def submit(self, node: Node) -> None:
        """Take a run on."""
        raise NotImplementedError

    def next(self) -> list[tuple[Node, dict[str, Any]]]:
        """Wait until some end, and say how."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what is held."""


class Here(Executor):
    """Runs, one after another, in this process: starting torch outlasts a small finetuning."""

    def __init__(self, directory: Path, run: Run) -> None:
        super().__init__(directory)
        self._run = run

    def submit(self, node: Node) -> None:
        """Take a run on."""
        self.submitted[node.name] = node

    def next(self) -> list[tuple[Node, dict[str, Any]]]:
        """Carry out what was submitted and say how it ended."""
        node = self.submitted.pop(next(iter(self.submitted)))
        return [(node, perform(node, self.directory, self._run))]


def _end_with(parent: int) -> None:
    """End this process soon after its parent: a study started anew must not meet the runs of a killed one."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Processes(Executor):
    """Runs in ``slots`` lasting processes; one that dies takes its run along, no other."""

    def __init__(self, directory: Path, run: Run, slots: int) -> None:
        super().__init__(directory)
        self.slots, self._run = slots, run
        # Children share the cores: with a thread per core each, they would slow one another.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // slots)))
        self._free = [self._pool() for _ in range(slots)]
        self.submitted: dict[Future[dict[str, Any]], tuple[Node, ProcessPoolExecutor]] = {}

    @staticmethod
    def _pool() -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, mp_context=context, initializer=_end_with, initargs=(os.getpid(),))

    def submit(self, node: Node) -> None:
        """Start a run in a free process."""
        pool = self._free.pop()
        self.submitted[pool.submit(perform, node, self.directory, self._run)] = node, pool

    def next(self) -> list[tuple[Node, dict[str, Any]]]:
        """Wait until a run ends, and say how."""
        ended = []
        for future in wait(self.submitted, return_when=FIRST_COMPLETED).done:
            node, pool = self.submitted.pop(future)
            try:
                state = future.result()
            except BrokenProcessPool:
                pool.shutdown()
                pool = self._pool()
                reason = "the process of the run died without a word (out of memory, or killed)"
                state = self.journal.write(node, status=FAILED, ended=time.time(), error=reason)
            self._free.append(pool)
            ended.append((node, state))
        return ended

    def close(self) -> None:
        """End the processes."""
        for pool in [*self._free, *(pool for _, pool in self.submitted.values())]:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def lock_study(directory: Path) -> Iterator[None]:
    """Refuse a second runner of the study; the kernel frees the lock even after kill -9."""
    lock = try_lock(make_directory(directory, "study_dir") / "lock")
    if lock is None:
        raise StudyError(f"another process runs the study in {directory}: wait for it, or give another study_dir=")
    with lock:
        yield


def run_study(study: Study, *, executor: Executor, watch: Watch, retry_failed: bool) -> dict[str, str]:
    """Carry out what is not done yet, each run after what it needs; returns the status of each by name."""
    journal = Journal(study.directory)
    status: dict[str, str] = {}
    waiting: list[Node] = []
    submitted: set[str | None] = set()
    for node in study.nodes:
        state = journal.read(node)
        if journal.is_done(node):
            status[node.name] = DONE
        elif state.get("status") == FAILED and not retry_failed:
            status[node.name] = FAILED
            watch.ended(node, state)
        else:
            waiting.append(node)
    while waiting or executor.busy:
        for node in list(waiting):
            needed = DONE if node.needs is None else status.get(node.needs)
            if needed in (FAILED, SKIPPED):
                waiting.remove(node)
                status[node.name] = SKIPPED
                watch.ended(node, journal.write(node, status=SKIPPED, error=f"it needs {node.needs}, which has failed"))
            elif (needed == DONE or (executor.chains and node.needs in submitted)) and executor.busy < executor.slots:
                waiting.remove(node)
                submitted.add(node.name)
                watch.started(node)
                executor.submit(node)
        if executor.busy:
            for node, state in executor.next():
                status[node.name] = state["status"]
                watch.ended(node, state)
    return status
