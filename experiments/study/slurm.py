"""Slurm's commands: list jobs, submit one, end some."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.study.graph import FINETUNING, PRETRAINING
from experiments.study.spec import StudyError
from pretraining.runs.snapshot import VARIABLE

SCRIPTS = {PRETRAINING: "pretrain.sbatch", FINETUNING: "finetune.sbatch"}
GOING_ON = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"}
GOING_ON |= {"RUNNING", "RESIZING", "SUSPENDED", "STAGE_OUT", "COMPLETING"}


class Job(NamedTuple):
    """A job as squeue describes it; it has run for `seconds`."""

    state: str
    seconds: float
    reason: str

    @property
    def goes_on(self) -> bool:
        """Whether the job runs, or will."""
        return self.state in GOING_ON


def is_here() -> bool:
    """Tell whether this machine can talk to a cluster."""
    return shutil.which("squeue") is not None


def queue() -> dict[str, Job]:
    """List this user's jobs by number (ARRAY_TASK in arrays), also those that have ended a short while ago."""
    found = {}
    for line in _ask("squeue", "--me", "--noheader", "--states=all", "--format=%i|%T|%M|%r").splitlines():
        number, state, clock, reason = line.split("|", 3)
        found[number] = Job(state, _seconds(clock), reason)
    return found


def submit(package: str, overrides: Sequence[str], options: Mapping[str, Any], snapshot: Mapping[str, str]) -> str:
    """Submit one run of `package` with the code of a snapshot; returns the job's number.

    `options` are sbatch's, by their long names.
    """
    environment = os.environ | snapshot | {"PYTHON": os.environ.get("PYTHON", sys.executable)}
    script = Path(snapshot[VARIABLE]) / "slurm" / SCRIPTS[package]
    written = [f"--{name}={value}" for name, value in options.items() if value is not None]
    return _ask("sbatch", "--parsable", *written, str(script), *overrides, environment=environment).split(";")[0]


def cancel(numbers: Iterable[str]) -> None:
    """End jobs: those that train save first."""
    _ask("scancel", *numbers)


def _ask(*command: str, environment: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StudyError(f"this needs a Slurm cluster, but {command[0]} cannot be run here: {error}") from error
    if done.returncode:
        raise StudyError(f"{command[0]} says: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def _seconds(clock: str) -> float:
    """Read Slurm's [days-][hours:]minutes:seconds."""
    days, _, rest = clock.rpartition("-")
    total = 0.0
    for part in rest.split(":"):
        total = 60 * total + (float(part) if part.isdigit() else 0.0)
    return total + 86400 * float(days or 0)
