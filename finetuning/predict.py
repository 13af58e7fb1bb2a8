"""`python -m finetuning.predict run_dir=DIR input=FILE [output=FILE]`: what a model says of new inputs, in json lines.

The input is a table with the run's columns (parquet, csv, tsv, jsonl), a text file or `-` (stdin) with a text per line
(for tagging: words between spaces; for pairs: a tab between the texts), or a directory of images.
"""

from __future__ import annotations

from finetuning.commands import PREDICT

if __name__ == "__main__":  # before anything slow is imported
    PREDICT.answer(__doc__)

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from finetuning.data.splits import Examples
from finetuning.launch import load_run
from finetuning.task import Task
from pretraining.cli.configuration import exit_cleanly
from pretraining.data.loader import EvalLoader
from pretraining.errors import RunError


def predict(task: Task, examples: Examples, batch_size: int = 64) -> Iterator[dict[str, Any]]:
    """Yield one record per example: the prediction, and what stands behind it."""
    encoded = task.encode(examples)
    outputs, _ = task.compute_outputs(EvalLoader(encoded, encoded.collate, batch_size=batch_size))
    columns = task.table(task.predict(outputs, encoded))
    for row in range(examples.size):
        yield {name: _plain(values[row]) for name, values in columns.items() if name != "label"}


def read_inputs(task: Task, data: Mapping[str, Any], place: str) -> Examples:
    """Read unlabelled examples from a file, a directory, or stdin (`-`); `data` are the run's data settings."""
    path = None if place == "-" else Path(place)
    if path is not None and not path.exists():
        raise RunError(f"got input={place}, which does not exist: give a file, a directory of images, or - for stdin")
    columns = task.inputs.read(path, data, task.preprocess)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if not rows:
        raise RunError(f"got input={place}, which holds no examples")
    return Examples.of(**columns, label=[task.placeholder_label(row) for row in rows])


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def cli() -> None:
    """Run the command line."""
    with exit_cleanly():
        given = PREDICT.read(sys.argv[1:])
        config, task = load_run(Path(given["run_dir"]))
        records = predict(task, read_inputs(task, config.data, given["input"]), config.data.eval_batch_size)
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        if "output" in given:
            Path(given["output"]).write_text(lines, encoding="utf-8")
        else:
            sys.stdout.write(lines)


if __name__ == "__main__":
    cli()
