"""``python -m experiments.ls [DIRECTORY ...]``: the runs and studies below, and how they stand."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.collect import load_study
from experiments.progress import steps
from experiments.runner import DONE, FAILED, RUNNING, Journal
from experiments.words import NOTHING, clock

USUAL = ("runs", "studies")
QUIET_AFTER = 120.0
"""Seconds without news after which a run that has not ended counts as stopped."""
HEADLINES = ("test/accuracy", "test/f1_macro", "validation/loss")
COLOURS = {DONE: "green", RUNNING: "blue", FAILED: "red", "stopped": "yellow"}


class Found(NamedTuple):
    """A run directory: what it is, how it stands, the number it is about."""

    path: Path
    kind: str
    status: str
    position: str
    value: str
    changed: float


def runs(directory: Path) -> Iterator[Found]:
    """The runs below a directory, not looking inside them nor inside studies."""
    if (directory / "config.yaml").exists():
        yield _run(directory)
    elif directory.is_dir() and not (directory / "study.json").exists():
        for below in sorted(directory.iterdir()):
            if below.is_dir() and not below.is_symlink():
                yield from runs(below)


def studies(directory: Path) -> Iterator[Path]:
    """The study directories at or one level below a directory."""
    if (directory / "study.json").exists():
        yield directory
    elif directory.is_dir():
        yield from sorted(d for d in directory.iterdir() if (d / "study.json").exists())


def _run(path: Path) -> Found:
    finetuning = (path / "lineage.json").exists() or not (path / "handoff").exists()
    finished, history = path / "metrics.json", path / "metrics.csv"
    newest = max(p.stat().st_mtime for p in (finished, history, path / "config.yaml") if p.exists())
    value = ""
    if finished.exists():
        status, numbers = DONE, json.loads(finished.read_text())
        key = next((k for k in HEADLINES if k in numbers), None)
        value = f"{key} {numbers[key]:.3f}" if key else ""
    else:
        status = RUNNING if time.time() - newest < QUIET_AFTER else "stopped"
    reached = steps(path)
    position = ""
    if reached:
        position = f"{reached[0]:,} of {reached[1]:,}" if reached[1] else f"{reached[0]:,}"
    return Found(path, "finetuning" if finetuning else "pretraining", status, position, value, newest)


def study_table(directories: list[Path]) -> Table:
    """Each study with its runs counted, what runs now and how long it has taken."""
    found = Table(title="studies", title_justify="left", box=SIMPLE_HEAD)
    for name in ("study", "done", "failed", "of", "now", "run time", "report"):
        found.add_column(name, justify="right" if name in ("done", "failed", "of") else "left")
    for directory in directories:
        study, journal = load_study(directory), Journal(directory)
        states = [journal.read(node) for node in study.nodes]
        now = [node.title() for node, state in zip(study.nodes, states, strict=True) if state.get("status") == RUNNING and alive(state)]
        count = [state.get("status") for state in states]
        report = directory / "report.html"
        found.add_row(
            str(directory),
            str(count.count(DONE)),
            f"[red]{count.count(FAILED)}[/]" if FAILED in count else "0",
            str(len(states)),
            "; ".join(now) or NOTHING,
            clock(sum(float(state.get("seconds") or 0) for state in states)),
            str(report) if report.exists() else NOTHING,
        )
    return found


def alive(state: dict[str, Any]) -> bool:
    """Whether the process that wrote a running state is still there (on this machine)."""
    return Path(f"/proc/{state.get('pid')}").exists()


def run_table(found: list[Found]) -> Table:
    """Each run with its status, step and number; the newest last."""
    table = Table(title="runs", title_justify="left", box=SIMPLE_HEAD)
    for name in ("run", "kind", "status", "step", "result", "changed"):
        table.add_column(name, justify="right" if name == "step" else "left")
    for run in sorted(found, key=lambda r: r.changed):
        status = f"[{COLOURS[run.status]}]{run.status}[/]"
        when = time.strftime("%m-%d %H:%M", time.localtime(run.changed))
        table.add_row(str(run.path), run.kind, status, run.position, run.value, when)
    return table


def main(places: list[str]) -> int:
    """Print the tables; 1 if a place that was asked for is not there."""
    console = Console()
    for missing in (place for place in places if not Path(place).is_dir()):
        print(f"ls: {missing} is no directory", file=sys.stderr)
        return 1
    roots = [Path(place) for place in places or USUAL]
    known = [directory for root in roots for directory in studies(root)]
    found = [run for root in roots for run in runs(root)]
    if known:
        console.print(study_table(known))
    if found:
        console.print(run_table(found))
    if not known and not found:
        where = " and ".join(str(root) for root in roots)
        console.print(f"no runs or studies in {where}: give the directories to look in")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
