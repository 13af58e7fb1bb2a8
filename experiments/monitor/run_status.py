"""How the runs below a directory stand: read from their files, from the lock that a working process holds, and from Slurm's queue."""

from __future__ import annotations

import csv
import json
import os
import platform
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from experiments.monitor.progress import steps
from experiments.study.graph import FINETUNING, PRETRAINING
from experiments.study.runner import DONE, RUNNING
from experiments.study.slurm import Job
from pretraining.cache import is_locked

PENDING, STOPPED = "pending", "stopped"
HEADLINES = ("test/accuracy", "test/f1_macro", "test/f1", "test/bleu", "validation/loss")
LOCK = ".lock"


class Standing(NamedTuple):
    """A run directory: what it is, how it stands, the number it is about, and the job or process that works or has worked in it."""

    path: Path
    package: str
    status: str
    position: str
    seconds_left: float | None
    value: str
    changed: float
    job: str | None
    pid: int | None  # of a process on this machine that works in it
    log: str | None


def standings(directory: Path, jobs: Mapping[str, Job]) -> Iterator[Standing]:
    """The runs below a directory, not looking inside them nor inside studies."""
    if (directory / "config.yaml").exists():
        yield standing(directory, jobs)
    elif directory.is_dir() and not (directory / "study.json").exists():
        for below in sorted(directory.iterdir()):
            if below.is_dir() and not below.is_symlink() and not below.name.startswith("."):
                yield from standings(below, jobs)


def standing(path: Path, jobs: Mapping[str, Job]) -> Standing:
    """Find out how one run stands; `jobs` is Slurm's queue, empty where there is none."""
    finished, history = path / "metrics.json", path / "metrics.csv"
    holder, held = _holder(path / LOCK)
    job = jobs.get(str(holder.get("job")))
    value = ""
    if finished.exists():
        status, numbers = DONE, json.loads(finished.read_text())
        key = next((k for k in HEADLINES if k in numbers), None)
        value = f"{key} {numbers[key]:.3f}" if key else ""
    elif held or (job is not None and job.goes_on and job.state != "PENDING"):
        status, value = RUNNING, _last_loss(history)
    else:
        status, value = PENDING if job is not None and job.goes_on else STOPPED, _last_loss(history)
    reached = steps(path)
    position, left = "", None
    if reached:
        position = f"{reached[0]:,} of {reached[1]:,}" if reached[1] else f"{reached[0]:,}"
        left = _seconds_left(history, *reached) if status == RUNNING else None
    here = held and holder.get("host") == platform.node()
    changed = max(p.stat().st_mtime for p in (finished, history, path / "config.yaml") if p.exists())
    return Standing(
        path,
        _package(path),
        status,
        position,
        left,
        value,
        changed,
        holder.get("job"),
        holder.get("pid") if here else None,
        holder.get("log"),
    )


def stop(run: Standing) -> None:
    """Ask a process of this machine to save and leave."""
    assert run.pid is not None
    os.kill(run.pid, signal.SIGTERM)


def shape(path: Path) -> dict[str, Any]:
    """The options of sbatch that a run's ranks need."""
    trainer = (yaml.safe_load((path / "config.yaml").read_text()) or {}).get("trainer") or {}
    devices = trainer.get("devices", 1)
    wanted = {"nodes": trainer.get("num_nodes", 1), "ntasks-per-node": devices}
    return wanted | ({"gpus-per-node": devices} if trainer.get("accelerator") == "cuda" else {})


def _package(path: Path) -> str:
    config = yaml.safe_load((path / "config.yaml").read_text()) or {}
    return FINETUNING if "task" in config else PRETRAINING


def _holder(lock: Path) -> tuple[dict[str, Any], bool]:
    """Who works or has worked in a run directory, and whether it still does."""
    if not lock.exists():
        return {}, False
    return json.loads(lock.read_text() or "{}"), is_locked(lock)


def _rows(history: Path) -> list[dict[str, str]]:
    if not history.exists():
        return []
    with history.open(newline="") as file:
        return list(csv.DictReader(file))


def _last_loss(history: Path) -> str:
    for row in reversed(_rows(history)):
        for name in ("validation/loss", "train/loss"):
            if row.get(name):
                return f"{name} {float(row[name]):.3f}"
    return ""


def _seconds_left(history: Path, step: int, planned: int | None) -> float | None:
    """Estimate from the rows of this life: `time` starts anew in each."""
    timed = [
        (int(row["step"]), float(row["time"])) for row in _rows(history) if row.get("time") and row["step"].isdigit()
    ]
    begin = max((n for n in range(1, len(timed)) if timed[n][1] < timed[n - 1][1]), default=0)
    if planned is None or len(timed) - begin < 2:
        return None
    (first, since), (last, until) = timed[begin], timed[-1]
    return (planned - step) * (until - since) / max(1, last - first)
