"""From a configuration to a finished run: builds the parts, checks that they fit, trains, hands over."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretraining import budget as budgets
from pretraining.callbacks.export import Export
from pretraining.callbacks.throughput import Throughput
from pretraining.callbacks.validation import Validation
from pretraining.checkpoints import CheckpointError
from pretraining.data import modality
from pretraining.data.loader import EvalLoader, Source, StepLoader
from pretraining.distributed import convert_batchnorm
from pretraining.handoff import HandoffError
from pretraining.history import CsvHistory, WandbHistory
from pretraining.objectives.base import Objective
from pretraining.run import RunDirectory, RunError, TrainerSettings, choose_precision, train
from pretraining.spawn import launched, run_ranks
from pretraining.step import NonFiniteError, StepSettings

CONF = Path(__file__).resolve().parents[1] / "conf"


# -- configuration ----------------------------------------------------------------------------------------------------------------------


def compose(overrides: Sequence[str], root: str = "pretrain") -> DictConfig:
    """Compose a configuration as the command line would; raise `RunError` for an unknown or missing key."""
    import hydra
    from hydra.errors import HydraException

    try:
        with hydra.initialize_config_dir(str(CONF), version_base=None):
            config = hydra.compose(root, overrides=list(overrides))
        refuse_missing(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise RunError(" ".join(str(error).split("\nSet the environment")[0].split("\n"))) from error
    return config


def refuse_missing(config: DictConfig) -> None:
    """Refuse mandatory keys without a value, naming them."""
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise RunError(f"no value for {', '.join(missing)}: give {' '.join(f'{key}=...' for key in missing)}")


def instantiate(node: Any, **parts: Any) -> Any:
    """Build what `node` describes, with `parts` handed to it as they are; a wrong value is a `RunError`."""
    import hydra
    from hydra.errors import InstantiationException

    try:
        return hydra.utils.instantiate(node, _convert_="all", _partial_=True)(**parts)
    except InstantiationException as error:
        raise RunError(f"{node.get('_target_')}: {error}") from error


def rerun(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Take the configuration of the finished run `config.from_run`, with `overrides` on top."""
    path = Path(config.from_run) / "config.yaml"
    if not path.is_file():
        raise RunError(f"from_run={config.from_run}: no config.yaml there; give the directory of a run")
    base = OmegaConf.load(path)
    assert isinstance(base, DictConfig)
    base.run_dir, base.resume = None, "none"
    OmegaConf.set_struct(base, True)
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key == "from_run":
            continue
        if OmegaConf.is_dict(OmegaConf.select(base, key)):
            raise RunError(f"{override}: with from_run= single values can change, but {key} is a group; start a new run for that")
        try:
            OmegaConf.update(base, key, OmegaConf.create(f"value: {value}").value)
        except OmegaConfBaseException as error:
            raise RunError(f"{override}: {path} has no such key") from error
    return base


def check_modalities(config: DictConfig) -> None:
    """Refuse parts that do not read the same kind of data, before anything is built."""
    import hydra

    kinds = {part: hydra.utils.get_class(config[part]._target_).modality for part in ("objective", "data", "backbone")}
    if len(set(kinds.values())) > 1:
        raise RunError(
            f"objective={_class_name(config.objective)} learns from {kinds['objective']}, data={_class_name(config.data)} is {kinds['data']} and "
            f"backbone={_class_name(config.backbone)} reads {kinds['backbone']}: choose three of one kind"
        )


def _class_name(node: DictConfig) -> str:
    return node._target_.rpartition(".")[2]


def default_run_dir(config: DictConfig) -> str:
    """Name a run's directory: after the job on a Slurm cluster, where it must outlive requeues; else after what and when."""
    job = os.environ.get("SLURM_JOB_ID")
    if job and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        return f"runs/slurm-{array}_{task}" if array else f"runs/slurm-{job}"
    return f"runs/{config.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def complete(config: DictConfig) -> DictConfig:
    """Fill in what depends on the place: name, run directory, resume on a cluster, precision."""
    config = config.copy()
    OmegaConf.set_struct(config, True)
    if config.name is None:
        config.name = f"{_class_name(config.objective)}-{_class_name(config.data)}"
    if config.run_dir is None:
        config.run_dir = default_run_dir(config)
        if config.run_dir.startswith("runs/slurm-"):
            config.resume = "auto"
    return config


# -- parts --------------------------------------------------------------------------------------------------------------------------------


@dataclass
class Parts:
    """What a run is made of."""

    objective: Objective
    preprocess: Any
    collate: Any
    train: Source
    validation: Source
    data: Any
    flops_shape: tuple[int, ...]  # of an average training row, as `Backbone.forward_flops` takes it
    facts: dict[str, float]  # about the data, that results are read against
    recipe: dict[str, Any] = field(default_factory=dict)  # configuration of objective and collate, for the hand-off


def build(config: DictConfig) -> Parts:
    """Build the parts, data first: their errors come before any training."""
    check_modalities(config)
    try:
        data = instantiate(config.data)
        preprocess = instantiate(config.preprocess).fit(data)
        collate = instantiate(config.collate, preprocess=preprocess)
        sources = [modality.source_of(data, split, preprocess, collate, seed=config.seed) for split in ("train", "validation")]
        torch.manual_seed(config.seed)
        backbone = instantiate(config.backbone, **modality.backbone_arguments(preprocess))
        objective = instantiate(config.objective, backbone=backbone, optimizer=instantiate(config.optimizer))
    except (ValueError, OSError) as error:
        raise RunError(str(error)) from error
    parts = assemble_parts(objective, data, preprocess, collate, sources, overfit_batches=config.overfit_batches)
    parts.recipe = {name: OmegaConf.to_container(config[name], resolve=True) for name in ("objective", "collate")}
    return parts


def assemble_parts(
    objective: Objective, data: Any, preprocess: Any, collate: Any, sources: Sequence[Any], *, overfit_batches: int = 0
) -> Parts:
    """Put built parts together with what follows from them."""
    shape, facts = modality.average_shape(sources[0], preprocess), modality.facts(*sources, collate, preprocess)
    train_source = FirstRows(sources[0], overfit_batches * data.batch_size) if overfit_batches else sources[0]
    return Parts(objective, preprocess, collate, train_source, sources[1], data, shape, facts)


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


# -- one run --------------------------------------------------------------------------------------------------------------------------------


def main(config: DictConfig, overrides: Sequence[str] = ()) -> Path:
    """Carry out one run, in this process or in one process per rank; returns its directory."""
    if config.from_run is not None:
        config = rerun(config, overrides)
    config = complete(config)
    settings: TrainerSettings = instantiate(config.trainer)
    if settings.devices > 1 and not launched():
        code = run_ranks("pretraining.launch", config, settings.devices)
        if code:
            raise SystemExit(code)
        return Path(config.run_dir)
    return run(config, overrides)


def run(config: DictConfig, overrides: Sequence[str] = ()) -> Path:
    """Carry out one run as (one rank of) this process."""
    started = time.perf_counter()
    settings: TrainerSettings = instantiate(config.trainer)
    if not config.dry_run:
        RunDirectory.refuse_taken(Path(config.run_dir), resume=config.resume)
    parts = build(config)
    settings.precision = config.trainer.precision = choose_precision(settings)
    settings.max_steps = config.trainer.max_steps = budgets.steps(config.budget, settings, parts, config.data.batch_size)
    if config.dry_run:
        from pretraining.dry_run import show

        show(config, settings, parts)
        return Path(config.run_dir)
    directory = RunDirectory.claim(Path(config.run_dir), config, resume=config.resume, overrides=list(overrides))
    try:
        if directory.finished:
            print(f"run_dir={directory.path} holds this run, finished: nothing to do", file=sys.stderr)
        else:
            directory.write_metrics(_train(config, settings, parts, directory, started))
            print(f"run: {directory.path}  hand-off: {directory.path / 'handoff' / 'last'}", file=sys.stderr)
    finally:
        directory.release()
    return directory.path


def _train(config: DictConfig, settings: TrainerSettings, parts: Parts, directory: RunDirectory, started: float) -> dict[str, Any]:
    loggers = make_loggers(config, directory.path, job_type="pretrain", tags=[config.name])
    try:
        metrics = fit_parts(
            parts, settings, directory, loggers=loggers, seed=config.seed, ema=config.ema, origin=_origin(config), show=config.logger.progress
        )
    except torch.OutOfMemoryError as error:
        raise out_of_memory(config.data.batch_size, settings, error) from error
    return metrics | {"seconds_total": time.perf_counter() - started}


def fit_parts(
    parts: Parts,
    settings: TrainerSettings,
    directory: RunDirectory,
    *,
    loggers: list[Any],
    seed: int,
    ema: float | None,
    origin: dict[str, Any],
    show: bool,
) -> dict[str, Any]:
    """Train the parts and hand them over; returns the final numbers."""
    objective, data = parts.objective, parts.data
    if settings.ranks > 1:
        convert_batchnorm(objective)
    ranks = (int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))), settings.ranks) if settings.ranks > 1 else (0, 1)
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
    evaluation = EvalLoader(
        parts.validation, parts.collate, batch_size=data.eval_batch_size, ranks=ranks, full_batches=objective.coupled
    )
    throughput = Throughput(
        every=settings.log_every,
        step_flops=step_flops(objective, parts.flops_shape),
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
    trainer = train(
        objective,
        loader,
        settings=settings,
        run=directory,
        loggers=loggers,
        callbacks=[Validation(evaluation, every=settings.val_every), throughput, export],
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
    try:
        sources = [modality.source_of(data, split, preprocess, collate, seed=seed) for split in ("train", "validation")]
    except (ValueError, OSError) as error:
        raise RunError(str(error)) from error
    trainer.precision = choose_precision(trainer)
    settings = OmegaConf.create({"trainer": vars(trainer), "seed": seed, "objective": type(objective).__name__})
    directory = RunDirectory.claim(Path(run_dir), settings, resume=resume, overrides=[])
    origin = {"objective": type(objective).__name__, "data": type(data).__name__, "seed": seed}
    try:
        if not directory.finished:
            metrics = fit_parts(
                assemble_parts(objective, data, preprocess, collate, sources),
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


def step_flops(objective: Objective, shape: tuple[int, ...]) -> Any:
    """Count a step's operations from what is in it: per token for text (padding is not counted), per image else."""
    per_row = objective.step_flops(shape)
    if objective.modality == "text":
        return lambda step: per_row / shape[0] * step.tokens
    return lambda step: per_row * step.examples


def make_loggers(config: DictConfig, directory: Path, *, job_type: str, tags: list[str]) -> list[Any]:
    """Make metrics.csv and W&B, both on unless switched off."""
    loggers: list[Any] = [CsvHistory(directory / "metrics.csv")] if config.logger.csv else []
    if config.logger.wandb.mode != "disabled":
        plain: Any = OmegaConf.to_container(config, resolve=True)
        options = {"project": config.logger.wandb.project, "mode": config.logger.wandb.mode, "name": config.name, "group": config.group}
        loggers.append(WandbHistory(directory, **options, job_type=job_type, tags=[*config.logger.wandb.tags, *tags], config=plain))
    return loggers


def _origin(config: DictConfig) -> dict[str, Any]:
    """Tell where the weights come from, as far as it is known before training."""
    import hashlib

    digest = hashlib.sha256(OmegaConf.to_yaml(config, resolve=True).encode()).hexdigest()[:16]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=CONF.parent, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "objective": _class_name(config.objective),
        "backbone": _class_name(config.backbone),
        "data": _class_name(config.data),
        "seed": config.seed,
        "config": digest,
        "git_commit": commit or None,
    }


def out_of_memory(batch_size: int, settings: TrainerSettings, error: BaseException) -> RunError:
    """Explain an exhausted GPU: the micro-batch that did not fit, and the next way to cut a step."""
    micro = batch_size // (settings.ranks * settings.accumulate)
    share = batch_size // settings.ranks
    finer = next((parts for parts in range(settings.accumulate + 1, share + 1) if share % parts == 0), None)
    advice = f"try trainer.accumulate={finer}" if finer else "lower data.batch_size or take a smaller backbone"
    detail = str(error).split("\n")[0]
    return RunError(f"out of memory with micro-batches of {micro} examples: {advice} (the result stays the same). {detail}")


@contextlib.contextmanager
def exit_cleanly() -> Iterator[None]:
    """Turn errors that a user can mend into one message on stderr and exit code 2; the rest keeps its traceback."""
    try:
        yield
    except (RunError, HandoffError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (CheckpointError, NonFiniteError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
