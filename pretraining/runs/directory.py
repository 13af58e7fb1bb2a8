"""A run is its directory: claiming it, training in it, continuing it. Pretraining and finetuning use it alike."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig, OmegaConf

from pretraining.cache import RESTORE, is_full, is_locked, read_object, replace_text, room, share, try_lock
from pretraining.distributed.environment import batch_job, process_rank
from pretraining.errors import RunError
from pretraining.runs.checkpoint_files import MARKER, newest_valid, read_checkpoint
from pretraining.runs.renamed import current

# What a resume may change: none of it decides which numbers come out.
FREE_TO_CHANGE = (
    "data.workers", "data.cache_dir", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.accelerator",
    "trainer.timeout", "trainer.keep_last", "trainer.background_checkpoints", "logger", "resume", "run_dir", "from_run",
    "progress", "profile", "hydra", "name", "trust",
)  # fmt: skip
LOCK = ".lock"  # held by the process that works in a run directory
# Written before the first step.
BEFORE_STEPS = ("config.yaml", "overrides.txt", "metrics.csv", "wandb_id.txt", "wandb", "loggers", "checkpoints")


@dataclass
class RunDirectory:
    """A claimed run directory, and the checkpoint to continue from, if any."""

    path: Path
    checkpoint: Path | None = None
    step: int = 0  # that the checkpoint was written after
    fingerprint: dict[str, Any] = field(default_factory=dict)  # of what the run reads, see `provenance.fingerprint_of`
    finished: bool = False
    _lock: IO[str] | None = field(default=None, repr=False)
    _made: bool = False  # the directory itself, by this claim

    @classmethod
    def refuse_taken(cls, path: Path, *, resume: str) -> None:
        """Refuse a directory that is no place for a new run, touching nothing."""
        if process_rank() > 0:
            return
        holds_run = (path / "config.yaml").exists()
        if never_stepped(path):
            if (path / LOCK).exists() and is_locked(path / LOCK):
                raise RunError(_in_use(path))
        elif holds_run and resume == "none":
            raise RunError(
                f"run_dir={path} already holds a run: add resume=auto to continue it, or choose another run_dir"
            )
        if path.exists() and not path.is_dir():
            raise RunError(f"run_dir={path} is a file: choose another run_dir")
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            raise RunError(_not_made(path, f"{there} is a file" if there.is_file() else f"{there} is read-only"))
        if path.exists() and not holds_run and any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise RunError(f"run_dir={path} is not empty and holds no run: choose another run_dir")

    @classmethod
    def claim(cls, path: Path, config: DictConfig, *, resume: str, overrides: list[str]) -> RunDirectory:
        """Make or continue the run at `path`; refuse, touching nothing, a directory whose run this is not.

        A run that ended before its first step gives its directory up. `resume` is none, auto, or a checkpoint's path.
        Ranks other than the first take what it claims, and write nothing.
        """
        if process_rank() > 0:
            return cls(path, *_continued(path, config, resume), finished=_is_finished(path, config))
        cls.refuse_taken(path, resume=resume)
        stale = never_stepped(path)
        if stale:
            stale = resume == "none" or bool(differences(read_config(path / "config.yaml"), config))
        elif (path / "config.yaml").exists():
            refuse_other_config(read_config(path / "config.yaml"), config, path)
        continued, made = _continued(path, config, resume), not path.exists()
        with room(path.parent):
            run = cls(path, *continued, _lock=_locked(make_directory(path)), _made=made)
        if stale:
            _discard(path)
        run.finished = _is_finished(path, config)
        if not run.finished:
            if run.checkpoint is not None:
                print(f"continuing {run.checkpoint} from step {run.step}", file=sys.stderr)
            (path / MARKER).unlink(missing_ok=True)
            (path / "metrics.json").unlink(missing_ok=True)
            replace_text(path / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
            replace_text(path / "overrides.txt", "\n".join(overrides) + "\n")
        return run

    @property
    def checkpoints(self) -> Path:
        """The directory of checkpoints."""
        return self.path / "checkpoints"

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Write metrics.json, whose presence says that the run is done."""
        if process_rank() == 0:
            replace_text(self.path / "metrics.json", json.dumps(metrics, indent=2) + "\n")

    def release(self) -> None:
        """Let others claim the directory, or the corrected run if this one ended before its first step."""
        if self._lock is None:
            return
        if never_stepped(self.path):
            _discard(self.path)
            if self._made:
                (self.path / LOCK).unlink()
                with contextlib.suppress(OSError):  # something else is in it
                    self.path.rmdir()
        self._lock.close()


def read_config(path: Path) -> DictConfig:
    """Read the configuration that a run recorded."""
    settings = read_object(path, lambda text: OmegaConf.to_container(OmegaConf.create(text), resolve=True))
    if not settings:
        raise RunError(f"{path} is damaged (it is empty): {RESTORE}")
    return OmegaConf.create(settings)


def _is_finished(path: Path, config: DictConfig) -> bool:
    try:
        steps = read_object(path / "metrics.json").get("steps", 0)
    except FileNotFoundError:
        return False
    return isinstance(steps, int) and steps >= config.trainer.max_steps


def _locked(path: Path) -> IO[str]:
    """Lock the directory for as long as this process lives, and write into the lock which process that is."""
    lock = try_lock(path / LOCK)
    if lock is None:
        raise RunError(_in_use(path))
    lock.truncate(0)
    json.dump({"host": platform.node(), "pid": os.getpid(), "job": batch_job(), "log": _error_file()}, lock)
    lock.flush()
    return lock


def make_directory(path: Path, key: str = "run_dir") -> Path:
    """Make a directory that the setting `key` names, or refuse the name."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_full(error):
            raise
        raise RunError(_not_made(path, error.strerror or str(error), key)) from error
    return path


@contextlib.contextmanager
def new_directory(path: Path, key: str = "run_dir") -> Iterator[Path]:
    """Fill a directory that the setting `key` names, whole or not at all; one that holds something is refused."""
    if path.is_dir() and any(path.iterdir()):
        raise RunError(f"{key}={path} holds something already: give a new directory")
    if path.exists() and not path.is_dir():
        raise RunError(_not_made(path, "there is a file of that name", key))
    beside = path.absolute().with_name(f".{path.absolute().name}.writing")
    shutil.rmtree(beside, ignore_errors=True)  # left by a process that was killed here
    try:
        yield make_directory(beside, key)
        share(beside)
        beside.rename(path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _not_made(path: Path, why: str, key: str = "run_dir") -> str:
    return f"{key}={path} cannot be made or written to ({why}): choose another {key}"


def _in_use(path: Path) -> str:
    return f"run_dir={path} is in use by a process that is still running: wait for it, or choose another run_dir"


def never_stepped(path: Path) -> bool:
    """Tell whether `path` holds a run that has left nothing of a training step."""
    if not (path / "config.yaml").exists():
        return False
    there = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}
    history = path / "metrics.csv"
    begun = any((path / "checkpoints").glob("*")) or (history.exists() and history.read_bytes().count(b"\n") > 1)
    return there <= set(BEFORE_STEPS) and not begun


def _discard(path: Path) -> None:
    for name in BEFORE_STEPS:
        entry = path / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def _error_file() -> str | None:
    """Name the file that this process's errors go to; None for a terminal or a pipe."""
    try:
        path = os.readlink("/proc/self/fd/2")
    except OSError:
        return None
    return path if Path(path).is_file() else None


def _checkpoint_for(path: Path, resume: str) -> Path | None:
    if resume == "none":
        return None
    if resume == "auto":
        return newest_valid(path / "checkpoints")
    if not Path(resume).is_file():
        raise RunError(f"resume={resume} is no file: give a checkpoint (step-XXXXXXX.ckpt), auto or none")
    return Path(resume)


def _continued(path: Path, config: DictConfig, resume: str) -> tuple[Path | None, int, dict[str, Any]]:
    """Find the checkpoint to continue from, the step inside, and what the run reads, which is to be what it read."""
    checkpoint, fingerprint = _checkpoint_for(path, resume), dict(config.get("fingerprint") or {})
    if checkpoint is None:
        return None, 0, fingerprint
    content = read_checkpoint(checkpoint, verify=resume != "auto")  # whose newest is known to be whole
    step, most = int(content["global_step"]), config.trainer.max_steps
    if step > most:
        cure = "raise that, or take an earlier checkpoint"
        raise RunError(f"resume={checkpoint} has made {step} steps, more than trainer.max_steps={most}: {cure}")
    before = {"fingerprint": content.get("fingerprint") or fingerprint}
    refuse_other_config(OmegaConf.create(before), OmegaConf.create({"fingerprint": fingerprint}), checkpoint, "resume")
    return checkpoint, step, fingerprint


def refuse_other_config(before: Any, now: Any, path: Path, key: str = "run_dir") -> None:
    """Refuse to continue a run under another configuration, or on other data, listing what differs."""
    if not (differing := differences(before, now)):
        return
    opening, cure = "holds a run with another configuration:", "repeat its settings, or choose another run_dir"
    if all(line.strip().startswith("fingerprint.") for line in differing):
        opening, cure = "reads other data than before:", "give back the data of then, or choose another run_dir"
    raise RunError("\n".join([f"{key}={path} {opening}", *differing, cure]))


def differences(before: Any, now: Any) -> list[str]:
    """List what a resume may not change and does, a line each."""
    old, new = (flatten(current(OmegaConf.to_container(part, resolve=True))) for part in (before, now))
    differing = []
    for key in sorted(old.keys() | new.keys()):
        if key.startswith(FREE_TO_CHANGE) or old.get(key) == new.get(key):
            continue
        longer = key == "trainer.max_steps" and new.get(key, 0) > old.get(key, 0)
        automatic = key == "trainer.precision" and new.get(key) == "auto"
        unknown = key.startswith("fingerprint") and old.get(key) is None  # to the release that began it
        if not (longer or automatic or unknown):
            differing.append(f"  {key}: {old.get(key)!r} before, {new.get(key)!r} now")
    return differing


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Turn nested containers into {"a.b": value}."""
    if not isinstance(tree, dict) or not tree:
        return {prefix[:-1]: tree}
    return {key: value for name, part in tree.items() for key, value in flatten(part, f"{prefix}{name}.").items()}
