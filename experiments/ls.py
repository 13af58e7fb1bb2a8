"""``python -m experiments.ls [DIRECTORY ...]``: the status of runs and studies; ends or resubmits some on request.

python -m experiments.ls runs studies            every run: state, step, time left, last number, job, log
python -m experiments.ls --columns run,optimizer.peak_lr,result --sort=-test/accuracy
                                                 settings and numbers by their names; sorted, with - downwards
python -m experiments.ls runs/mlm --cancel       ends what runs or waits there; what trains saves first
python -m experiments.ls runs --resubmit-failed --partition=gpu
                                                 a Slurm job for each run that has stopped; options of sbatch may follow
"""

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.monitor.run_files import read_config
from experiments.monitor.run_status import PENDING, STOPPED, RunStatus, find_runs, sbatch_shape
from experiments.report.sheets import Sheet
from experiments.report.words import NOTHING, amount, clock
from experiments.study import slurm
from experiments.study.collect import flatten, load_study, read_columns
from experiments.study.runner import DONE, FAILED, RUNNING, Journal
from experiments.study.spec import StudyError, exit_code
from pretraining.cache import read_object
from pretraining.runs.renamed import current

USUAL = ("runs", "studies")
COLUMNS = ("run", "kind", "status", "step", "left", "result", "job", "changed")
COLOURS = {DONE: "green", RUNNING: "blue", PENDING: "cyan", STOPPED: "yellow"}


def find_studies(directory: Path) -> list[Path]:
    """Find the study directories at or one level below a directory."""
    if (directory / "study.json").exists():
        return [directory]
    return sorted(d for d in directory.iterdir() if (d / "study.json").exists()) if directory.is_dir() else []


def study_table(directories: list[Path], jobs: Mapping[str, slurm.Job]) -> Table:
    """Make a table of studies: the runs counted, what runs now, how long they have taken."""
    found = _empty_table("studies", ("study", "done", "failed", "of", "now", "run time", "report"))
    for directory in directories:
        study, journal = load_study(directory), Journal(directory)
        states = [journal.read(node) for node in study.nodes]
        now = [node.title() for node, state in zip(study.nodes, states, strict=True) if _goes_on(state, jobs)]
        count = [state.get("status") for state in states]
        done, failed = str(count.count(DONE)), f"[red]{count.count(FAILED)}[/]" if FAILED in count else "0"
        running = "; ".join(now[:3]) + (f"; {len(now) - 3} more" if len(now) > 3 else "") or NOTHING
        taken = clock(sum(float(state.get("seconds") or 0) for state in states))
        report = str(path) if (path := directory / "report.html").exists() else NOTHING
        found.add_row(str(directory), done, failed, str(len(states)), running, taken, report)
    return found


def _empty_table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in columns:
        right = name in ("done", "failed", "of", "step", "left")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    return table


def _goes_on(state: Mapping[str, Any], jobs: Mapping[str, slurm.Job]) -> bool:
    """Tell whether a run that was begun still goes on: in Slurm's queue, or as a process of this machine."""
    if state.get("status") != RUNNING:
        return False
    job = jobs.get(str(state.get("job")))
    return job.goes_on if job is not None else Path(f"/proc/{state.get('pid')}").exists()


def run_table(found: Sequence[RunStatus], columns: Sequence[str] = COLUMNS, sort: str = "changed") -> Table:
    """Lay the sheet of `run_sheet` out for a terminal."""
    sheet = run_sheet(found, columns, sort)
    table = _empty_table(f"runs in {common_place(found)}", sheet.head)
    for row in sheet.rows:
        cells = zip(sheet.head, row, strict=True)
        table.add_row(*(f"[{COLOURS[cell]}]{cell}[/]" if name == "status" else escape(cell) for name, cell in cells))
    return table


def alike(places: Sequence[str]) -> list[Path]:
    """Turn places into paths, all of them absolute where one is, so that what they share can be found."""
    paths = [Path(place) for place in places]
    return [path.absolute() for path in paths] if any(path.is_absolute() for path in paths) else paths


def common_place(found: Sequence[RunStatus]) -> str:
    """Find what the paths of all runs begin with: it is said once, and where the names differ nothing may be cut."""
    return os.path.commonpath([run.path.parent for run in found])


def run_sheet(found: Sequence[RunStatus], columns: Sequence[str], sort: str) -> Sheet:
    """Tabulate runs: what is known of each, and settings and numbers by their names; a "-" sorts downwards."""
    columns = columns if "run" in columns else ("run", *columns)
    shared = common_place(found)
    known = {run.path: value_reader(run, shared) for run in found}
    for column in (*columns, sort.removeprefix("-")):
        if column not in COLUMNS and all(read(column) is None for read in known.values()):
            raise StudyError(f"{column}: no run has that; give some of {', '.join(COLUMNS)}, a setting or a metric")
    order = _sorted(found, lambda run: known[run.path](sort.removeprefix("-")), downwards=sort.startswith("-"))
    return Sheet(list(columns), [[_shown(run, column, known[run.path](column)) for column in columns] for run in order])


def value_reader(run: RunStatus, shared: str) -> Callable[[str], Any]:
    """Make what reads a column of a run: None where it has no such setting or number."""
    others = dict(flatten(current(read_config(run.path)))) | read_numbers(run.path)
    return (
        others
        | {
            "run": os.path.relpath(run.path, shared),
            "kind": run.package,
            "status": run.status,
            "step": run.position.step if run.position else None,
            "left": run.seconds_left,
            "result": run.value,
            "job": run.job or (f"pid {run.pid}" if run.pid else None),
            "changed": run.changed,
        }
    ).get


def read_numbers(path: Path) -> dict[str, Any]:
    """Read what a run has measured: its final numbers, or the latest of each where it has not come to its end."""
    if (path / "metrics.json").exists():
        return read_object(path / "metrics.json")
    known = (
        (name, [value for value in column if value == value])
        for name, column in read_columns(path / "metrics.csv").items()
    )
    return {name: values[-1] for name, values in known if values}


def _sorted(found: Sequence[RunStatus], key: Callable[[RunStatus], Any], *, downwards: bool) -> list[RunStatus]:
    """Sort numbers, then words; runs without either come last."""
    having = [run for run in found if key(run) is not None]
    order = sorted(
        having, key=lambda run: (not _is_number(key(run)), key(run) if _is_number(key(run)) else str(key(run)))
    )
    return [*(reversed(order) if downwards else order), *(run for run in found if key(run) is None)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(run: RunStatus, column: str, value: Any) -> str:
    if column == "step":
        return str(run.position or "")
    if value is None:
        return ""
    if column == "left":
        return clock(value)
    if column == "changed":
        return time.strftime("%m-%d %H:%M", time.localtime(value))
    if column.endswith("_target_"):
        return str(value).rpartition(".")[2]
    if isinstance(value, float):
        return amount(value) if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def cancel(found: Sequence[RunStatus], known: list[Path], jobs: Mapping[str, slurm.Job]) -> None:
    """End what runs or waits: jobs through Slurm, processes of this machine by a signal after which they save."""
    states = [Journal(directory).read(node) for directory in known for node in load_study(directory).nodes]
    numbers = [str(state["job"]) for state in states if "job" in state and _goes_on(state, jobs)]
    numbers += [run.job for run in found if run.job is not None and run.job in jobs and jobs[run.job].goes_on]
    if numbers:
        slurm.cancel(numbers)
    processes = [run.pid for run in found if run.pid is not None and run.job not in numbers]
    for pid in processes:
        os.kill(pid, signal.SIGTERM)
    ended = f"ended {len(numbers)} Slurm job(s) and {len(processes)} process(es) of this machine"
    print(f"{ended}; what trained has saved, resume=auto continues")


def resubmit(found: Sequence[RunStatus], options: Mapping[str, str]) -> None:
    """Submit a job for each run that has stopped; where there is no Slurm, print the command that continues it."""
    from pretraining.runs.snapshot import snapshot_environment

    stopped = [run for run in found if run.status == STOPPED]
    snapshot = snapshot_environment() if stopped and slurm.is_here() else {}
    for run in stopped:
        asked = (run.path / "overrides.txt").read_text().splitlines()
        again = [line for line in asked if line and not line.startswith("run_dir=")]
        again += [f"run_dir={run.path}", "resume=auto"]
        if snapshot:
            number = slurm.submit(run.package, again, {**sbatch_shape(run.path), **options}, snapshot)
            print(f"job {number}: {run.path}")
        else:
            print(f"python -m {run.package} {shlex.join(again)}")
    if not stopped:
        print("no run has stopped before its end")


def main(arguments: Sequence[str]) -> int:
    """Print the tables, or do what was asked; 1 if a place that was named is not there."""
    written: Any = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="python -m experiments.ls", **written)
    parser.add_argument("places", nargs="*", help="directories to look in (runs and studies)")
    parser.add_argument(
        "--columns", metavar="A,B", help=f"what to show beside the run: {', '.join(COLUMNS)}, settings, metrics"
    )
    parser.add_argument("--sort", default="changed", metavar="A", help="the column to sort by; --sort=-A: downwards")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--cancel", action="store_true", help="end the runs and jobs found")
    what.add_argument("--resubmit-failed", action="store_true", help="submit what has stopped before its end")
    given, rest = parser.parse_known_args(arguments)
    if rest and not (given.resubmit_failed and all(word.startswith("--") and "=" in word for word in rest)):
        parser.error(f"{rest[0]} is unknown; options of sbatch (--partition=gpu) go with --resubmit-failed")
    for missing in (place for place in given.places if not Path(place).is_dir()):
        print(f"ls: {missing} is no directory", file=sys.stderr)
        return 1
    roots = alike(given.places or USUAL)
    jobs = find_jobs(needed=given.cancel or given.resubmit_failed)
    known = [directory for root in roots for directory in find_studies(root)]
    found = [run for root in roots for run in find_runs(root, jobs)]
    if given.cancel:
        cancel(found, known, jobs)
    elif given.resubmit_failed:
        resubmit(found, dict(word[2:].partition("=")[::2] for word in rest))
        for directory in known:
            print(f"{directory} is a study: its own command with retry_failed=true runs again what failed")
    else:
        columns = given.columns.split(",") if given.columns else COLUMNS
        show(
            study_table(known, jobs) if known else None, found, run_table(found, columns, given.sort) if found else None
        )
    if not known and not found:
        print(f"no runs or studies in {' and '.join(map(str, roots))}: give the directories to look in")
    return 0


def find_jobs(*, needed: bool) -> dict[str, slurm.Job]:
    """Ask the cluster, if there is one; one that does not answer is said, and an error where it is `needed`."""
    if not slurm.is_here():
        return {}
    try:
        return slurm.queue()
    except StudyError as error:
        if needed:
            raise
        print(f"ls: {str(error).splitlines()[0]}: how jobs are doing is not known", file=sys.stderr)
        return {}


def show(studies: Table | None, found: Sequence[RunStatus], runs: Table | None) -> None:
    """Print the status of everything, and where what is not done has written its output."""
    console = Console() if sys.stdout.isatty() else Console(width=140)
    for table in filter(None, (studies, runs)):
        console.print(table)
    if found:
        for run in found:
            if run.status != DONE and run.log:
                console.print(f"{run.path}: output in {run.log}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.exit(exit_code("ls", lambda: main(sys.argv[1:])))
