"""A run as a notebook shows it: its curves, its last numbers and its pictures."""

from __future__ import annotations

import base64
import html
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretraining.errors import RunError
from pretraining.runs.csv_logger import CsvHistory

WIDTH, HEIGHT, MARGIN = 480, 200, 42  # pixels of the curves, and around them
CURVES = {"train/loss": "#1f77b4", "validation/loss": "#d62728", "validation/accuracy": "#2ca02c"}
FIRST = ("test/", "validation/", "probe/")  # of the numbers


@dataclass(frozen=True)
class View:
    """What `show` shows: in a notebook curves, numbers and pictures, elsewhere the numbers."""

    run_dir: Path

    def numbers(self) -> dict[str, Any]:
        """Read the last numbers, or of a run that has not ended those of its last rows."""
        path = self.run_dir / "metrics.json"
        if path.is_file():
            return json.loads(path.read_text("utf-8"))
        rows = CsvHistory(self.run_dir / "metrics.csv").rows()
        return {name: value for row in rows for name, value in row.items() if value}

    def __repr__(self) -> str:
        numbers = self.numbers()
        shown = [name for name in numbers if name.startswith(FIRST)] or list(numbers)
        return "\n".join([str(self.run_dir), *(f"  {name:<36} {_short(numbers[name])}" for name in shown)])

    def _repr_html_(self) -> str:
        rows = CsvHistory(self.run_dir / "metrics.csv").rows()
        drawn = [curve(rows, name, colour) for name, colour in CURVES.items()]
        pictures = [as_picture(path)._repr_html_() for path in sorted((self.run_dir / "pictures").glob("*.png"))]
        return f"<pre>{html.escape(repr(self))}</pre>{''.join(drawn)}{''.join(pictures)}"


@dataclass(frozen=True)
class Picture:
    """A picture, which a notebook keeps."""

    content: bytes

    def _repr_html_(self) -> str:
        return f'<img style="max-width: 100%" src="data:image/png;base64,{base64.b64encode(self.content).decode()}">'


def as_picture(path: Path) -> Picture:
    """Read a PNG for a notebook."""
    return Picture(path.read_bytes())


def show(run_dir: str | Path) -> View:
    """Show a run in a notebook, pretraining or finetuning, also while it goes on: curves, numbers and pictures."""
    path = Path(run_dir)
    if not (path / "metrics.csv").is_file():
        raise RunError(f"run_dir={path} holds no run with a metrics.csv: give the directory of one")
    return View(path)


def notebook() -> Callable[..., Any] | None:
    """Find what shows things in the notebook that this process computes for; None elsewhere."""
    python = sys.modules.get("IPython")
    shell = None if python is None else python.get_ipython()
    return None if getattr(shell, "kernel", None) is None else sys.modules["IPython.display"].display


def curve(rows: Sequence[dict[str, str]], name: str, colour: str) -> str:
    """Draw a column over the steps as SVG; nothing where it has fewer than two values."""
    points = [(float(row["step"]), float(row[name])) for row in rows if row.get(name)]
    points = [(step, value) for step, value in points if value - value == 0.0]  # finite
    if len(points) < 2:
        return ""
    steps, values = zip(*points, strict=True)
    low, high = min(values), max(values)
    across, up = (WIDTH - 2 * MARGIN) / max(steps[-1] - steps[0], 1.0), (HEIGHT - 2 * MARGIN) / ((high - low) or 1.0)
    line = " ".join(f"{MARGIN + (x - steps[0]) * across:.1f},{HEIGHT - MARGIN - (y - low) * up:.1f}" for x, y in points)
    at = {(4, MARGIN): _short(high), (4, HEIGHT - MARGIN): _short(low), (MARGIN, 24): name}
    at |= {(MARGIN, HEIGHT - 14): _short(steps[0]), (WIDTH - MARGIN, HEIGHT - 14): f"{_short(steps[-1])} steps"}
    text = "".join(f'<text x="{x}" y="{y}">{html.escape(what)}</text>' for (x, y), what in at.items())
    size = f'width="{WIDTH + 40}" height="{HEIGHT}" style="max-width: 100%"'
    style = 'font-family="sans-serif" font-size="11" fill="currentColor"'
    path = f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{line}"/>'
    return f'<svg {size} viewBox="0 0 {WIDTH + 40} {HEIGHT}" role="img" aria-label="{name}" {style}>{text}{path}</svg>'


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
