"""From a configuration to a finished run: builds the parts, checks that they fit, trains, hands over."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from pretraining import budget as budgets
from pretraining.callbacks.artifact import Artifact
from pretraining.callbacks.export import Export
from pretraining.callbacks.online_probe import ProbeSettings
from pretraining.callbacks.pictures import probing
from pretraining.callbacks.profile import Profile
from pretraining.callbacks.throughput import Throughput
from pretraining.callbacks.validation import Validation
from pretraining.configuration import as_run_errors, check_modalities, complete, compose, instantiate, make_loggers, rerun
from pretraining.data import modality
from pretraining.data.loader import EvalLoader, Source, StepLoader
from pretraining.distributed import convert_batchnorm
from pretraining.history import CsvHistory
from pretraining.lineage import origin_of, tags
from pretraining.objectives.base import Objective
from pretraining.objectives.continued import continue_heads
from pretraining.run import RunDirectory, RunError, process_rank
from pretraining.spawn import needs_ranks, run_ranks
from pretraining.step import StepSettings
from pretraining.tracking import WandbHistory
from pretraining.trainer import TrainerSettings, choose_precision, train

__all__ = ["Parts", "compose", "fit", "main", "run"]


@dataclass
class Parts:
    """What a run is made of."""

    objective: Objective
    preprocess: Any
    collate: Any
    train: Source
    validation: Source
    data: Any
    row: Sequence[float]  # an average training row, as FLOP counters take it: a `TextRow`, or (channels, height, width)
    facts: dict[str, float]  # about the data, that results are read against
    recipe: dict[str, Any] = field(default_factory=dict)  # configuration of objective and collate, for the hand-off
    classes: int | None = None  # of the training data; None without labels
    probe: ProbeSettings | None = None


def build(config: DictConfig) -> Parts:
    """Build the parts, data first: their errors come before any training."""
    check_modalities(config)
    with as_run_errors():
        data = instantiate(config.data)
        preprocess = instantiate(config.preprocess).fit(data)
        collate = instantiate(config.collate, preprocess=preprocess)
        sources = [modality.source_of(data, split, preprocess, collate, seed=config.seed) for split in ("train", "validation")]
        if "classes" in config.objective:
            config.objective.classes = modality.require_classes(sources[0], config.objective.classes)
        torch.manual_seed(config.seed)
        backbone = instantiate(config.backbone, **modality.backbone_arguments(preprocess))
        objective = instantiate(config.objective, backbone=backbone, optimizer=instantiate(config.optimizer))
        if config.backbone.get("init_from") is not None:
            print(continue_heads(objective, config.backbone.init_from), file=sys.stderr)
        parts = assemble_parts(objective, data, preprocess, collate, sources, overfit_batches=config.overfit_batches)
        parts.probe = None if config.probe is None else instantiate(config.probe)
    parts.recipe = {name: OmegaConf.to_container(config[name], resolve=True) for name in ("objective", "collate")}
    return parts


def assemble_parts(
    objective: Objective, data: Any, preprocess: Any, collate: Any, sources: Sequence[Any], *, overfit_batches: int = 0
) -> Parts:
    """Put built parts together with what follows from them."""
    shape, facts = modality.average_shape(sources[0], collate, preprocess), modality.facts(sources[0], sources[1], collate, preprocess)
    train_source = FirstRows(sources[0], overfit_batches * data.batch_size) if overfit_batches else sources[0]
    return Parts(objective, preprocess, collate, train_source, sources[1], data, shape, facts, classes=modality.class_count(sources[0]))


class FirstRows:
    """The first rows of a source: a model that learns at all can learn these by heart."""

    def __init__(self, source: Any, rows: int) -> None:
        self.source, self.rows = source, rows

    def count(self, epoch: int) -> int:
        """Count the rows."""
        return min(self.rows, self.source.count(epoch))

    def read(self, epoch: int, rows: Any) -> Any:
        """Read rows."""
        return self.source.read(epoch, rows)


# -- one run ------------------------------------------------------------------------------------------------------------------------------


def main(config: DictConfig, overrides: Sequence[str] = (), observers: Sequence[Any] = ()) -> Path:
    """Carry out one run, in this process or in one process per rank; returns its directory.

    `observers` are loggers that are told what the run's own are; a run of several ranks started here has none.
    """
    if config.from_run is not None:
        config = rerun(config, overrides)
    config = complete(config)
    settings: TrainerSettings = instantiate(config.trainer)
    if needs_ranks(settings):
        code = run_ranks("pretraining.launch", config, settings.devices)
        if code:
            raise SystemExit(code)
        return Path(config.run_dir)
    return run(config, overrides, observers)


def run(config: DictConfig, overrides: Sequence[str] = (), observers: Sequence[Any] = ()) -> Path:
    """Carry out one run as (one rank of) this process."""
    started = time.perf_counter()
    settings: TrainerSettings = instantiate(config.trainer)
    if not config.dry_run:
        RunDirectory.refuse_taken(Path(config.run_dir), resume=config.resume)
    parts = build(config)
    settings.precision = config.trainer.precision = choose_precision(settings, convolves=parts.objective.backbone.convolves)
    frozen = None if config.dry_run else budgets.frozen_steps(config)
    bought = frozen or budgets.steps(config.budget, settings, parts, config.data.batch_size)
    settings.max_steps = config.trainer.max_steps = bought
    if config.dry_run:
        from pretraining.dry_run import show

        show(config, settings, parts)
        return Path(config.run_dir)
    with as_run_errors():
        loaders = loaders_of(parts, settings, config.seed)
    directory = RunDirectory.claim(Path(config.run_dir), config, resume=config.resume, overrides=list(overrides))
    try:
        if directory.finished:
            print(f"run_dir={directory.path} holds this run, finished: nothing to do", file=sys.stderr)
        else:
            measured = _train(config, settings, parts, loaders, directory, observers)
            directory.write_metrics(measured | {"seconds_total": time.perf_counter() - started})
            if process_rank() == 0:
                print(f"run: {directory.path}  hand-off: {directory.path / 'handoff' / 'last'}", file=sys.stderr)
    finally:
        directory.release()
    return directory.path


def affordable_steps(config: DictConfig) -> int:
    """Count the steps that a configuration's budget buys, without running any of them."""
    settings: TrainerSettings = instantiate(config.trainer)
    parts = build(complete(config))
    settings.precision = choose_precision(settings, convolves=parts.objective.backbone.convolves)
    return budgets.steps(config.budget, settings, parts, config.data.batch_size)


def _train(
    config: DictConfig,
    settings: TrainerSettings,
    parts: Parts,
    loaders: tuple[StepLoader, EvalLoader],
    directory: RunDirectory,
    observers: Sequence[Any],
) -> dict[str, Any]:
    origin = origin_of(config, OmegaConf.to_yaml(config, resolve=True))
    known = tags(*(origin[part] for part in ("objective", "backbone", "data", "budget")))
    loggers = make_loggers(config, directory.path, job_type="pretrain", tags=known, origin=origin)
    origin["wandb"] = next((logger.path for logger in loggers if isinstance(logger, WandbHistory)), None)
    options = {"seed": config.seed, "ema": config.ema, "origin": origin, "show": config.logger.progress, "profile": config.profile}
    try:
        return fit_parts(parts, loaders, settings, directory, loggers=[*loggers, *observers], **options)
    except torch.OutOfMemoryError as error:
        raise out_of_memory(config.data.batch_size, settings, error) from error


def loaders_of(parts: Parts, settings: TrainerSettings, seed: int) -> tuple[StepLoader, EvalLoader]:
    """Make this rank's loaders of training steps and of validation batches."""
    data, ranks = parts.data, (process_rank() if settings.ranks > 1 else 0, settings.ranks)
    loader = StepLoader(
        parts.train,
        parts.collate,
        batch_size=data.batch_size,
        max_steps=settings.max_steps,
        seed=seed,
        accumulate=settings.accumulate,
        workers=data.workers,
        ranks=ranks,
    )
    full = parts.objective.coupled
    return loader, EvalLoader(parts.validation, parts.collate, batch_size=data.eval_batch_size, ranks=ranks, full_batches=full)


def fit_parts(
    parts: Parts,
    loaders: tuple[StepLoader, EvalLoader],
    settings: TrainerSettings,
    directory: RunDirectory,
    *,
    loggers: list[Any],
    seed: int,
    ema: float | None,
    origin: dict[str, Any],
    show: bool,
    profile: bool = False,
) -> dict[str, Any]:
    """Train the parts and hand them over; returns the final numbers."""
    objective, (loader, evaluation) = parts.objective, loaders
    if settings.ranks > 1:
        convert_batchnorm(objective)
    sharded = settings.strategy == "fsdp"
    objective.backbone.set_compute(compiled=settings.compile, recompute=settings.recompute, sharded=sharded)
    throughput = Throughput(
        every=settings.log_every,
        evaluated_every=settings.val_every,
        step_flops=budgets.step_flops(parts, settings),
        wait_seconds=lambda: loader.wait_seconds,
        unit="tokens" if objective.modality == "text" else "images",
        show=show,
    )
    export = Export(
        directory.path / "handoff",
        every=settings.handoff_every,
        preprocess=parts.preprocess,
        recipe=parts.recipe,
        origin=lambda: origin | {k: v for k, v in throughput.state_dict()["totals"].items() if k != "seconds"},
    )
    step_settings = StepSettings(seed, settings.max_steps, settings.clip_norm, ema, settings.on_nonfinite)
    validation = Validation(evaluation, every=settings.val_every)
    probe = probing(parts, settings.val_every, evaluation.ranks, directory.path / "pictures")
    tracing = [Profile(directory.path / "profile")] if profile else []
    trainer = train(
        objective,
        loader,
        settings=settings,
        run=directory,
        loggers=loggers,
        callbacks=[validation, *probe, throughput, export, Artifact(export.directory), *tracing],
        step_settings=step_settings,
    )
    parameters = sum(parameter.numel() for parameter in objective.parameters())
    return {"steps": trainer.global_step, "parameters": parameters, **objective.measured, **parts.facts, **throughput.summary()}


def fit(
    objective: Objective,
    data: Any,
    collate: Any,
    *,
    run_dir: str | Path,
    trainer: TrainerSettings,
    seed: int = 1,
    resume: str = "none",
) -> Path:
    """Pretrain without a configuration: train on `data` into `run_dir`, whose `handoff/last` is what finetuning takes.

    `collate` carries the preprocess it was made with. `resume` as on the command line. Returns the run directory.
    """
    preprocess = collate.preprocess
    with as_run_errors():
        sources = [modality.source_of(data, split, preprocess, collate, seed=seed) for split in ("train", "validation")]
        parts = assemble_parts(objective, data, preprocess, collate, sources)
        loaders = loaders_of(parts, trainer, seed)
    trainer.precision = choose_precision(trainer, convolves=objective.backbone.convolves)
    settings = OmegaConf.create({"trainer": vars(trainer), "seed": seed, "objective": type(objective).__name__})
    directory = RunDirectory.claim(Path(run_dir), settings, resume=resume, overrides=[])
    origin = {"objective": type(objective).__name__, "data": type(data).__name__, "seed": seed}
    try:
        if not directory.finished:
            metrics = fit_parts(
                parts,
                loaders,
                trainer,
                directory,
                loggers=[CsvHistory(directory.path / "metrics.csv")],
                seed=seed,
                ema=None,
                origin=origin,
                show=True,
            )
            directory.write_metrics(metrics)
    finally:
        directory.release()
    return directory.path


def out_of_memory(batch_size: int, settings: TrainerSettings, error: BaseException) -> RunError:
    """Explain an exhausted GPU: the micro-batch that did not fit, and the next way to cut a step."""
    micro = batch_size // (settings.ranks * settings.accumulate)
    share = batch_size // settings.ranks
    finer = next((parts for parts in range(settings.accumulate + 1, share + 1) if share % parts == 0), None)
    advice = f"try trainer.accumulate={finer}" if finer else "lower data.batch_size or take a smaller backbone"
    detail = str(error).split("\n")[0]
    return RunError(f"out of memory with micro-batches of {micro} examples: {advice} (the result stays the same). {detail}")
