"""What the environment tells a process: which rank it is, and which Slurm job it is part of."""

from __future__ import annotations

import os
import subprocess

SPAWNED = "local"  # how a run's processes are called that it starts itself
SHARED_PRECISION = "PRETRAINING_PRECISION"  # names a file in which processes agree on what trainer.precision=auto is


def launched() -> bool:
    """Tell whether this process is one rank of several already: torchrun's, srun's, or ours."""
    return "RANK" in os.environ or step_tasks() > 1


def step_tasks() -> int:
    """Count the tasks that srun has started, this among them; 1 in a batch script, whatever its job has room for."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def ranks_started() -> int:
    """Count the processes that share this run."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else step_tasks()


def batch_job() -> str | None:
    """Name the Slurm job of this process, with its array task; None outside of one, or in an interactive one."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else job


def restarted() -> bool:
    """Tell whether this Slurm job has been requeued: then it continues what it has done before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def job_is_ending() -> bool:
    """Tell whether this Slurm job was cancelled and must not be requeued; False where Slurm cannot be asked."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    try:
        question = ["squeue", "-h", "-j", job, "-o", "%T"]
        shown = subprocess.run(question, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return shown.stdout.strip() in ("CANCELLED", "COMPLETING")


def speaks() -> bool:
    """Tell whether this process is to say what is wrong before the ranks have met, which all of its machine find.

    The first of a machine does; of those that `cli.spawn` starts all, since it keeps what they say.
    """
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    return local == "0" or os.environ.get("TORCHELASTIC_RUN_ID") == SPAWNED


def process_rank() -> int:
    """Read this process's rank from what its launcher set, also before there is a process group."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
