"""Lightning's Trainer, set up so that it loops, places and saves, and decides nothing else. Finetuning uses it too."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from torch import nn

from pretraining.distributed.environment import step_tasks
from pretraining.engine.batch import StepSettings
from pretraining.engine.checkpoints import AtomicIO, Checkpointing
from pretraining.engine.precision import Precision
from pretraining.engine.step import StepModule
from pretraining.engine.watchdog import Watchdog
from pretraining.errors import RunError
from pretraining.kernels import winograd
from pretraining.runs.checkpoint_files import read_checkpoint
from pretraining.runs.directory import RunDirectory
from pretraining.settings import check


@dataclass(kw_only=True)
class TrainerSettings:
    """How a run is computed. Cadences (`*_every`) are in optimizer steps; the last step is always due, at 0 it alone.

    - `accelerator`, `strategy`, `devices`, `num_nodes`: a process per device; ddp copies the weights, fsdp shards them.
    - `precision`: of forward and backward passes; auto takes bf16 where the hardware is faster at it.
    - `max_steps`, `accumulate`: optimizer steps of the run, and micro-batches per step and rank.
    - `clip_norm`: the largest norm of a gradient; a longer one is scaled down. None: no limit.
    - `clip_each`: that is each tensor's own, not that of all together.
    - `log_every`, `val_every`, `checkpoint_every`, `handoff_every`: when to log, evaluate, save and hand over.
    - `keep_last`: newest checkpoints that are kept beside the best. `background_checkpoints`: write a copy of the state
      while training goes on.
    - `on_nonfinite`: whether a gradient that is not finite stops the run or skips its step.
    - `compile`: compile the backbone's layers. `activation_checkpointing`: keep their inputs alone and compute the rest
      again in the backward pass.
    - `winograd`: let 3x3 convolutions in bf16 on CPUs use the algorithm of `pretraining.kernels.winograd`.
    - `timeout`: seconds without progress after which a rank gives up and names the rank that it waits for.
    """

    accelerator: Literal["cpu", "cuda"] = "cpu"
    strategy: Literal["single", "ddp", "fsdp"] = "single"
    devices: int = 1
    num_nodes: int = 1
    precision: Precision = "auto"
    max_steps: int = 1000
    accumulate: int = 1
    clip_norm: float | None = 1.0
    clip_each: bool = False
    log_every: int = 20
    val_every: int = 200
    checkpoint_every: int = 200
    handoff_every: int = 0
    keep_last: int = 2
    background_checkpoints: bool = False
    on_nonfinite: Literal["stop", "skip"] = "stop"
    compile: bool = False
    activation_checkpointing: bool = False
    winograd: bool = True
    timeout: int = 1800

    def __post_init__(self) -> None:
        check(vars(self), "trainer")
        if self.strategy == "single" and self.devices * self.num_nodes > 1:
            what = f"trainer.devices={self.devices} x trainer.num_nodes={self.num_nodes}"
            raise RunError(f"{what} needs trainer=ddp or trainer=fsdp")
        if self.accelerator == "cuda" and torch.cuda.device_count() < self.devices:
            what = f"trainer.devices={self.devices} GPUs were asked for: this machine has {torch.cuda.device_count()}"
            raise RunError(f"{what}: lower trainer.devices, or use trainer=cpu")

    @property
    def ranks(self) -> int:
        """Count the processes."""
        return self.devices * self.num_nodes


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
    choose_kernels(module, settings)
    if run.checkpoint is not None:
        refuse_misfit(module, run.checkpoint)
    cut_back(loggers, run)
    every, keep_last = settings.checkpoint_every, settings.keep_last
    saver = Checkpointing(run, every=every, keep_last=keep_last, monitor=monitor)
    watchdog = Watchdog(run.path, timeout=settings.timeout)
    trainer = build_trainer(settings, loggers, [watchdog, *callbacks, saver], run.path)
    trainer.fit(module, loader, ckpt_path=None if run.checkpoint is None else str(run.checkpoint), weights_only=True)
    return trainer


def cut_back(loggers: list[Any], run: RunDirectory) -> None:
    """Drop what the history holds behind the step that `run` continues from."""
    for logger in loggers:
        if hasattr(logger, "cut_back"):
            logger.cut_back(-1 if run.checkpoint is None else run.step)


def refuse_misfit(module: StepModule, checkpoint: Path) -> None:
    """Refuse a checkpoint whose weights or whose optimizer are not those of `module`."""
    content = read_checkpoint(checkpoint)
    cure = "continue it with the settings of its run, or start from its weights with backbone.init_from="
    old, new = content["state_dict"], module.state_dict()
    for name in sorted(old.keys() | new.keys()):
        before, now = (tuple(part[name].shape) if name in part else "none" for part in (old, new))
        if before != now:
            raise RunError(f"resume={checkpoint} is of another model ({name}: {before} before, {now} now): {cure}")
    groups = module.configure_optimizers()[0][0].state_dict()["param_groups"]
    saved = content["optimizer_states"][0]["param_groups"]
    sizes = [[len(group["params"]) for group in part] for part in (saved, groups)]
    if sizes[0] != sizes[1] or any(before.keys() - now.keys() for before, now in zip(saved, groups, strict=True)):
        raise RunError(f"resume={checkpoint} is of another optimizer: {cure}")


def choose_kernels(module: nn.Module, settings: TrainerSettings) -> None:
    """Let a module use the hand-written kernels that the settings allow, with each pixel's channels side by side."""
    winograd.allow(module, settings.winograd)
    module.to(memory_format=torch.channels_last)  # or each convolution would reorder its weights in each step


def build_trainer(
    settings: TrainerSettings, loggers: list[Any], callbacks: list[pl.Callback], directory: Path
) -> pl.Trainer:
    """Build a Trainer that loops, places and saves, and decides nothing else; `precision` has been chosen before."""
    names = {"fp32": "32-true", "bf16": "bf16-mixed", "fp64": "64-true"}
    # Lightning knows no float64 for sharded weights; `train` has made them so, and tokens need no conversion.
    precision = "fp32" if settings.strategy == "fsdp" and settings.precision == "fp64" else settings.precision
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=_strategy(settings),
        precision=names[precision],  # type: ignore[arg-type]
        max_steps=settings.max_steps,
        max_epochs=-1,
        logger=loggers,
        callbacks=callbacks,
        plugins=[AtomicIO(background=settings.background_checkpoints), _environment()],
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

    from pytorch_lightning.strategies import DDPStrategy

    backend = "nccl" if settings.accelerator == "cuda" else "gloo"
    patience = datetime.timedelta(seconds=settings.timeout + 60)  # the watchdog, which names the rank, speaks first
    if settings.strategy == "fsdp":
        from pretraining.distributed.fsdp import ShardedStrategy

        return ShardedStrategy(backend=backend, timeout=patience)
    # With more than 2 ranks DDP regroups its buckets after the first step: a resumed run would sum in another order.
    return DDPStrategy(
        process_group_backend=backend,
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
