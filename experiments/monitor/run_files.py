"""What the files of a run directory tell of a run, also while they are being written."""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pretraining.cache import read_object

TAIL_BYTES = 8192


class Position(NamedTuple):
    """The step that a run has reached, and how many it is to make where that is known."""

    step: int
    planned: int | None

    def __str__(self) -> str:
        return f"{self.step:,} of {self.planned:,}" if self.planned else f"{self.step:,}"


@lru_cache(maxsize=256)
def read_config(run_dir: Path) -> dict[str, Any]:
    """Read config.yaml, which a run writes at its start; empty where there is none."""
    path = run_dir / "config.yaml"
    return read_object(path, yaml.safe_load) if path.exists() else {}


def trainer_settings(run_dir: Path) -> dict[str, Any]:
    """Read the trainer's part of a run's configuration."""
    return read_config(run_dir).get("trainer") or {}


def read_position(run_dir: Path) -> Position | None:
    """Read how far a run is from the end of its metrics.csv; None before the first row."""
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
    return Position(int(values[columns.index("step")]), trainer_settings(run_dir).get("max_steps"))
