"""How a study goes, in the terminal: a line per run that ends, what runs now, the time left."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.report.words import clock
from experiments.study.graph import Node, Study
from experiments.study.runner import DONE, FAILED, SKIPPED, Journal

TAIL_BYTES = 8192
SHOWN = 8  # runs at a time
MARKS = {DONE: "[green]✓[/]", FAILED: "[red]✗[/]", SKIPPED: "[yellow]-[/]"}


class Progress:
    """Told of every run by the runner; drawn twice a second by rich."""

    def __init__(self, study: Study, console: Console) -> None:
        self._study, self._console = study, console
        self._journal = Journal(study.directory)
        self._begin = time.time()
        self._running: dict[str, tuple[Node, float]] = {}
        self._left = [node for node in study.nodes if not self._journal.is_done(node)]
        self._found_done = len(study.nodes) - len(self._left)
        self._failed = 0
        self._reasons: set[str] = set()
        self._seconds: dict[tuple[str | None, ...], list[float]] = {}
        for node in study.nodes:
            if node not in self._left:
                self._learn(node, self._journal.read(node))

    def started(self, node: Node) -> None:
        """A run begins."""
        self._running[node.name] = node, time.time()

    def ended(self, node: Node, state: Mapping[str, Any]) -> None:
        """A run is done, failed or skipped: one line."""
        self._running.pop(node.name, None)
        self._left.remove(node)
        line = f"{MARKS[state['status']]} {escape(node.title())}"
        if state["status"] == DONE:
            self._learn(node, state)
            line += f"  [cyan]{escape(headline(self._study.run_dir(node), node))}[/]"
            self._say(f"{line}  [dim]{state['seconds']:.1f} s[/]")
            return
        self._failed += 1
        reason = escape(str(state["error"]))
        if state["status"] == FAILED:
            log = escape(str(self._journal.log(node)))
            self._say(f"{line}\n    [red]failed[/]: {reason}\n    [dim]its output: {log}[/]")
        elif reason not in self._reasons:
            # A failed pretraining takes dozens of runs along: one line for all of them.
            self._say(f"{line}\n    [yellow]skipped[/], like all others of which this is true: {reason}")
        self._reasons.add(reason)

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)

    def seconds_left(self) -> tuple[float, bool]:
        """An estimate from runs of the same kind, and whether it covers every run that is left."""
        total, complete = 0.0, True
        for node in self._left:
            known = self._seconds.get(_kind(node))
            if node.name in self._running:
                since = time.time() - self._running[node.name][1]
                share = _share_done(self._study.run_dir(node))
                expected = since / share if share else (sum(known) / len(known) if known else since)
                complete &= bool(share or known)
                total += max(0.0, expected - since)
            elif known:
                total += sum(known) / len(known)
            else:
                complete = False
        return total, complete

    def __rich__(self) -> RenderableType:
        """The live part: the bar, then what runs now."""
        everything, done = len(self._study.nodes), len(self._study.nodes) - len(self._left)
        seconds, complete = self.seconds_left()
        words = f"{done} of {everything} runs"
        words += f", {self._failed} without result" if self._failed else ""
        words += f" · {clock(time.time() - self._begin)} gone"
        if self._left and (seconds or complete):
            words += f" · {'about' if complete else 'more than'} {clock(seconds)} left"
        grid = Table.grid(padding=(0, 1))
        grid.add_row(Text(self._study.name, style="bold"), ProgressBar(everything, done, width=24), Text(words))
        lines = [
            Text.from_markup(
                f"  [blue]▸[/] {escape(node.title())}  [dim]{_position(self._study.run_dir(node))} {clock(time.time() - since)}[/]"
            )
            for node, since in list(self._running.values())[:SHOWN]
        ]
        if len(self._running) > SHOWN:
            lines.append(Text(f"    and {len(self._running) - SHOWN} more", style="dim"))
        return Group(grid, *lines)

    def _learn(self, node: Node, state: Mapping[str, Any]) -> None:
        if "seconds" in state:
            self._seconds.setdefault(_kind(node), []).append(state["seconds"])

    @property
    def found_done(self) -> int:
        """Runs that an earlier start had finished."""
        return self._found_done


@contextmanager
def shown(study: Study) -> Iterator[Progress]:
    """Draw on the terminal as it is now; runs may send their own output elsewhere meanwhile."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as terminal:
        console = Console(file=terminal)
        progress = Progress(study, console)
        if progress.found_done:
            console.print(f"{progress.found_done} of {len(study.nodes)} runs are done already", highlight=False)
        # Piped into a file, each run is one line and nothing is redrawn.
        with Live(
            progress if console.is_terminal else Text(""),
            console=console,
            refresh_per_second=2,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
        ):
            yield progress


def headline(run_dir: Path, node: Node) -> str:
    """The number that a run is about."""
    metric = "validation/loss" if node.cell is None else node.cell.metric
    numbers = json.loads((run_dir / "metrics.json").read_text())
    value = numbers.get(metric)
    return f"{metric} {value:.3f}" if isinstance(value, int | float) else ""


def _kind(node: Node) -> tuple[str | None, ...]:
    """Runs that take about the same time."""
    return (node.command, node.source.arm, *(node.cell[:3] if node.cell else ()))


def steps(run_dir: Path) -> tuple[int, int | None] | None:
    """The step that a run has reached and how many it is to make; None before its first row."""
    history = run_dir / "metrics.csv"
    if not history.exists():
        return None
    with history.open("rb") as file:
        columns = file.readline().decode().rstrip().split(",")
        file.seek(max(file.tell(), history.stat().st_size - TAIL_BYTES))
        rows = file.read().decode(errors="replace").split("\n")[:-1]  # What follows the last newline is half a row.
    values = rows[-1].split(",") if rows else []
    if "step" not in columns or len(values) != len(columns) or not values[columns.index("step")].isdigit():
        return None
    return int(values[columns.index("step")]), _planned(run_dir / "config.yaml")


@lru_cache(maxsize=64)
def _planned(config: Path) -> int | None:
    if not config.exists():
        return None
    trainer = (yaml.safe_load(config.read_text()) or {}).get("trainer") or {}
    return trainer.get("max_steps")


def _share_done(run_dir: Path) -> float | None:
    found = steps(run_dir)
    return found[0] / found[1] if found and found[1] else None


def _position(run_dir: Path) -> str:
    found = steps(run_dir)
    if found is None:
        return ""
    return f"step {found[0]:,} of {found[1]:,}" if found[1] else f"step {found[0]:,}"
