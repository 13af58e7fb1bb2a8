"""Weights & Biases gets every run, and nothing waits for it or fails because of it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from pretraining.distributed.environment import process_rank
from pretraining.runs.provenance import artifact_name

MODES = ("auto", "online", "offline", "disabled")


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """How a run appears in W&B. `config` is its whole configuration, with the columns that runs are grouped by."""

    project: str
    name: str | None
    group: str | None
    job_type: str
    tags: list[str]
    config: dict[str, Any] = field(default_factory=dict)


class WandbHistory(Logger):
    """Weights & Biases: offline unless a key is configured.

    `mode` is auto (online with WANDB_API_KEY or after `wandb login`, else offline), online, offline or disabled.
    Online, a server is given `patience` seconds to answer at the start (without an answer the run is kept offline) and
    as many to take the rest at the end. The run id lives in the run directory, so a resumed run continues the same W&B
    run. Hand-offs above `upload_bytes` go as references. Whatever is logged under one step becomes one row.
    """

    name = "wandb"

    def __init__(self, directory: Path, *, tracked: Tracked, mode: str, patience: float, upload_bytes: float) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"logger.wandb.mode={mode} is unknown: choose {', '.join(MODES)}")
        self.directory, self.tracked, self.mode = directory, tracked, mode
        self.patience, self.upload_bytes = patience, upload_bytes
        self._run: Any = None
        self._tried = False
        self._row: dict[str, Any] = {}
        self._axes: set[str] = set()

    @property
    def version(self) -> str:
        """The run id, kept in the run directory: a sweep agent's, or made by the first rank; "" before that."""
        path = self.directory / "wandb_id.txt"
        if not path.exists():
            if process_rank() > 0:  # it writes nothing: the first rank may not have claimed the directory yet
                return ""
            given = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
            path.write_text((given or os.urandom(4).hex()) + "\n")
        return path.read_text().strip()

    @property
    def path(self) -> str:
        """The run within its entity, which also names the artifact of its hand-off."""
        return f"{self.tracked.project}/{self.version}"

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started when it is first needed; None where it cannot be had."""
        if not self._tried:
            self._tried = True
            mode = ("online" if key_configured() else "offline") if self.mode == "auto" else self.mode
            self._run = self._start(mode)
            if self._run is None and mode == "online":
                self._run = self._start("offline")
        return self._run

    def _start(self, mode: str) -> Any:
        import wandb

        settings = wandb.Settings(
            init_timeout=self.patience,
            finish_timeout=self.patience if mode == "online" else 0,
            silent=True,
            console="off",
            x_transaction_log_flush_interval=1,  # a killed run keeps all but its last second
        )
        about = {name: value for name, value in vars(self.tracked).items() if value is not None}
        try:
            run = wandb.init(id=self.version, resume="allow", dir=self.directory, mode=mode, settings=settings, **about)  # type: ignore[arg-type]
        except Exception as error:
            kept = "kept offline" if mode == "online" else "left out"
            _say_once(f"W&B: this run is {kept}: {_first_line(error)}", about=kept)
            wandb.teardown()  # the client still holds the id of what it could not start
            return None
        if mode == "offline":
            sync = f"`python -m experiments.wandb_sync {self.directory}`"
            _say_once(f"W&B: offline. `wandb login` sends later runs as they go, {sync} this one", about=mode)
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        for pattern in ("validation/*", "probe/*"):
            run.define_metric(pattern, step_metric="step", summary="last,min,max")
        return run

    @contextlib.contextmanager
    def _spared(self) -> Iterator[None]:
        """Keep from the run whatever the client raises: it is said once, and the client is not called again."""
        try:
            yield
        except Exception as error:
            print(f"W&B: the rest of this run is left out: {_first_line(error)}", file=sys.stderr)
            self._run, self._tried = None, True

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the config went along at the start."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add metrics to the row of `step`; the row before it is sent."""
        if self._row and self._row["step"] != step:
            self.save()
        self._row |= {"step": step, **metrics}

    @rank_zero_only
    def save(self) -> None:
        """Send the open row."""
        row, self._row = self._row, {}
        with self._spared():
            if not row or self.experiment is None:
                return
            # Totals (examples, tokens, time) are axes that metrics are plotted over, and no charts of their own.
            for axis in {name for name in row if "/" not in name} - self._axes - {"step", "learning_rate"}:
                self.experiment.define_metric(axis, hidden=True)
                self._axes.add(axis)
            self.experiment.log(row)

    @rank_zero_only
    def log_pictures(self, paths: dict[str, Path], step: int) -> None:
        """Add pictures to the row of `step`."""
        with self._spared():
            if self.experiment is not None:
                import wandb

                self.log_metrics({name: wandb.Image(str(path)) for name, path in paths.items()}, step)

    @rank_zero_only
    def log_viewed(self, name: str, images: list[dict[str, Any]], step: int) -> None:
        """Add a list of images, each with what W&B makes one of (its pixels, caption, boxes, masks), to a row."""
        with self._spared():
            if images and self.experiment is not None:
                import wandb

                self.log_metrics({name: [wandb.Image(**image) for image in images]}, step)

    @rank_zero_only
    def log_handoff(self, directory: Path) -> None:
        """Log a hand-off as the model artifact that this run made."""
        self.save()
        with self._spared():
            if self.experiment is not None:
                self._log_artifact(directory.resolve())

    def _log_artifact(self, directory: Path) -> None:
        import wandb

        origin = json.loads((directory / "handoff.json").read_text("utf-8"))["origin"]
        artifact = wandb.Artifact(artifact_name(self.version), type="model", metadata=origin)
        if sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) > self.upload_bytes:
            artifact.add_reference(directory.as_uri())
        else:
            for path in sorted(directory.rglob("*")):  # not `add_dir`, which prints
                if path.is_file():
                    named = path.relative_to(directory).as_posix()
                    artifact.add_file(str(path), name=named, skip_cache=True, policy="immutable")
        self.experiment.log_artifact(artifact, aliases=["latest", directory.name])

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the run with its state; a preempted one is marked so, since another process continues it."""
        self.save()
        if self._run is None:
            return
        failed = sys.exc_info()[1]
        with self._spared():
            if isinstance(failed, SystemExit):
                self._run.mark_preempting()
            self._run.finish(exit_code=0 if status == "success" else 1)
            self._run, self._tried = None, False


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


_told: set[str] = set()  # by this process, whose runs (of a sweep, of a study) fare alike


def _say_once(text: str, *, about: str) -> None:
    if about not in _told:
        print(text, file=sys.stderr)
    _told.add(about)


def key_configured() -> bool:
    """Tell whether runs can go online: a key is configured, and WANDB_MODE does not say otherwise. Asks nobody."""
    if os.environ.get("WANDB_MODE", "online") != "online":
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return netrc.exists() and "wandb" in netrc.read_text(errors="ignore")
