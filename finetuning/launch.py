"""From a configuration to a finished finetuning run."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from finetuning.data.base import LabelledData
from finetuning.data.splits import subset
from finetuning.layers import LAST
from finetuning.metrics.reference import describe_result
from finetuning.modes import AsIs, Full, Mode
from finetuning.saving import load_head, save_model, save_results, saved_facts, saved_head
from finetuning.task import Task, TaskParts
from finetuning.training import Run, encode, finetune
from finetuning.transformers_heads import advice, native, with_native_layers
from pretraining import handoff
from pretraining.cache import read_object
from pretraining.cli import configuration
from pretraining.cli.configuration import as_run_errors, class_name, class_of, complete, decided, instantiate
from pretraining.cli.spawn import needs_ranks, run_ranks
from pretraining.data.batches import check_batch_size
from pretraining.distributed.collectives import rank
from pretraining.engine.precision import choose_precision
from pretraining.engine.trainer import TrainerSettings
from pretraining.errors import RunError, reason_of
from pretraining.handoff import Handoff, repooled
from pretraining.random import seed_everything_at, word
from pretraining.runs.directory import RunDirectory, read_config, refuse_other_config
from pretraining.runs.provenance import columns, tags
from pretraining.runs.wandb_logger import WandbHistory


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose a finetuning configuration as the command line would."""
    return configuration.compose(overrides, root="finetune")


def main(config: DictConfig, overrides: Sequence[str] = (), observers: Sequence[Any] = ()) -> Path:
    """Carry out one run, in this process or in one process per rank; returns its directory.

    `observers` are loggers that are told what the run's own are; a run of several ranks started here has none.
    """
    config = complete(config, parts=("task", "mode"))
    settings: TrainerSettings = instantiate(config.trainer)
    if settings.strategy == "fsdp":
        raise RunError("trainer=fsdp is for pretraining: finetune with trainer=ddp, or with trainer.accumulate=")
    if needs_ranks(settings):
        code = run_ranks("finetuning.launch", config, settings.devices)
        if code:
            raise SystemExit(code)
        return Path(config.run_dir)
    return run(config, overrides, observers)


def run(config: DictConfig, overrides: Sequence[str] = (), observers: Sequence[Any] = ()) -> Path:
    """Carry out one run as (one rank of) this process. Errors of its input are found before it has a directory."""
    started, path = time.perf_counter(), Path(config.run_dir)
    RunDirectory.refuse_taken(path, resume=config.resume)
    config, planned, origin = prepared(config)
    if is_finished(path, config):
        print(f"run_dir={path} holds this run, finished: nothing to do", file=sys.stderr)
        return path
    directory = RunDirectory.claim(path, config, resume=config.resume, overrides=list(overrides))
    try:
        metrics = carry_out(config, replace(planned, observers=observers), origin, directory)
        if rank() == 0:
            directory.write_metrics(metrics | {"seconds": time.perf_counter() - started})
            print(f"run: {path}", file=sys.stderr)
    finally:
        directory.release()
    return path


def prepared(config: DictConfig) -> tuple[DictConfig, Run, dict[str, Any]]:
    """Build a run: the configuration with what was decided on the way, the parts, and where the weights come from."""
    settings: TrainerSettings = instantiate(config.trainer)
    data: LabelledData = instantiate(config.data)
    if not data.varying_steps:  # before anything is read
        check_batch_size(data.batch_size, settings.accumulate, settings.ranks)
    source = read_handoff(config)
    mode: Mode = instantiate(config.mode)
    splits = data.splits(learns=mode.trains)
    splits = splits._replace(train=subset(splits.train, fraction=config.fraction, shots=config.shots, seed=config.seed))
    convolves = source.backbone.convolves
    settings.precision = choose_precision(settings.precision, settings.accelerator, convolves=convolves)
    task = build_task(config, source, class_of(config.task).collect_labels(splits), mode)
    task.learn_beforehand(splits.train)
    encoded = encode(task, splits)
    show = config.logger.progress and config.save_model and config.head == "linear" and rank() == 0
    if show and (told := advice(task)):
        print(told, file=sys.stderr)
    planned = Run(
        task=task,
        splits=encoded,
        data=data,
        settings=settings,
        seed=config.seed,
        patience=config.early_stopping,
        show=config.logger.progress,
    )
    sizes = {"data.batch_size": set_steps(config, planned)} if mode.trains else {}
    found = sizes | {f"trainer.{name}": getattr(settings, name) for name in ("precision", "max_steps")}
    config = decided(config, found | {"fingerprint": {"data": splits.digest(), "handoff": source.digest or None}})
    lineage = {"path": source.path, "sha256": source.digest, "origin": source.card["origin"]}
    return config, planned, {"handoff": config.handoff, **lineage}


def read_handoff(config: DictConfig) -> Handoff:
    """Read the weights to start from; a task or data of another modality is an error, before the data are read."""
    wanted = {"task": class_of(config.task.inputs).modality, "data": class_of(config.data).modality}
    asked = {"modality": wanted["data"], "tower": config.tower, "trust": config.trust}
    source = handoff.read(config.handoff, **asked, seed=config.seed)
    have = source.backbone.modality
    if set(wanted.values()) != {have}:
        what = f"handoff={config.handoff} is for {have}, but task={class_name(config.task)} reads {wanted['task']}"
        what += f" and data={class_name(config.data)} is {wanted['data']}"
        raise RunError(f"{what}: choose a task and data for {have}, or another hand-off")
    return source


def build_task(
    config: DictConfig, source: Handoff, labels: dict[str, Any], mode: Mode, head: Mapping[str, Tensor] | None = None
) -> Task:
    """Build the task on a hand-off; its head is drawn from the run's seed, or has the form of a finished `head`."""
    if config.head not in ("linear", "native"):
        raise RunError(f"got head={config.head}: choose linear or native")
    pooling, layers = config.pooling, None
    if config.head == "native" and mode.layers != LAST:
        raise RunError(f"got head=native and mode.layers={mode.layers}: transformers' heads read the last layer alone")
    if config.head == "native":
        layers = native(source.backbone, class_of(config.task))
        if pooling not in (None, layers.pooling):
            what = f"got pooling={pooling} and head=native, which pools by {layers.pooling} here"
            raise RunError(f"{what}: leave pooling=null")
        pooling = layers.pooling
    if pooling is not None:
        tower = source.tower._replace(backbone=repooled(source.backbone, pooling))
        source.towers = {name: tower for name in source.towers}
    seed_everything_at(config.seed, word("head"))
    task = instantiate(config.task, parts=TaskParts(source, labels, mode, instantiate(config.optimizer), head))
    if layers is not None:
        with_native_layers(task, layers)
    return task


def carry_out(config: DictConfig, planned: Run, origin: dict[str, Any], directory: RunDirectory) -> dict[str, Any]:
    """Train, test and write all but metrics.json, whose presence says that the rest is there; returns its content."""
    task, start = planned.task, origin["origin"]
    origins = map(columns(start).get, ("objective", "backbone", "data", "budget"))
    known = tags(class_name(config.task), class_name(config.mode), *origins)
    begun = start | {"handoff": origin["sha256"]}
    loggers = configuration.make_loggers(config, directory.path, job_type="finetune", tags=known, origin=begun)
    loggers += planned.observers
    trainable = sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)
    metrics, test = finetune(planned, directory, loggers)
    if rank() == 0:
        for logger in loggers:
            if isinstance(logger, WandbHistory):
                logger.log_viewed("test/pictures", task.viewed(test, planned.splits["test"]), task.global_step)
            logger.log_metrics({k: v for k, v in metrics.items() if k.startswith("test/")}, task.global_step)
            logger.finalize("success")
        save_results(directory.path, task, test, planned.splits["test"], origin)
        print(describe_result(metrics, task.select.removeprefix("-"), task.answers(test)), file=sys.stderr)
        if config.save_model:
            made = {"task": type(task).__name__, "from": config.handoff}
            save_model(directory.path / "model", task, start | made)
        shutil.rmtree(directory.checkpoints, ignore_errors=True)  # the run is over, and its best weights are in model/
    return metrics | {
        "best_step": max(task.best.step, 0),
        "steps": task.global_step,
        "train_examples": planned.splits["train"].examples.size if task.mode.trains else 0,
        "test_examples": planned.splits["test"].examples.size,
        "parameters": sum(parameter.numel() for parameter in task.parameters()),
        "trainable_parameters": trainable,
    }


def set_steps(config: DictConfig, planned: Run) -> int:
    """Count the steps of a run that learns, and announce its schedule; returns the size of its batches."""
    task, settings, train = planned.task, planned.settings, planned.splits["train"]
    with as_run_errors():
        batches = planned.data.batches(train)
        if not task.mode.closed_form:
            batches.check(settings.accumulate, settings.ranks)
    settings.max_steps = steps(config, train.examples.size, batches.rows_per_step)
    if not task.mode.closed_form:
        task.optimizer.announce(settings.max_steps)
    return batches.batch_size


def steps(config: DictConfig, examples: int, rows_per_step: float) -> int:
    """Count the optimizer steps: `epochs` over the training examples where given, else trainer.max_steps."""
    count = config.trainer.max_steps
    if config.epochs is not None:
        count = max(1, math.ceil(config.epochs * examples / rows_per_step))
    if config.mode.get("head_steps", 0) >= count:
        what = f"got mode.head_steps={config.mode.head_steps} of {count} steps, which leaves none for the backbone"
        raise RunError(f"{what}: lower it, or take mode=frozen")
    return count


def is_finished(path: Path, config: DictConfig) -> bool:
    """Tell whether `path` holds this very run, done; another configuration is an error."""
    if not (path / "metrics.json").exists():
        return False
    before = read_config(path / "config.yaml")
    refuse_other_config(before, config, path)
    if (done := before.trainer.max_steps) != config.trainer.max_steps:  # an unfinished run may be made longer
        what = f"run_dir={path} holds a run that ended after {done} steps, without a checkpoint to go on from"
        raise RunError(f"{what}: for trainer.max_steps={config.trainer.max_steps} choose another run_dir")
    return True


# -- commands on a finished run ---------------------------------------------------------------------------------------


def load_run(run_dir: Path) -> tuple[DictConfig, Task]:
    """Build the task of a finished run, with its finetuned weights; where a task learns nothing, on its hand-off."""
    if not (run_dir / "config.yaml").is_file():
        saved_facts(run_dir)
    config = read_config(run_dir / "config.yaml")
    if "task" not in config:
        raise RunError(f"run_dir={run_dir} is no run of finetuning, but of pretraining: give one of finetuning")
    config = configuration.up_to_date(config)
    learns = class_of(config.task).learns
    mode = Full(layer_decay=1.0, head_steps=0) if learns else AsIs()
    instead = "" if class_of(config.mode).trains else f"; nothing was learnt, so handoff={config.handoff} has all of it"
    facts = saved_facts(run_dir, instead) if learns else {"labels": {}}
    mode.layers = facts.get("layers", LAST)
    try:
        asked = {"modality": class_of(config.data).modality, "trust": config.get("trust") or ()}
        source = handoff.read(str(run_dir / "model" / "last"), **asked) if learns else measured(run_dir, config, asked)
        head = saved_head(run_dir) if learns else None
        task = build_task(config, source, facts["labels"], mode, head)
        if head is not None:
            load_head(task, head, facts["neighbours"])
    except (RunError, OmegaConfBaseException):
        raise
    except Exception as error:  # what was damaged since may hold anything
        what = f"run_dir={run_dir} holds a model that its files do not describe ({type(error).__name__}: "
        raise RunError(f"{what}{reason_of(error)}): restore {run_dir}/model, or finetune again") from error
    task.precision = config.trainer.precision
    return config, task.eval()


def measured(run_dir: Path, config: DictConfig, asked: dict[str, Any]) -> Handoff:
    """Read the hand-off that a run measured; one that is another by now is an error."""
    if not (run_dir / "lineage.json").is_file():
        raise RunError(f"run_dir={run_dir} holds no finished run: give one that has metrics.json")
    before = read_object(run_dir / "lineage.json")
    drawn = "random:" * config.handoff.startswith("random:")
    place = f"{drawn}{before['path']}" if before["path"] else config.handoff
    source = handoff.read(place, **asked, tower=config.tower, seed=config.seed)
    if source.digest != before["sha256"]:
        what = f"run_dir={run_dir} measured handoff={place}, which is another by now (its sha256 differs)"
        raise RunError(f"{what}: restore it, or run the task again")
    return source
