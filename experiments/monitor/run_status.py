"""How the runs below a directory stand, by their files, the lock that a working process holds, and Slurm's queue."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.monitor.run_files import Position, read_config, read_position, trainer_settings
from experiments.report.words import headline
from experiments.study.collect import read_rows
from experiments.study.graph import FINETUNING, PRETRAINING
from experiments.study.majority import beside, read_majority
from experiments.study.runner import DONE, RUNNING
from experiments.study.slurm import Job
from pretraining.cache import is_locked, read_object

PENDING, STOPPED = "pending", "stopped"
LOCK = ".lock"


class RunStatus(NamedTuple):
    """What a run directory holds, and the job or process that works or has worked in it."""

    path: Path
    package: str
    status: str
    position: Position | None
    seconds_left: float | None
    value: str  # the number that the run is about
    changed: float
    job: str | None
    pid: int | None  # of a process on this machine that works in it
    log: str | None


def find_runs(directory: Path, jobs: Mapping[str, Job]) -> Iterator[RunStatus]:
    """Find the runs below a directory, not looking inside them nor inside studies; `jobs` is Slurm's queue."""
    if (directory / "config.yaml").exists():
        yield read_status(directory, jobs)
    elif directory.is_dir() and not (directory / "study.json").exists():
        for below in sorted(directory.iterdir()):
            if below.is_dir() and not below.is_symlink() and not below.name.startswith("."):
                yield from find_runs(below, jobs)


def read_status(path: Path, jobs: Mapping[str, Job]) -> RunStatus:
    """Read how one run stands; `jobs` is Slurm's queue, empty where there is none."""
    finished, history, lock = path / "metrics.json", path / "metrics.csv", path / LOCK
    holder = json.loads(lock.read_text() or "{}") if lock.exists() else {}
    held = lock.exists() and is_locked(lock)
    job, rows = jobs.get(str(holder.get("job"))), read_rows(history)
    task = read_config(path).get("task") or {}
    select = str(task.get("select", "loss")).removeprefix("-")  # what the run chooses its weights by
    if finished.exists():
        numbers, metric = read_object(finished), f"{'test' if task else 'validation'}/{select}"
        status, value = DONE, headline(numbers, metric) + beside(numbers, metric, read_majority(path))
    else:
        goes_on = job is not None and job.goes_on
        works = held or (job is not None and goes_on and job.state != "PENDING")
        status = RUNNING if works else PENDING if goes_on else STOPPED
        names = (f"validation/{select}", "train/loss")
        measured = ({name: float(row[name]) for name in names if row.get(name)} for row in reversed(rows))
        value = headline(next(filter(None, measured), {}), *names)
    position = read_position(path)
    left = _seconds_left(rows, position) if status == RUNNING and position else None
    here = held and holder.get("host") == platform.node()
    changed = max(p.stat().st_mtime for p in (finished, history, path / "config.yaml") if p.exists())
    package = FINETUNING if task else PRETRAINING
    working = holder.get("job"), holder.get("pid") if here else None, holder.get("log")
    return RunStatus(path, package, status, position, left, value, changed, *working)


def sbatch_shape(path: Path) -> dict[str, Any]:
    """Name the options of sbatch that a run's ranks need."""
    trainer = trainer_settings(path)
    devices = trainer.get("devices", 1)
    wanted = {"nodes": trainer.get("num_nodes", 1), "ntasks-per-node": devices}
    return wanted | ({"gpus-per-node": devices} if trainer.get("accelerator") == "cuda" else {})


def _seconds_left(rows: Sequence[Mapping[str, str]], position: Position) -> float | None:
    """Estimate from the rows of this life: `time` starts anew in each."""
    timed = [(int(row["step"]), float(row["time"])) for row in rows if row.get("time") and row["step"].isdigit()]
    begin = max((n for n in range(1, len(timed)) if timed[n][1] < timed[n - 1][1]), default=0)
    if position.planned is None or len(timed) - begin < 2:
        return None
    (first, since), (last, until) = timed[begin], timed[-1]
    return (position.planned - position.step) * (until - since) / max(1, last - first)
