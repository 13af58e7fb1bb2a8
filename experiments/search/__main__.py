"""``python -m experiments.search [options] OVERRIDES``: search a pretraining's settings, ending hopeless trials early.

    python -m experiments.search --trials 20 --directory searches/rate objective=simclr trainer.val_every=20 \\
        'optimizer.peak_lr=tag(log, interval(1e-4, 1e-1))' optimizer.warmup_steps=10,100

What has several values is searched, in Hydra's sweep syntax: choices a,b,c, interval(low, high), int(interval(...)),
tag(log, ...). The same command started again, on any machine that sees the directory, works on the same search: a
worker that was killed loses nothing, since its trial goes on from its checkpoint.
On Slurm: ``sbatch --array=1-8 slurm/search.sbatch ...``.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.search.plan import PRUNERS, Plan
from experiments.search.sweeps import list_choices, split_sweep
from experiments.search.trials import ENDED
from experiments.study.graph import override
from experiments.study.spec import StudyError, check_interval, exit_code
from pretraining.cli.early import ending_on_mistakes
from pretraining.errors import RunError
from pretraining.kinds import integer, refusal

if TYPE_CHECKING:  # it imports torch
    from experiments.search.worker import Worker


def parse_space(overrides: Sequence[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Split overrides into the space, {key: a list of choices or {low, high, log, int}}, and those that stand."""
    example = "at least one override several values, such as 'optimizer.peak_lr=interval(1e-4, 1e-2)'"
    varied, fixed = split_sweep(overrides, example)
    space: dict[str, Any] = {}
    for one in varied:
        if one.is_interval_sweep():
            interval: Any = one.value()
            ends = {"low": interval.start, "high": interval.end, "log": "log" in interval.tags}
            # "int" is part of the name that searches of earlier releases are kept under.
            check_interval(str(one.input_line), ends)
            space[one.get_key_element()] = ends | {"int": all(isinstance(ends[end], int) for end in ("low", "high"))}
        else:
            space[one.get_key_element()] = list_choices(one)
    placed = [line for line in overrides if line.lstrip("+").partition("=")[0] in ("run_dir", "resume")]
    if placed:
        raise StudyError(f"{placed[0]}: a search places and resumes its trials itself; leave it out")
    return space, tuple(fixed)


def list_results(worker: Worker) -> list[dict[str, Any]]:
    """List every trial that is over, the best first; what was ended early, or failed, last."""
    rows = []
    for trial in worker.trials.ended:
        row = {"trial": trial.number, "state": trial.state.name.lower(), worker.plan.metric: trial.value}
        row["steps"] = max(trial.intermediate_values, default=None)
        rows.append(row | trial.params | {"said": trial.user_attrs[ENDED]})
    sign = 1 if worker.plan.goal == "minimize" else -1
    return sorted(rows, key=lambda row: (row["state"] != "complete", sign * (row[worker.plan.metric] or 0.0)))


def report(worker: Worker) -> None:
    """Print the table of trials and the best one's command; write results.csv beside the runs."""
    rows, plan = list_results(worker), worker.plan
    with (plan.directory / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["trial"])
        writer.writeheader()
        writer.writerows(rows)
    console = Console() if sys.stdout.isatty() else Console(width=140)
    table = Table(box=SIMPLE_HEAD)
    shown = ["trial", "state", plan.metric, "steps", *plan.space]
    for name in shown:
        table.add_column(name, justify="right" if name in ("trial", "steps") else "left")
    for row in rows:
        table.add_row(*(_written(row[name]) for name in shown))
    console.print(table)
    complete = [row for row in rows if row["state"] == "complete"]
    if not complete:
        raise StudyError(f"no trial came to its end: see {plan.directory / 'results.csv'}")
    best = [*plan.fixed, *(override(key, complete[0][key]) for key in plan.space)]
    command = shlex.join(["python", "-m", "pretraining", *best])
    console.print(f"best: {command}", soft_wrap=True, highlight=False, markup=False)


def _written(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def parse(arguments: Sequence[str]) -> Plan:
    """Read a command line."""
    written: Any = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="python -m experiments.search", **written)
    kept = "where trials and runs are kept and shared"
    parser.add_argument("--directory", type=Path, default=Path("searches/search"), help=kept)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--metric", default="validation/loss")
    parser.add_argument("--goal", choices=["minimize", "maximize"], default="minimize")
    ending = "who ends trials early, by what validation measures"
    parser.add_argument("--pruner", choices=PRUNERS, default="median", help=ending)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="+", help="of the pretraining; several values are searched")
    given = vars(parser.parse_args(arguments))
    for name, kind in (("trials", integer(1)), ("seed", integer(0))):
        if not kind.accepts(given[name]):
            raise RunError(refusal(f"--{name}", given[name], kind))
    space, fixed = parse_space(given.pop("overrides"))
    return Plan(fixed=fixed, space=space, **given)


def check(plan: Plan) -> None:
    """Refuse a choice, or the end of an interval, that cannot be configured, before any trial."""
    from pretraining.cli.compose import compose

    columns = [
        [override(key, value) for value in (part if isinstance(part, list) else (part["low"], part["high"]))]
        for key, part in plan.space.items()
    ]
    placed = override("run_dir", plan.directory / "runs" / "some")
    for number in range(max(map(len, columns))):
        some = (column[min(number, len(column) - 1)] for column in columns)
        compose([*plan.fixed, *some, placed])


def search(arguments: Sequence[str]) -> int:
    """Work on a search until it has enough trials, then say what was found."""
    with ending_on_mistakes():
        plan = parse(arguments)
        check(plan)
    from experiments.search.worker import Worker
    from pretraining.cli.configuration import exit_cleanly

    with exit_cleanly():
        (worker := Worker(plan)).work()
        report(worker)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("search", lambda: search(sys.argv[1:])))
