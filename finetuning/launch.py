"""From a configuration to a finished finetuning run."""

from __future__ import annotations

import functools
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from finetuning.data.base import LabelledData
from finetuning.data.splits import Splits, subset
from finetuning.inputs.base import Encoded
from finetuning.saving import build_task, lineage, load_head, save_model, save_predictions, save_report, saved_facts
from finetuning.task import Task
from finetuning.training import encode, finetune
from pretraining import handoff
from pretraining.cli.configuration import class_name, class_of, complete, instantiate, make_loggers
from pretraining.cli.configuration import compose as compose_any
from pretraining.cli.spawn import needs_ranks, run_ranks
from pretraining.distributed.collectives import rank
from pretraining.distributed.environment import process_rank
from pretraining.engine.precision import Precision, choose_precision
from pretraining.engine.trainer import TrainerSettings
from pretraining.errors import RunError
from pretraining.runs.directory import RunDirectory, refuse_other_config
from pretraining.runs.provenance import columns, tags


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose a finetuning configuration as the command line would."""
    return compose_any(overrides, root="finetune")


def main(config: DictConfig, overrides: Sequence[str] = ()) -> Path:
    """Carry out one run, in this process or in one process per rank; returns its directory."""
    config = complete(config, parts=("task", "mode"))
    settings: TrainerSettings = instantiate(config.trainer)
    if settings.strategy == "fsdp":
        raise RunError(
            "trainer=fsdp is for pretraining: finetune with trainer=ddp, or trainer=gpu and trainer.accumulate="
        )
    if needs_ranks(settings):
        code = run_ranks("finetuning.launch", config, settings.devices)
        if code:
            raise SystemExit(code)
        return Path(config.run_dir)
    return run(config, overrides)


def run(config: DictConfig, overrides: Sequence[str] = ()) -> Path:
    """Carry out one run as (one rank of) this process. What can be wrong with the input is found before the directory is made."""
    started = time.perf_counter()
    path = Path(config.run_dir)
    RunDirectory.refuse_taken(path, resume=config.resume)
    source = handoff.read(config.handoff, seed=config.seed)
    refuse_modality(config, source)
    data: LabelledData = instantiate(config.data)
    splits = data.splits()
    splits = splits._replace(train=subset(splits.train, fraction=config.fraction, shots=config.shots, seed=config.seed))
    settings: TrainerSettings = instantiate(config.trainer)
    settings.precision = config.trainer.precision = precision(
        settings.accelerator, settings.precision, source.backbone.convolves
    )
    settings.max_steps = config.trainer.max_steps = steps(config, splits)
    task = build_task(config, source, class_of(config.task).survey(splits))
    encoded = encode(task, splits)
    if is_finished(path, config):
        print(f"run_dir={path} holds this run, finished: nothing to do", file=sys.stderr)
        return path
    directory = RunDirectory.claim(path, config, resume=config.resume, overrides=list(overrides))
    try:
        metrics = _finetune(config, task, encoded, data, settings, directory, lineage(config.handoff, source))
        if rank() == 0:
            directory.write_metrics(metrics | {"seconds": time.perf_counter() - started})
            print(
                f"run: {path}  " + "  ".join(f"{k} {v:.4f}" for k, v in headline(task, metrics).items()),
                file=sys.stderr,
            )
    finally:
        directory.release()
    return path


def _finetune(
    config: DictConfig,
    task: Task,
    encoded: dict[str, Encoded],
    data: LabelledData,
    settings: TrainerSettings,
    directory: RunDirectory,
    origin: dict[str, Any],
) -> dict[str, Any]:
    """Train, judge and write everything but metrics.json, whose presence says that the rest is there."""
    start = origin["origin"]
    known = tags(
        class_name(config.task),
        class_name(config.mode),
        *map(columns(start).get, ("objective", "backbone", "data", "budget")),
    )
    loggers = make_loggers(
        config, directory.path, job_type="finetune", tags=known, origin=start | {"handoff": origin["sha256"]}
    )
    ranks = (process_rank(), settings.ranks) if settings.ranks > 1 else (0, 1)
    trainable = sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)
    outcome = finetune(
        task,
        encoded,
        data=data,
        settings=settings,
        run=directory,
        seed=config.seed,
        loggers=loggers,
        patience=config.early_stopping,
        ranks=ranks,
        show=config.logger.progress,
    )
    total = sum(parameter.numel() for parameter in task.parameters())
    facts = {
        "best_step": task.best.step,
        "steps": task.global_step,
        "train_examples": encoded["train"].examples.size,
        "test_examples": encoded["test"].examples.size,
        "parameters": total,
        "trainable_parameters": trainable,
    }
    if rank() == 0:
        for logger in loggers:
            logger.log_metrics({k: v for k, v in outcome.metrics.items() if k.startswith("test/")}, task.global_step)
            logger.finalize("success")
        save_predictions(directory.path / "predictions.parquet", task.table(outcome.test))
        save_report(directory.path / "test_report.json", task, outcome.test)
        (directory.path / "lineage.json").write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
        if config.save_model:
            save_model(
                directory.path / "model", task, origin["origin"] | {"task": type(task).__name__, "from": config.handoff}
            )
        shutil.rmtree(directory.checkpoints, ignore_errors=True)  # the run is over, and its best weights are in model/
    return outcome.metrics | facts


def refuse_modality(config: DictConfig, source: handoff.Handoff) -> None:
    """Refuse a task on another kind of data than the hand-off's, before the data are read."""
    wanted = {"task": class_of(config.task).modality, "data": class_of(config.data).modality}
    have = source.card["modality"]
    if set(wanted.values()) != {have}:
        raise RunError(
            f"handoff={config.handoff} is for {have}, but task={class_name(config.task)} reads {wanted['task']} and "
            f"data={class_name(config.data)} is {wanted['data']}: choose a task and data for {have}, or another hand-off"
        )


def steps(config: DictConfig, splits: Splits) -> int:
    """Give the number of optimizer steps: `epochs` over the training examples where given, else trainer.max_steps."""
    if config.epochs is None:
        return config.trainer.max_steps
    if not config.epochs > 0:
        raise RunError(f"got epochs={config.epochs}: give a number above 0, or null for trainer.max_steps")
    return max(1, math.ceil(config.epochs * splits.train.size / config.data.batch_size))


@functools.cache
def precision(accelerator: Literal["cpu", "cuda"], wanted: Precision, convolves: bool) -> Precision:
    """Choose the precision, measured once per process: the runs of a study share it."""
    return choose_precision(wanted, accelerator, convolves=convolves, say=False)


def is_finished(path: Path, config: DictConfig) -> bool:
    """Tell whether `path` holds this very run, done; another configuration is an error."""
    if not (path / "metrics.json").exists():
        return False
    refuse_other_config(OmegaConf.load(path / "config.yaml"), config, path)
    return True


def headline(task: Task, metrics: dict[str, Any]) -> dict[str, float]:
    """Pick the numbers that are printed at the end."""
    name = task.select.removeprefix("-")
    return {key: metrics[key] for key in (f"validation/{name}", f"test/{name}") if key in metrics}


def load_run(run_dir: Path) -> tuple[DictConfig, Task]:
    """Build the task of a finished run, with its finetuned weights."""
    facts = saved_facts(run_dir)
    config = OmegaConf.load(run_dir / "config.yaml")
    assert isinstance(config, DictConfig)
    config.pooling, config.mode = None, {"_target_": "finetuning.modes.Full", "layer_decay": 1.0, "head_steps": 0}
    task = build_task(config, handoff.read(str(run_dir / "model" / "last")), facts["labels"])
    load_head(task, run_dir)
    return config, task.eval()
