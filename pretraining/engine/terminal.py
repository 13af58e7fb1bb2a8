"""What a person sees while a run goes on: a bar that is redrawn on a terminal or in a notebook, lines elsewhere."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from pretraining.probes import share_interval
from pretraining.runs.view import notebook

WIDTH = 24  # of the bar
REDRAW = 0.2  # seconds that a bar stays as it is, unless there is news


class Progress:
    """Says how far a run is: on a terminal and in a notebook in one line, elsewhere in a line for each news.

    Not at all unless `show`.
    """

    def __init__(self, *, show: bool) -> None:
        self.notebook = notebook() if show else None
        self.show, self.live = show, show and (sys.stderr.isatty() or self.notebook is not None)
        self._news, self._drawn, self._open = "", 0.0, False
        self._cell: Any = None  # of the notebook's output

    def draw(self, step: int, steps: int, news: str | None = None) -> None:
        """Show that `step` of `steps` are done, with the latest news."""
        self._news = self._news if news is None else news
        text, now = f"step {step}/{steps}  {self._news}", time.monotonic()
        if self.live and (news is not None or now - self._drawn > REDRAW):
            self._drawn, done = now, WIDTH * step // steps
            self._redraw(f"{'━' * done}{' ' * (WIDTH - done)} {text}")
        elif self.show and not self.live and news is not None:
            print(text, file=sys.stderr, flush=True)

    def _redraw(self, line: str) -> None:
        if self.notebook is None:
            self._open = True
            print(f"\r{line[: shutil.get_terminal_size().columns - 1]}\033[K", end="", file=sys.stderr, flush=True)
        elif self._cell is None:
            self._cell = self.notebook({"text/plain": line}, raw=True, display_id=True)
        else:
            self._cell.update({"text/plain": line}, raw=True)

    def close(self) -> None:
        """Leave the line, whatever ended the run."""
        if self._open:
            print(file=sys.stderr, flush=True)
        self._open = False


def describe_quality(measured: Mapping[str, float], facts: Mapping[str, float], examples: int | None = None) -> str:
    """Write the loss of an evaluation and its probes' accuracies beside what they are read against.

    That is what `facts` say of the validation split (unigram entropy), and always answering with the commonest class.
    Of a loss of several terms it is the first that facts are about (`Meter.read` lists them behind their sum).
    With the number of validation `examples`, shares have their 95 % intervals, each by what it was measured of.
    """
    if "validation/loss" not in measured:
        return ""
    named = {name.partition("/")[2].replace("_", " "): facts[name] for name in facts if name.startswith("validation/")}
    against = ", ".join(f"{name} {value:.3f}" for name, value in named.items())
    loss, told = measured["validation/loss"], f"validation loss {measured['validation/loss']:.3f}"
    first = next((name for name in measured if name.startswith("validation/") and name != "validation/loss"), None)
    if against and first is not None and not math.isclose(measured[first], loss, rel_tol=1e-6):
        told += f", {first.partition('/')[2].replace('_', ' ')} {measured[first]:.3f}"
    parts = [told + (f" ({against})" if against else "")]
    ends = ("_recall_1", "_accuracy")
    shares = [name for end in ends for name in measured if name.startswith("probe/") and name.endswith(end)]
    if shares:
        said = {name: name.removeprefix("probe/").removesuffix("_accuracy").replace("_", " ") for name in shares}
        counts = {name: measured.get(_count_of(name), examples) if examples else None for name in shares}
        each = [f"{said[name]} {with_interval(measured[name], counts[name])}" for name in shares]
        known = f" (always one class: {measured['probe/majority']:.3f})" if "probe/majority" in measured else ""
        parts.append(f"probe: {', '.join(each)}{known}")
    return "  ".join(parts)


def _count_of(share: str) -> str:
    """Name the metric that may say of how many a share is."""
    return share.removesuffix("_recall_1") + "_queries" if share.endswith("_recall_1") else "probe/classified"


def with_interval(share: float, examples: float | None) -> str:
    """Write a share, with its interval where it is known of how many examples."""
    low, high = share_interval(share, int(examples)) if examples else (0.0, 0.0)
    return f"{share:.3f} [{low:.3f}, {high:.3f}]" if examples else f"{share:.3f}"
