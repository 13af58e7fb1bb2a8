"""From a task and its data to judged test predictions, in one order for every task and mode."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from finetuning.closed_form import solve
from finetuning.data.base import LabelledData
from finetuning.data.splits import SPLITS, Splits
from finetuning.inputs.base import Encoded
from finetuning.inputs.cached import Cached
from finetuning.metrics.classification import Numbers
from finetuning.task import Judged, Task
from finetuning.watch import StayOpen, Watch
from pretraining.data.loader import EvalLoader, StepLoader
from pretraining.distributed.collectives import rank, world_size
from pretraining.engine.batch import StepSettings
from pretraining.engine.trainer import TrainerSettings, choose_kernels, train
from pretraining.runs.csv_logger import CsvHistory
from pretraining.runs.directory import RunDirectory


class Outcome(NamedTuple):
    """What a finetuning run ends with: flat metrics, and the test predictions behind them."""

    metrics: Numbers
    test: Judged


def encode(task: Task, splits: Splits) -> dict[str, Encoded]:
    """Make every split ready; what cannot be learnt from, judged or selected by is an error here, before any training."""
    encoded = {name: task.encode(getattr(splits, name)) for name in SPLITS}
    blank = task.metrics(task.judge(task.silence(encoded["validation"]), encoded["validation"]))
    task.selection({f"validation/{name}": value for name, value in {"loss": 0.0, task.term: 0.0, **blank}.items()})
    return encoded


def finetune(
    task: Task,
    encoded: dict[str, Encoded],
    *,
    data: LabelledData,
    settings: TrainerSettings,
    run: RunDirectory,
    seed: int,
    loggers: list[Any],
    patience: int | None = None,
    ranks: tuple[int, int] = (0, 1),
    show: bool = True,
) -> Outcome:
    """Train (or solve) the head and what else the mode releases; choose the best weights on validation; test once."""
    if show:
        print(describe(task, encoded), file=sys.stderr)
    task.precision = settings.precision
    choose_kernels(task, settings)  # before vectors are cached, or a head is solved for
    task.to(settings.accelerator)
    if task.mode.frozen and task.mode.cache and task.cacheable:  # type: ignore[attr-defined]
        encoded = {name: task.cached(evaluation(part, data)) for name, part in encoded.items()}
    if task.mode.solved:
        _solve(task, encoded, data, loggers)
    else:
        loader = StepLoader(
            encoded["train"],
            encoded["train"].collate,
            batch_size=data.batch_size,
            accumulate=settings.accumulate,
            max_steps=settings.max_steps,
            seed=seed,
            workers=data.workers,
            ranks=ranks,
        )
        validation = evaluation(encoded["validation"], data, ranks)
        watch = Watch(validation, every=settings.val_every, log_every=settings.log_every, patience=patience, show=show)
        plan = StepSettings(
            seed=seed, max_steps=settings.max_steps, clip_norm=settings.clip_norm, on_nonfinite=settings.on_nonfinite
        )
        held = [logger if isinstance(logger, CsvHistory) else StayOpen(logger) for logger in loggers]
        task.train()
        train(
            task, loader, settings=settings, run=run, loggers=held, callbacks=[watch], step_settings=plan, monitor=None
        )
        task.restore_best()
    task.mode.finish(task.backbone)
    task.to(settings.accelerator)  # training leaves it on the CPU
    return judged(task, encoded["test"], data)


def _solve(task: Task, encoded: dict[str, Encoded], data: LabelledData, loggers: list[Any]) -> None:
    train_vectors = encoded["train"]
    assert isinstance(train_vectors, Cached)
    for step, row in enumerate(solve(task, train_vectors, evaluation(encoded["validation"], data))):
        for logger in loggers:
            logger.log_metrics(row, step)


def judged(task: Task, test: Encoded, data: LabelledData) -> Outcome:
    """Judge the chosen weights on test, once, beside what they measured on validation."""
    outputs, metrics = task.predict(evaluation(test, data, (rank(), world_size())), "test")
    result = task.judge(outputs, test)
    metrics |= {f"test/{name}": value for name, value in task.metrics(result).items()}
    for name, (low, high) in task.intervals(result).items():
        metrics |= {f"test/{name}_low": low, f"test/{name}_high": high}
    return Outcome({**task.best.values, **metrics}, result)


def evaluation(encoded: Encoded, data: LabelledData, ranks: tuple[int, int] = (0, 1)) -> EvalLoader:
    """Make the loader that evaluates an encoded split."""
    return EvalLoader(encoded, encoded.collate, batch_size=data.eval_batch_size, ranks=ranks)


def describe(task: Task, encoded: dict[str, Encoded]) -> str:
    """Say how many examples there are and what trains."""
    sizes = ", ".join(f"{part.count(0)} {name}" for name, part in encoded.items())
    counts = {True: 0, False: 0}
    for parameter in task.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    return f"{sizes} examples; {counts[True]:,} parameters train, {counts[False]:,} are frozen"
