"""A study's progress in the terminal: a line per run that ends, what runs now, the time left."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.monitor.run_files import read_position
from experiments.report.words import clock, headline
from experiments.study.graph import Node, Study
from experiments.study.runner import DONE, FAILED, SKIPPED, Journal

MOST_SHOWN = 8  # runs at a time
MARKS = {DONE: "[green]✓[/]", FAILED: "[red]✗[/]", SKIPPED: "[yellow]-[/]"}


class Progress:
    """Follows every run of a study; rich draws it twice a second."""

    def __init__(self, study: Study, console: Console) -> None:
        self._study, self._say = study, partial(console.print, highlight=False, soft_wrap=True)
        self._journal = Journal(study.directory)
        self._begin = time.time()
        self._running: dict[str, tuple[Node, float]] = {}
        self._left = [node for node in study.nodes if not self._journal.is_done(node)]
        self.found_done = len(study.nodes) - len(self._left)  # runs that an earlier start had finished
        self._failed = 0
        self._reasons: set[str] = set()
        self._seconds: dict[tuple[str | None, ...], list[float]] = {}
        for node in study.nodes:
            if node not in self._left:
                self._learn(node, self._journal.read(node))

    def started(self, node: Node) -> None:
        """Show a run among those that run now."""
        self._running[node.name] = node, time.time()

    def ended(self, node: Node, state: Mapping[str, Any]) -> None:
        """Print one line for a run that is done, failed or skipped."""
        self._running.pop(node.name, None)
        self._left.remove(node)
        line = f"{MARKS[state['status']]} {escape(node.title())}"
        if state["status"] == DONE:
            self._learn(node, state)
            numbers = json.loads((self._study.run_dir(node) / "metrics.json").read_text())
            metric = "validation/loss" if node.cell is None else node.cell.column
            result = headline({metric: numbers.get(metric)}, metric)
            self._say(f"{line}  [cyan]{escape(result)}[/]  [dim]{state['seconds']:.1f} s[/]")
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

    def _learn(self, node: Node, state: Mapping[str, Any]) -> None:
        if "seconds" in state:
            self._seconds.setdefault(_kind(node), []).append(state["seconds"])

    def seconds_left(self) -> tuple[float, bool]:
        """Estimate from runs of the same kind; and whether that covers every run that is left."""
        total, complete = 0.0, True
        for node in self._left:
            known = self._seconds.get(_kind(node))
            usual = sum(known) / len(known) if known else None
            if node.name in self._running:
                since = time.time() - self._running[node.name][1]
                position = read_position(self._study.run_dir(node))
                if position is not None and position.step and position.planned:
                    usual = since * position.planned / position.step
                total += 0.0 if usual is None else max(0.0, usual - since)
            else:
                total += usual or 0.0
            complete &= usual is not None
        return total, complete

    def __rich__(self) -> RenderableType:
        """Draw the live part: the bar, then what runs now."""
        everything, done = len(self._study.nodes), len(self._study.nodes) - len(self._left)
        seconds, complete = self.seconds_left()
        words = f"{done} of {everything} runs"
        words += f", {self._failed} without result" if self._failed else ""
        words += f" · {clock(time.time() - self._begin)} gone"
        if self._left and (seconds or complete):
            words += f" · {'about' if complete else 'more than'} {clock(seconds)} left"
        grid = Table.grid(padding=(0, 1))
        grid.add_row(Text(self._study.name, style="bold"), ProgressBar(everything, done, width=24), Text(words))
        lines = []
        for node, since in list(self._running.values())[:MOST_SHOWN]:
            position = read_position(self._study.run_dir(node))
            at = f"step {position} " if position else " "
            lines.append(f"  [blue]▸[/] {escape(node.title())}  [dim]{at}{clock(time.time() - since)}[/]")
        if len(self._running) > MOST_SHOWN:
            lines.append(f"[dim]    and {len(self._running) - MOST_SHOWN} more[/]")
        return Group(grid, *map(Text.from_markup, lines))


def _kind(node: Node) -> tuple[str | None, ...]:
    """Describe runs that take about the same time."""
    return (node.command, node.source.arm, *(node.cell[:3] if node.cell else ()))


@contextmanager
def draw_progress(study: Study) -> Iterator[Progress]:
    """Draw on the terminal as it is now; runs may send their own output elsewhere meanwhile."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as terminal:
        console = Console(file=terminal)
        progress = Progress(study, console)
        if progress.found_done:
            console.print(f"{progress.found_done} of {len(study.nodes)} runs are done already", highlight=False)
        # Piped into a file, each run is one line and nothing is redrawn.
        drawn = progress if console.is_terminal else Text("")
        quiet: dict[str, Any] = {"redirect_stdout": False, "redirect_stderr": False, "transient": True}
        with Live(drawn, console=console, refresh_per_second=2, **quiet):
            yield progress
