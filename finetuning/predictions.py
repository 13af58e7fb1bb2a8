"""What a finetuned model says of new inputs, one by one, and how it is written down."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from finetuning.commands import PREDICT
from finetuning.data.splits import Examples
from finetuning.launch import load_run
from finetuning.task import Task
from pretraining.cache import replace_file
from pretraining.cli.configuration import exit_cleanly
from pretraining.data.columns import one_type_of_ids
from pretraining.data.loader import EvalLoader
from pretraining.data.unlabelled import Unlabelled, input_path, output_path, some, told_together

AHEAD = 16  # batches that are read at once, so that texts of like length share one; of arrays, each is large: 1
Record = dict[str, Any]


def predict(task: Task, inputs: Iterable[Unlabelled], batch_size: int = 64) -> Iterator[Record]:
    """Yield one record per example: which it is, the prediction, and what stands behind it."""
    first = 0
    for shapes, alike in itertools.groupby(inputs, key=_shapes):
        ahead = 1 if any(shapes) else AHEAD
        while part := list(itertools.islice(alike, ahead * batch_size)):
            yield from _predicted(task, part, batch_size, first)
            first += len(part)


def _shapes(example: Unlabelled) -> list[tuple | None]:
    """Tell what arrays must have in common to be stacked."""
    return [getattr(value, "shape", None) for value in example.columns.values()]


def _predicted(task: Task, part: list[Unlabelled], batch_size: int, first: int) -> Iterator[Record]:
    columns = {name: [example.columns[name] for example in part] for name in part[0].columns}
    labels = [task.placeholder_label(example.columns) for example in part]
    encoded = task.encode(Examples.of(**columns, label=labels)._replace(first=first))
    outputs, _ = task.compute_outputs(EvalLoader(encoded, encoded.collate, batch_size=batch_size))
    answers = task.unlabelled_table(task.predict(outputs, encoded))
    for row, example in enumerate(part):
        yield example.shown | {name: _plain(values[row]) for name, values in answers.items()}


def read_inputs(task: Task, data: Mapping[str, Any], given: str | Path | Sequence[Any]) -> Iterator[Unlabelled]:
    """Read unlabelled examples from files, a directory, or stdin (`-`), or take a list of them.

    `data` are the run's data settings.
    """
    place = input_path(os.fspath(given)) if isinstance(given, (str, os.PathLike)) else given
    return some(task.inputs.read(place, data, task.preprocess), str(given))


def _plain(value: Any) -> Any:
    plain = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


# -- what is written --------------------------------------------------------------------------------------------------


def _write_lines(records: Iterable[Record], file: IO[Any]) -> None:
    file.writelines(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)


def _write_csv(records: Iterable[Record], file: IO[Any]) -> None:
    rows = map(_flat, records)
    first = next(rows)
    writer = csv.DictWriter(file, list(first))
    writer.writeheader()
    writer.writerows(itertools.chain([first], rows))


def _flat(record: Record) -> Record:
    """Give each class a column of its own, and write lists as json."""
    cells: Record = {}
    for name, value in record.items():
        if isinstance(value, dict):
            cells |= {f"{name}.{part}": number for part, number in value.items()}
        else:
            cells[name] = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
    return cells


def _write_parquet(records: Iterable[Record], file: IO[Any]) -> None:
    rows, tables, first = iter(records), [], None
    while part := list(itertools.islice(rows, 1024)):
        first = one_type_of_ids(part, first)
        tables.append(pa.Table.from_pylist(part))
    pyarrow.parquet.write_table(pa.concat_tables(tables, promote_options="permissive"), file)


FORMATS: dict[str, tuple[Callable[[Iterable[Record], IO[Any]], None], str]] = {
    ".jsonl": (_write_lines, "w"),
    ".csv": (_write_csv, "w"),
    ".parquet": (_write_parquet, "wb"),
}


@contextlib.contextmanager
def opened(place: str | None, read: str) -> Iterator[Callable[[Iterable[Record]], None]]:
    """Open a file, or stdout, for records of `read`. A file is there when all are; until then stays what was there."""
    if place is None:
        yield lambda records: _write_lines(records, sys.stdout)
        return
    path = output_path(place, FORMATS, read=read)
    write, mode = FORMATS[path.suffix.lower()]
    with replace_file(path, mode) as file:
        yield lambda records: write(records, file)


def cli() -> None:
    """Run the command line."""
    with exit_cleanly(), opened((given := PREDICT.read(sys.argv[1:])).get("output"), given["input"]) as write:
        config, task = load_run(Path(given["run_dir"]))
        try:
            with told_together():
                write(predict(task, read_inputs(task, config.data, given["input"]), config.data.eval_batch_size))
            sys.stdout.flush()
        except BrokenPipeError:  # whoever reads this, such as `head`, has had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
