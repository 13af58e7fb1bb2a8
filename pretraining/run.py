"""A run is its directory: claiming it, training in it, continuing it. Knows no objective and no data; finetuning uses it too."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sys
import time
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

from pretraining.checkpoints import MARKER, AtomicIO, Checkpointing, newest_valid
from pretraining.cluster import step_tasks
from pretraining.history import CsvHistory
from pretraining.step import StepModule, StepSettings
from pretraining.watchdog import Watchdog

# What a resume may change: none of it decides which numbers come out.
FREE_TO_CHANGE = (
    "data.workers", "data.cache_dir", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.accelerator",
    "trainer.timeout", "trainer.keep_last", "logger", "resume", "run_dir", "from_run", "progress", "hydra",
)  # fmt: skip


Precision = Literal["auto", "fp32", "bf16", "fp64"]


class RunError(ValueError):
    """A mistake in what the user asked for: printed as one message, exit code 2."""


@dataclass(kw_only=True)
class TrainerSettings:
    """How a run is computed. All cadences are in optimizer steps; 0 means never.

    `accumulate` is the number of micro-batches per step and rank; `clip_norm` the largest global gradient norm, or null.
    """

    accelerator: Literal["cpu", "cuda"] = "cpu"
    strategy: Literal["single", "ddp", "fsdp"] = "single"
    devices: int = 1
    num_nodes: int = 1
    precision: Precision = "auto"
    max_steps: int = 1000
    accumulate: int = 1
    clip_norm: float | None = None
    log_every: int = 10
    val_every: int = 0
    checkpoint_every: int = 1000
    handoff_every: int = 0
    keep_last: int = 2
    on_nonfinite: Literal["stop", "skip"] = "stop"
    timeout: int = 1800

    def __post_init__(self) -> None:
        if self.max_steps < 1 or self.accumulate < 1 or self.log_every < 1:
            raise RunError(
                "trainer.max_steps, trainer.accumulate and trainer.log_every must be at least 1, got "
                f"{self.max_steps}, {self.accumulate} and {self.log_every}"
            )
        if self.precision not in ("auto", "fp32", "bf16", "fp64"):
            raise RunError(f"trainer.precision={self.precision} is unknown: choose auto, fp32, bf16 or fp64")
        if self.strategy == "single" and self.devices * self.num_nodes > 1:
            raise RunError(f"trainer.devices={self.devices} x trainer.num_nodes={self.num_nodes} needs trainer=ddp or trainer=fsdp")
        if self.accelerator == "cuda" and torch.cuda.device_count() < self.devices:
            raise RunError(
                f"trainer.devices={self.devices} GPUs were asked for, but this machine has {torch.cuda.device_count()}: "
                "lower trainer.devices, or use trainer=cpu"
            )

    @property
    def ranks(self) -> int:
        """Count the processes."""
        return self.devices * self.num_nodes


def choose_precision(settings: TrainerSettings, *, convolves: bool, say: bool = True) -> Precision:
    """Turn `auto` into fp32 or bf16: bf16 on GPUs that have it, and on CPUs where it multiplies matrices at least 1.5 times as fast.

    Convolutions stay in fp32 on CPUs: single bf16 weight gradients of small feature maps came out as NaN there, in some steps and not in
    others (torch 2.15, AVX512-BF16).
    """
    if settings.precision != "auto":
        return settings.precision
    if settings.accelerator == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if convolves:
        return "fp32"
    seconds = {dtype: _matmul_seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    chosen: Precision = "bf16" if ratio >= 1.5 else "fp32"
    if say:
        print(f"trainer.precision=auto: bf16 matrix products run {ratio:.1f} x as fast as fp32 here, so {chosen}", file=sys.stderr)
    return chosen


def _matmul_seconds(dtype: torch.dtype) -> float:
    left, right = torch.ones(1024, 512, dtype=dtype), torch.ones(512, 1024, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        for _ in range(8):
            left @ right
        best = min(best, time.perf_counter() - started)
    return best


# -- run directories ------------------------------------------------------------------------------------------------------------------


@dataclass
class RunDirectory:
    """A claimed run directory, and the checkpoint to continue from, if any."""

    path: Path
    checkpoint: Path | None = None
    finished: bool = False
    _lock: IO[str] | None = field(default=None, repr=False)

    @classmethod
    def refuse_taken(cls, path: Path, *, resume: str) -> None:
        """Refuse a directory that is no place for a new run, touching nothing."""
        if process_rank() > 0:
            return
        holds_run = (path / "config.yaml").exists()
        if holds_run and resume == "none":
            raise RunError(f"run_dir={path} already holds a run: add resume=auto to continue it, or choose another run_dir")
        if path.exists() and not path.is_dir():
            raise RunError(f"run_dir={path} is a file: choose another run_dir")
        if path.exists() and not holds_run and any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise RunError(f"run_dir={path} is not empty and holds no run: choose another run_dir")

    @classmethod
    def claim(cls, path: Path, config: DictConfig, *, resume: str, overrides: list[str]) -> RunDirectory:
        """Make or continue the run at `path`; refuse, touching nothing, a directory whose run this is not.

        `resume` is none, auto, or the path of a checkpoint. Ranks other than the first take what it claims, and write nothing.
        """
        if process_rank() > 0:
            return cls(path, _checkpoint_for(path, resume), finished=_is_finished(path, config))
        cls.refuse_taken(path, resume=resume)
        holds_run = (path / "config.yaml").exists()
        if holds_run:
            refuse_other_config(OmegaConf.load(path / "config.yaml"), config, path)
        checkpoint = _checkpoint_for(path, resume)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, checkpoint, _lock=_locked(path))
        run.finished = _is_finished(path, config)
        if not run.finished:
            (path / MARKER).unlink(missing_ok=True)
            (path / "metrics.json").unlink(missing_ok=True)
            _write(path / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
            _write(path / "overrides.txt", "\n".join(overrides) + "\n")
        return run

    @property
    def checkpoints(self) -> Path:
        """Give the directory of checkpoints."""
        return self.path / "checkpoints"

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Write metrics.json, whose presence says that the run is done."""
        if process_rank() > 0:
            return
        _write(self.path / "metrics.json", json.dumps(metrics, indent=2) + "\n")

    def release(self) -> None:
        """Let others claim the directory."""
        if self._lock is not None:
            self._lock.close()


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def process_rank() -> int:
    """Give this process's rank from what its launcher set, also before there is a process group."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def _is_finished(path: Path, config: DictConfig) -> bool:
    try:
        done = json.loads((path / "metrics.json").read_text("utf-8"))
    except FileNotFoundError:
        return False
    return int(done.get("steps", 0)) >= config.trainer.max_steps


def _locked(path: Path) -> IO[str]:
    handle = (path / ".lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        raise RunError(f"run_dir={path} is in use by a process that is still running: wait for it, or choose another run_dir") from error
    return handle


def _checkpoint_for(path: Path, resume: str) -> Path | None:
    if resume == "none":
        return None
    if resume == "auto":
        return newest_valid(path / "checkpoints")
    if not Path(resume).is_file():
        raise RunError(f"resume={resume} is no file: give a checkpoint (step-XXXXXXX.ckpt), auto or none")
    return Path(resume)


def refuse_other_config(before: Any, now: Any, path: Path) -> None:
    """Refuse to continue a run under another configuration, listing what differs."""
    old, new = (flattened(OmegaConf.to_container(part, resolve=True)) for part in (before, now))
    differing = []
    for key in sorted(old.keys() | new.keys()):
        if key.startswith(FREE_TO_CHANGE) or old.get(key) == new.get(key):
            continue
        longer = key == "trainer.max_steps" and new.get(key, 0) > old.get(key, 0)
        automatic = key == "trainer.precision" and new.get(key) == "auto"
        if not (longer or automatic):
            differing.append(f"  {key}: {old.get(key)!r} before, {new.get(key)!r} now")
    if differing:
        raise RunError(
            f"run_dir={path} holds a run with another configuration:\n"
            + "\n".join(differing)
            + "\nrepeat its settings, or choose another run_dir"
        )


def flattened(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Turn nested containers into {"a.b": value}."""
    if isinstance(tree, dict):
        return {k: v for name, part in tree.items() for k, v in flattened(part, f"{prefix}{name}.").items()} or {prefix[:-1]: {}}
    return {prefix[:-1]: tree}


# -- training -------------------------------------------------------------------------------------------------------------------------


def train(
    module: StepModule,
    loader: Any,
    *,
    settings: TrainerSettings,
    run: RunDirectory,
    loggers: list[Any],
    callbacks: list[pl.Callback],
    step_settings: StepSettings,
    monitor: str | None = "validation/loss",
) -> pl.Trainer:
    """Train `module` to `settings.max_steps` in `run`, continuing its checkpoint if there is one."""
    quieten()
    module.settings = replace(step_settings, replay=run.path)
    if settings.precision == "fp64":
        module.double()  # before Lightning loads a checkpoint, or its float64 weights would pass through float32
    for logger in loggers:
        if isinstance(logger, CsvHistory):
            logger.cut_back(_step_of(run.checkpoint))
    saver = Checkpointing(run.checkpoints, every=settings.checkpoint_every, keep_last=settings.keep_last, monitor=monitor)
    watchdog = Watchdog(run.path, timeout=settings.timeout)
    trainer = build_trainer(settings, loggers, [watchdog, *callbacks, saver], run.path)
    trainer.fit(module, loader, ckpt_path=None if run.checkpoint is None else str(run.checkpoint), weights_only=True)
    return trainer


def _step_of(checkpoint: Path | None) -> int:
    return -1 if checkpoint is None else int(checkpoint.stem.removeprefix("step-"))


def build_trainer(settings: TrainerSettings, loggers: list[Any], callbacks: list[pl.Callback], directory: Path) -> pl.Trainer:
    """Set Lightning's Trainer up so that it loops, places and saves, and decides nothing else. `precision` has been chosen."""
    names = {"fp32": "32-true", "bf16": "bf16-mixed", "fp64": "64-true"}
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=_strategy(settings),
        precision=names[settings.precision],  # type: ignore[arg-type]
        max_steps=settings.max_steps,
        max_epochs=-1,
        logger=loggers,
        callbacks=callbacks,
        plugins=[AtomicIO(), _environment()],
        default_root_dir=directory,
        use_distributed_sampler=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.max_steps + 1,
        enable_checkpointing=any(isinstance(callback, Checkpointing) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _strategy(settings: TrainerSettings) -> Any:
    if settings.strategy == "single":
        return "auto"
    import datetime

    from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy

    patience = datetime.timedelta(seconds=settings.timeout + 60)  # the watchdog, which names the rank, speaks first
    if settings.strategy == "fsdp":
        return FSDPStrategy(timeout=patience)
    # With more than 2 ranks DDP regroups its buckets after the first step, and a resumed run would sum in another order.
    return DDPStrategy(
        process_group_backend="nccl" if settings.accelerator == "cuda" else "gloo",
        find_unused_parameters=settings.ranks > 2,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        timeout=patience,
    )


def _environment() -> Any:
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    # Requeueing is ours: Lightning's saves inside a signal handler, where optimizer states tear.
    return SLURMEnvironment(auto_requeue=False) if step_tasks() > 1 else LightningEnvironment()


def quieten() -> None:
    """Keep Lightning to errors; what a user should know, the run says itself."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\..*")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
