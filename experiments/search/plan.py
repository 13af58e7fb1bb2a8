"""What a search is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PRUNERS = ("median", "hyperband", "none")


@dataclass(frozen=True)
class Plan:
    """A search: what stands, what varies, how many trials by which metric, and where all of it is kept."""

    directory: Path
    fixed: tuple[str, ...]
    space: Mapping[str, Any]
    trials: int
    metric: str
    goal: Literal["minimize", "maximize"]
    pruner: str
    seed: int
