"""From a task and its data to test predictions that are measured, in one order for every task and mode."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from finetuning.best import selected
from finetuning.closed_form import choose_layer, fit
from finetuning.data.base import LabelledData
from finetuning.data.splits import Splits
from finetuning.inputs.base import CachedVectors, EncodedSplit
from finetuning.metrics.bootstrap import Numbers
from finetuning.task import Predictions, Task
from finetuning.watch import Watch, kept_open
from pretraining.data.loader import EvalLoader, StepLoader
from pretraining.data.splits import SPLITS
from pretraining.distributed.batchnorm import convert_batchnorm
from pretraining.distributed.collectives import rank, world_size
from pretraining.distributed.environment import process_rank
from pretraining.engine.batch import StepSettings
from pretraining.engine.trainer import TrainerSettings, choose_kernels, cut_back, train
from pretraining.runs.directory import RunDirectory

EncodedSplits = dict[str, EncodedSplit]


@dataclass(kw_only=True)
class Run:
    """A finetuning run, ready to begin."""

    task: Task
    splits: EncodedSplits
    data: LabelledData  # which says how the splits are read
    settings: TrainerSettings
    seed: int
    patience: int | None = None  # evaluations without a better one after which training ends; None: never
    show: bool = True
    observers: Sequence[Any] = ()  # loggers that are told what the run's own are

    @property
    def ranks(self) -> tuple[int, int]:
        """This process's rank, and how many there are."""
        return process_rank() if self.settings.ranks > 1 else 0, self.settings.ranks


class Outcome(NamedTuple):
    """What a finetuning run ends with: flat metrics, and the test predictions behind them."""

    metrics: Numbers
    test: Predictions


def encode(task: Task, splits: Splits) -> EncodedSplits:
    """Make every split ready that is read; what cannot be learnt from, measured or selected by is an error."""
    parts = {name: getattr(splits, name) for name in SPLITS if task.mode.trains or name != "train"}
    encoded = {name: task.encode(part) for name, part in parts.items() if part.size}
    chosen = encoded.get("validation", encoded["test"])  # what nothing is learnt for may lack the one
    measured = task.metrics(task.predict(task.zero_outputs(chosen), chosen))
    measured = {"loss": 0.0, task.term: 0.0, **measured}
    selected(task.select, {f"validation/{name}": value for name, value in measured.items()})
    return encoded


def finetune(run: Run, directory: RunDirectory, loggers: list[Any]) -> Outcome:
    """Train (or fit) the head and what else the mode releases; choose the best weights on validation; test once."""
    task = run.task
    if run.show:
        print(describe(task, run.splits, run.settings.max_steps), file=sys.stderr)
    task.precision = run.settings.precision
    choose_kernels(task, run.settings)  # before vectors are cached, or a head is fitted to them
    if run.settings.ranks > 1:
        convert_batchnorm(task)
    task.to(run.settings.accelerator)
    splits, chosen = run.splits, dict[str, float]()
    if task.mode.cache and task.cacheable:
        cached = {name: task.cache_vectors(evaluation(part, run.data)) for name, part in splits.items()}
        if task.layers.wanted == "best":
            cached, chosen = choose_layer(task, cached, lambda part: evaluation(part, run.data))
        splits = {**cached}
    if task.mode.closed_form:
        cut_back(loggers, directory)
        _fit_closed_form(task, splits, run.data, loggers)
    elif task.mode.trains:
        _train(run, splits, directory, loggers)
        task.restore_best()
    elif "validation" in splits:
        task.validate(evaluation(splits["validation"], run.data))
    task.mode.finish(task.backbone)
    task.to(run.settings.accelerator)  # training leaves it on the CPU
    outcome = measure(task, splits["test"], run.data)
    return outcome._replace(metrics=chosen | outcome.metrics)


def _train(run: Run, splits: EncodedSplits, directory: RunDirectory, loggers: list[Any]) -> None:
    settings, source = run.settings, splits["train"]
    loader = StepLoader(
        source,
        source.collate,
        batch_size=run.data.batches(source),
        accumulate=settings.accumulate,
        max_steps=settings.max_steps,
        seed=run.seed,
        workers=run.data.workers,
        ranks=run.ranks,
    )
    validation = evaluation(splits["validation"], run.data, run.ranks)
    every, log_every = settings.val_every, settings.log_every
    watch = Watch(validation, every=every, log_every=log_every, patience=run.patience, show=run.show)
    run.task.train()
    train(
        run.task,
        loader,
        settings=settings,
        run=directory,
        loggers=kept_open(loggers),
        callbacks=[watch],
        step_settings=StepSettings(
            run.seed, settings.max_steps, settings.clip_norm, None, settings.on_nonfinite, clip_each=settings.clip_each
        ),
        monitor=None,
    )


def _fit_closed_form(task: Task, splits: EncodedSplits, data: LabelledData, loggers: list[Any]) -> None:
    vectors = splits["train"]
    assert isinstance(vectors, CachedVectors)
    for step, row in enumerate(fit(task, task.mode, vectors, evaluation(splits["validation"], data))):
        for logger in loggers:
            logger.log_metrics(row, step)


def measure(task: Task, test: EncodedSplit, data: LabelledData) -> Outcome:
    """Measure the chosen weights on test, once, beside what they measured on validation."""
    outputs, metrics = task.compute_outputs(evaluation(test, data, (rank(), world_size())), "test")
    predictions = task.predict(outputs, test)
    metrics |= {f"test/{name}": value for name, value in task.measured_on(predictions).items()}
    for name, (low, high) in task.intervals(predictions).items():
        metrics |= {f"test/{name}_low": low, f"test/{name}_high": high}
    return Outcome({**task.best.values, **metrics}, predictions)


def evaluation(split: EncodedSplit, data: LabelledData, ranks: tuple[int, int] = (0, 1)) -> EvalLoader:
    """Make the loader that evaluates an encoded split."""
    return EvalLoader(split, split.collate, batch_size=data.eval_batch_size, ranks=ranks)


def describe(task: Task, splits: EncodedSplits, max_steps: int) -> str:
    """Say how many examples there are, what trains, and by which rates."""
    sizes = ", ".join(f"{part.count(0)} {name}" for name, part in splits.items())
    counts = {True: 0, False: 0}
    for parameter in task.parameters():
        counts[task.mode.trains and parameter.requires_grad] += parameter.numel()
    told = f"data: {sizes} examples; {counts[True]:,} parameters train, {counts[False]:,} are frozen"
    if task.mode.closed_form or not task.mode.trains:
        return told
    return f"{told}\nschedule: {task.optimizer.describe(max_steps)}"
