"""From a configuration to a finished run: builds the parts, checks that they fit, trains, hands over."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from pretraining.budget import affordable_steps as steps_of
from pretraining.budget import frozen_steps
from pretraining.callbacks.standard import standard_callbacks
from pretraining.cli.configuration import as_run_errors, complete, compose, decided, instantiate, make_loggers
from pretraining.cli.rerun import rerun
from pretraining.cli.spawn import needs_ranks, run_ranks
from pretraining.data.loader import EvalLoader, StepLoader
from pretraining.distributed.batchnorm import convert_batchnorm
from pretraining.distributed.environment import process_rank
from pretraining.engine.batch import StepSettings
from pretraining.engine.precision import choose_precision
from pretraining.engine.terminal import describe_quality
from pretraining.engine.trainer import TrainerSettings, train
from pretraining.errors import NO_STATISTICS, RunError, out_of_memory, too_few_for_statistics
from pretraining.parts import Made, Parts, build
from pretraining.runs.directory import RunDirectory
from pretraining.runs.provenance import fingerprint_of, origin_of, tags
from pretraining.runs.wandb_logger import WandbHistory

__all__ = ["Parts", "build", "compose", "main", "run"]


@dataclass
class Run:
    """A run before its directory is claimed: its parts, and what was decided about it, which `config` records."""

    config: DictConfig
    parts: Parts
    settings: TrainerSettings
    overrides: Sequence[str] = ()
    observers: Sequence[Any] = ()  # loggers that are told what the run's own are
    started: float = field(default_factory=time.perf_counter)


# -- one run -----------------------------------------------------------------------------------------------------------


def main(
    config: DictConfig, overrides: Sequence[str] = (), observers: Sequence[Any] = (), made: Made | None = None
) -> Path:
    """Carry out one run, in this process or in one process per rank; returns its directory.

    `observers` are loggers that are told what the run's own are; a run of several ranks started here has none. Parts
    that were `made` by hand are what `config` describes.
    """
    if config.from_run is not None:
        config = rerun(config, overrides)
    config = complete(config)
    settings: TrainerSettings = instantiate(config.trainer)
    if needs_ranks(settings):
        if made is not None:
            what = f"trainer.devices={settings.devices} starts processes, which parts of this one cannot be taken to"
            raise RunError(f"{what}: start this script by torchrun --nproc-per-node={settings.devices}")
        code = run_ranks("pretraining.launch", config, settings.devices)
        if code:
            raise SystemExit(code)
        return Path(config.run_dir)
    return run(config, overrides, observers, made)


def run(
    config: DictConfig, overrides: Sequence[str] = (), observers: Sequence[Any] = (), made: Made | None = None
) -> Path:
    """Carry out one run as (one rank of) this process."""
    if not config.dry_run:
        RunDirectory.refuse_taken(Path(config.run_dir), resume=config.resume)
    planned = prepared(config, frozen_steps(config) if not config.dry_run else None, made)
    if config.dry_run:
        from pretraining.dry_run import show

        set_compute(planned)
        show(planned.config, planned.settings, planned.parts)
        return Path(config.run_dir)
    return carry_out(replace(planned, overrides=overrides, observers=observers))


def prepared(config: DictConfig, steps: int | None = None, made: Made | None = None) -> Run:
    """Build a configuration's parts and decide what it leaves open: precision, steps (unless given) and classes."""
    started = time.perf_counter()
    settings: TrainerSettings = instantiate(config.trainer)
    parts = build(config, made)
    convolves = parts.objective.backbone.convolves
    settings.precision = choose_precision(settings.precision, settings.accelerator, convolves=convolves)
    settings.max_steps = steps or steps_of(config.budget, settings, parts)
    parts.objective.optimizer.announce(settings.max_steps)
    found = {f"trainer.{name}": getattr(settings, name) for name in ("precision", "max_steps")}
    found |= {"data.batch_size": parts.batches.batch_size, "fingerprint": fingerprint_of(parts.data, parts.preprocess)}
    if "classes" in config.objective:
        found["objective.classes"] = parts.recipe["objective"]["classes"]
    return Run(decided(config, found), parts, settings, started=started)


def affordable_steps(config: DictConfig) -> int:
    """Count the steps that a configuration's budget buys, without running any of them."""
    return prepared(complete(config)).settings.max_steps


def carry_out(planned: Run) -> Path:
    """Claim the run's directory, train in it, write the final numbers and release it; returns the directory."""
    config, settings = planned.config, planned.settings
    with as_run_errors():
        loaders = loaders_of(planned.parts, settings, config.seed)
    overrides = list(planned.overrides)
    directory = RunDirectory.claim(Path(config.run_dir), config, resume=config.resume, overrides=overrides)
    try:
        if directory.finished:
            print(f"run_dir={directory.path} holds this run, finished: nothing to do", file=sys.stderr)
            return directory.path
        if config.logger.progress and process_rank() == 0:
            print(describe(planned), file=sys.stderr)
        measured = train_parts(planned, loaders, directory)
        directory.write_metrics(measured | {"seconds_total": time.perf_counter() - planned.started})
        if process_rank() == 0:
            reached = describe_quality(measured, planned.parts.facts, planned.parts.validation.count(0))
            print(reached, file=sys.stderr, end="\n" if reached else "")
            print(f"run: {directory.path}  hand-off: {directory.path / 'handoff' / 'last'}", file=sys.stderr)
    except torch.OutOfMemoryError as error:
        raise out_of_memory(config.data.batch_size, settings.ranks, settings.accumulate, error) from error
    except ValueError as error:
        if NO_STATISTICS not in str(error):
            raise
        raise too_few_for_statistics(config.data.batch_size, settings.ranks, settings.accumulate) from error
    finally:
        directory.release()
    return directory.path


def describe(planned: Run) -> str:
    """Say what a run reads and by which rates it learns."""
    parts, steps = planned.parts, planned.settings.max_steps
    rows, units, unit = parts.train.count(0), parts.row.units, parts.data.modality.unit
    counted = "" if units == 1.0 else f" ({rows * units:,.0f} {unit})"
    read = f"{rows:,} training rows{counted}, {parts.validation.count(0):,} validation rows"
    data = f"data: {type(parts.data).__name__}, {read}; {parts.preprocess.describe()}"
    return f"{data}\nschedule: {parts.objective.optimizer.describe(steps)}"


def loaders_of(parts: Parts, settings: TrainerSettings, seed: int) -> tuple[StepLoader, EvalLoader]:
    """Make this rank's loaders of training steps and of validation batches."""
    data, ranks = parts.data, (process_rank() if settings.ranks > 1 else 0, settings.ranks)
    size: dict[str, Any] = {"batch_size": parts.batches, "accumulate": settings.accumulate, "workers": data.workers}
    loader = StepLoader(parts.train, parts.collate, **size, max_steps=settings.max_steps, seed=seed, ranks=ranks)
    shape = {"batch_size": data.eval_batch_size}
    if parts.objective.coupled:  # compared with as many as in training, in micro-batches, whose size fits in memory
        pieces = settings.accumulate * settings.ranks
        shape = {"batch_size": parts.batches.batch_size, "full_batches": True, "pieces": pieces}
    return loader, EvalLoader(parts.validation, parts.collate, **shape, ranks=ranks)


def set_compute(planned: Run) -> None:
    """Tell the backbone how it is computed; what it has not is a `RunError`."""
    settings = planned.settings
    compute = {"compiled": settings.compile, "activation_checkpointing": settings.activation_checkpointing}
    with as_run_errors():
        planned.parts.objective.backbone.set_compute(**compute, sharded=settings.strategy == "fsdp")


def train_parts(planned: Run, loaders: tuple[StepLoader, EvalLoader], directory: RunDirectory) -> dict[str, Any]:
    """Train the parts and hand them over; returns the final numbers."""
    config, parts, settings = planned.config, planned.parts, planned.settings
    model = parts.objective
    if settings.ranks > 1:
        convert_batchnorm(model)
    set_compute(planned)
    origin = origin_of(config, OmegaConf.to_yaml(config, resolve=True), parts.data.modality.unit)
    loggers = [*run_loggers(config, directory, origin), *planned.observers]
    callbacks, throughput = standard_callbacks(config, parts, settings, loaders, directory.path, origin)
    steps = StepSettings(config.seed, settings.max_steps, settings.clip_norm, config.ema, settings.on_nonfinite)
    steps.batch_size, steps.clip_each = parts.batches.batch_size, settings.clip_each
    trainer = train(
        model, loaders[0], settings=settings, run=directory, loggers=loggers, callbacks=callbacks, step_settings=steps
    )
    for remark in model.remarks() if process_rank() == 0 else ():
        print(remark, file=sys.stderr)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    counted = {"steps": trainer.global_step, "parameters": parameters, **model.optimizer.rates(settings.max_steps)}
    return counted | model.measured | parts.facts | throughput.summary()


def run_loggers(config: DictConfig, directory: RunDirectory, origin: dict[str, Any]) -> list[Any]:
    """Make the run's own loggers; `origin` gets the W&B run that its weights come from."""
    known = tags(*(origin[part] for part in ("objective", "backbone", "data", "budget")))
    loggers = make_loggers(config, directory.path, job_type="pretrain", tags=known, origin=origin)
    origin["wandb"] = next((logger.path for logger in loggers if isinstance(logger, WandbHistory)), None)
    return loggers
