"""`python -m finetuning.predict run_dir=DIR input=FILE [output=FILE]`: what a finetuned model says about new inputs, as json lines.

The input is a table with the run's columns (parquet, csv, tsv, jsonl), a text file or `-` (stdin) with a text per line (for tagging:
words between spaces; for pairs: a tab between the texts), or a directory of images.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from finetuning.arguments import arguments
from finetuning.data.splits import Examples
from finetuning.data.tables import SUFFIXES, column, read_table
from finetuning.launch import load_run
from finetuning.task import Task
from pretraining.cli.configuration import exit_cleanly
from pretraining.data.loader import EvalLoader
from pretraining.errors import RunError
from pretraining.image.data.decode import Decoding, decode
from pretraining.image.data.files import SUFFIXES as IMAGE_SUFFIXES

ROLES = ("text", "text_pair", "tokens", "question", "context", "source")


def predict(task: Task, examples: Examples, batch_size: int = 64) -> Iterator[dict[str, Any]]:
    """Give one record per example: the prediction, and what stands behind it."""
    encoded = task.encode(examples)
    outputs, _ = task.predict(EvalLoader(encoded, encoded.collate, batch_size=batch_size))
    columns = task.table(task.judge(outputs, encoded))
    for row in range(examples.size):
        yield {name: _plain(values[row]) for name, values in columns.items() if name != "label"}


def read_inputs(task: Task, data: dict[str, Any], place: str) -> Examples:
    """Read unlabelled examples from a file, a directory of images, or stdin."""
    path = Path(place)
    if place != "-" and not path.exists():
        raise RunError(f"got input={place}, which does not exist: give a file, a directory of images, or - for stdin")
    if task.modality == "image":
        columns = _images(task, path)
    elif path.suffix in SUFFIXES:
        table = read_table(path)
        names = {role: data[role] for role in ROLES if data.get(role)} or {"text": "text"}
        columns = {role: column(table, name, f"data.{role}").to_pylist() for role, name in names.items()}
    else:
        lines = (sys.stdin if place == "-" else path.open(encoding="utf-8")).read().splitlines()
        columns = _lines(lines, data)
    size = len(next(iter(columns.values())))
    if not size:
        raise RunError(f"got input={place}, which holds no examples")
    labels = (
        [[task.blank()] * len(words) for words in columns["tokens"]] if "tokens" in columns else [task.blank()] * size
    )
    return Examples.of(**columns, label=labels)


def _lines(lines: list[str], data: dict[str, Any]) -> dict[str, list]:
    if "question" in data:
        raise RunError("got lines of text for question answering: give a table with questions and contexts")
    if "tokens" in data:
        return {"tokens": [line.split() for line in lines if line.split()]}
    if not data.get("text_pair"):
        return {"source" if "source" in data else "text": lines}
    pairs = [line.split("\t") for line in lines]
    if any(len(pair) != 2 for pair in pairs):
        raise RunError("got a line without exactly one tab: this run judges pairs of texts, give text<tab>text")
    return {"text": [first for first, _ in pairs], "text_pair": [second for _, second in pairs]}


def _images(task: Task, path: Path) -> dict[str, list]:
    files = (
        [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    )
    decoding = Decoding(channels=task.preprocess.channels, size=task.preprocess.size)
    try:
        return {"image": [decode(file.read_bytes(), str(file), decoding) for file in files]}
    except ValueError as error:
        raise RunError(str(error)) from error


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def cli() -> None:
    """Run the command line."""
    with exit_cleanly():
        given = arguments(sys.argv[1:], ("run_dir", "input"), {"output": None})
        config, task = load_run(Path(given["run_dir"]))
        records = predict(task, read_inputs(task, config.data, given["input"]), config.data.eval_batch_size)
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        if "output" in given:
            Path(given["output"]).write_text(lines, encoding="utf-8")
        else:
            sys.stdout.write(lines)


if __name__ == "__main__":
    cli()
