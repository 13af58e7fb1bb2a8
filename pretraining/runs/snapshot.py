"""The code that a job was submitted with: edits that are made while it waits in a queue must not change it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pretraining.cache import build_once

ROOT = Path(__file__).resolve().parents[2]
CODE = ("pretraining", "finetuning", "experiments", "conf", "slurm")  # what jobs read: no data, no user settings
FOLDER = Path("runs/.snapshots")
VARIABLE = "PRETRAINING_SNAPSHOT"
LOCAL_LAUNCHERS = ("basic", "joblib")


def submits_jobs(arguments: Sequence[str]) -> bool:
    """Tell whether a command line hands its jobs to a cluster."""
    chosen = [argument.partition("=")[2] for argument in arguments if argument.startswith("hydra/launcher=")]
    return bool(chosen) and chosen[-1] not in LOCAL_LAUNCHERS


def is_taken() -> bool:
    """Tell whether this process runs a snapshot already: the submitting command in its second life, or a job."""
    return VARIABLE in os.environ


def submit_from_snapshot() -> None:
    """Start this command again from a snapshot of its code, with `-m`, which launchers need also for one job.

    Returns in the command's second life. The environment goes along to the jobs, so they import the snapshot too, conf/
    included, whatever directory they start in.
    """
    if is_taken():
        return
    arguments = list(sys.orig_argv)
    if not {"-m", "--multirun"} & set(sys.argv[1:]):
        arguments.append("--multirun")
    environment = snapshot_environment()
    print(f"jobs run the code in {environment[VARIABLE]}", file=sys.stderr, flush=True)
    os.execve(sys.executable, [sys.executable, *arguments[1:]], os.environ | environment)


def snapshot_environment() -> dict[str, str]:
    """Take a snapshot; returns the environment in which Python runs it."""
    code = str(take(ROOT, FOLDER.resolve()))
    path = os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH")]))
    # Safe path: else the current directory, where the edits happen, comes before PYTHONPATH.
    return {VARIABLE: code, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def take(root: Path, folder: Path) -> Path:
    """Copy the code in `root` to a directory in `folder` named after its content; equal code is copied once."""
    files = _files(root)
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path}\0{(root / path).stat().st_size}\0".encode() + (root / path).read_bytes())

    def copy(partial: Path) -> None:
        for path in files:
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, partial / path)

    return build_once(folder / digest.hexdigest()[:12], copy)


def _files(root: Path) -> list[Path]:
    """List the files of the code: in a checkout those that git knows or would add, else all but compiled ones."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *CODE]
    try:
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode().split("\0")
        found = [Path(name) for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        every = [path for name in CODE for path in (root / name).rglob("*")]
        found = [path.relative_to(root) for path in every if "__pycache__" not in path.parts]
    return sorted(path for path in set(found) if (root / path).is_file())


def main() -> None:
    """Take a snapshot and print what makes jobs use it: `env $(python -m pretraining.runs.snapshot) sbatch ...`."""
    if sys.argv[1:]:
        print(main.__doc__, "It takes no arguments.")
        sys.exit(0 if {"-h", "--help"} & set(sys.argv[1:]) else 2)
    print(*(f"{name}={value}" for name, value in snapshot_environment().items()))


if __name__ == "__main__":
    main()
