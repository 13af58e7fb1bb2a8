"""Finetuning from a script or a notebook: what the commands do, with their settings and their words."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from finetuning.launch import compose, load_run, main
from finetuning.metrics.reference import describe_result
from finetuning.predictions import Record, read_inputs
from finetuning.predictions import predict as predictions_of
from pretraining.cache import read_object
from pretraining.cli.configuration import class_name
from pretraining.cli.scripts import check_loggers, named_logger, raising, refuse_ranks, with_settings
from pretraining.data.unlabelled import listed, told_together
from pretraining.engine.memory import keep_freed_memory
from pretraining.errors import RunError
from pretraining.runs.directory import read_config
from pretraining.runs.view import show


@dataclass(frozen=True)
class Result:
    """A finished finetuning run, read from its directory."""

    run_dir: Path

    @functools.cached_property
    def metrics(self) -> dict[str, Any]:
        """The final numbers, as in metrics.json: `test/accuracy` and the like, with the ends of their intervals."""
        return read_object(self.run_dir / "metrics.json")

    @functools.cached_property
    def predictions(self) -> pa.Table:
        """The rows of the test split in their order, with `label`, `prediction` and, of classes, their scores."""
        return pyarrow.parquet.read_table(self.run_dir / "predictions.parquet")

    def __repr__(self) -> str:
        config = read_config(self.run_dir / "config.yaml")
        found = describe_result(self.metrics, config.task.select.removeprefix("-"), None)
        return f"{class_name(config.task)}, {class_name(config.mode)}: {found} ({self.run_dir})"

    def _repr_html_(self) -> str:
        return show(self.run_dir)._repr_html_()


def finetune(
    handoff: str | Path, *overrides: str, run_dir: str | Path | None = None,
    loggers: Sequence[Any] = (), logger: str | Mapping[str, Any] | None = None,
) -> Result:  # fmt: skip
    """Finetune a hand-off (a directory, hf:…, torchvision:…, random:…) with settings as on the command line.

    `finetune("runs/mine/handoff/last", "task=digits", "shots=5", "mode=linear_probe")`. What a user can mend is a
    `RunError` of one line; `run_dir` None is runs/<name>-<time>. `loggers` and `logger` are those of `pretraining.fit`.
    """
    keep_freed_memory()  # as the command does
    check_loggers(loggers)
    overrides = tuple(map(str, overrides))
    given = [f"handoff={_quoted(handoff)}", *overrides]
    named = {"handoff": handoff, "run_dir": run_dir, "logger": logger}
    words = {word.partition("=")[0] for word in overrides}
    twice = {name for name, value in named.items() if value is not None} & words
    if twice:
        raise RunError(f"got {' and '.join(sorted(twice))} twice, as an argument and as a setting: give each once")
    if run_dir is not None:
        given.append(f"run_dir={_quoted(run_dir)}")
    with raising():
        config = with_settings(compose(given), {"logger": named_logger(logger, overrides)})
        refuse_ranks(config, loggers)
        return Result(main(config, given, loggers))


def predict(run_dir: str | Path | Result, inputs: str | Path | Iterable[Any]) -> list[Record]:
    """Say what a finished run's model makes of new inputs: a record for each, as `python -m finetuning.predict` writes.

    `inputs` is a file or a directory, or a list: of texts, of images (files, PIL's or arrays uint8 [H, W, 3]), of
    recordings (files, or (samples [N], samples per second)), or of rows {column: value} with the run's columns.
    """
    with raising():
        if not isinstance(inputs, (str, os.PathLike)):
            inputs = listed(inputs)
            if not inputs:
                raise RunError("got an empty list of inputs: give at least one")
        config, task = load_run(Path(run_dir.run_dir if isinstance(run_dir, Result) else run_dir))
        with told_together():
            return list(predictions_of(task, read_inputs(task, config.data, inputs), config.data.eval_batch_size))


def _quoted(value: str | Path) -> str:
    """Write a value such that an override holds it as it is."""
    text = str(value)
    return text if re.fullmatch(r"[\w./:~@-]+", text) else "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
