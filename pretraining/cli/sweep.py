"""A sweep of a command line: which of its jobs begins, and in the end a table of what each has reached."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from pretraining.distributed.environment import process_rank


class Sweep:
    """Follows the jobs that a command line begins in this process; without -m, and on other ranks, it says nothing."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.speaks = any(argument in ("-m", "--multirun") for argument in arguments) and process_rank() == 0
        self.overrides = [argument for argument in arguments if not argument.startswith("-")]
        # Only what varies names a job. Read here: a job on a cluster has another command line.
        self.varied = [given.partition("=")[0] for given in self.overrides if "," in given or "(" in given]
        self.rows: list[tuple[list[str], DictConfig]] = []

    def begin(self, config: DictConfig, overrides: Sequence[str]) -> None:
        """Say which job this is, of how many."""
        mine = [given for given in overrides if given.partition("=")[0] in self.varied]
        self.rows.append((mine, config))
        if self.speaks:
            print(f"job {len(self.rows)}/{self._count()}: {' '.join(mine)}", file=sys.stderr, flush=True)

    def _count(self) -> int:
        """Multiply the choices out (Hydra has parsed them before a job begins)."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        parsed = OverridesParser.create().parse_overrides(self.overrides)
        return math.prod(len(list(one.sweep_iterator())) for one in parsed if one.is_discrete_sweep())

    def end(self) -> None:
        """Print a row for each job that came to its end, with the metric that it is chosen by."""
        if not self.speaks or not self.rows:
            return
        task = self.rows[0][1].get("task")
        name = "validation/loss" if task is None else f"test/{task.select.removeprefix('-')}"
        table = [["job", *self.varied, name, "run_dir"]]
        for number, (mine, config) in enumerate(self.rows, 1):
            path = Path(config.run_dir) / "metrics.json"
            value = json.loads(path.read_text("utf-8")).get(name) if path.exists() else None
            chosen = dict(given.partition("=")[::2] for given in mine)
            cells = [chosen.get(key, "") for key in self.varied]
            table.append([str(number), *cells, "-" if value is None else f"{value:.4f}", str(config.run_dir)])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print(line.rstrip(), file=sys.stderr)
