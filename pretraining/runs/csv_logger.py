"""Where a run's numbers go: metrics.csv, which survives anything."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from pretraining.cache import replace_file, room


class CsvHistory(Logger):
    """metrics.csv: a row per logged step, a column per metric, empty where a metric was not measured.

    Whatever is logged under one step shares a row. A row is on disk once a later step is logged, or `save` is called.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.columns: list[str] = ["step"]
        self._open_row: dict[str, Any] = {}

    name = "csv"
    version = ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml holds them."""

    @rank_zero_only
    def cut_back(self, step: int) -> None:
        """Drop the rows behind `step`, so that a resumed run writes them again, equal."""
        if not self.path.exists():
            return
        rows = self.rows()
        self.columns = list(rows[0]) if rows else ["step"]
        # A kill in the middle of a write leaves a short last row, behind the checkpoint, whose rows were synced.
        whole = [row for row in rows if row["step"] and None not in row.values()]
        self._rewrite([row for row in whole if int(row["step"]) <= step])

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add metrics to the row of `step`."""
        assert step is not None
        if self._open_row and self._open_row["step"] != step:
            self.save()
        self._open_row |= {"step": step, **metrics}

    @rank_zero_only
    def save(self) -> None:
        """Put the open row on disk."""
        if not self._open_row:
            return
        row, self._open_row = self._open_row, {}
        fresh = [name for name in row if name not in self.columns]
        if fresh or not self.path.exists():
            self.columns += fresh
            self._rewrite(self.rows())
        with room(self.path.parent), self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow({name: _written(value) for name, value in row.items()})
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> list[dict[str, str]]:
        """Read the rows that are on disk."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with replace_file(self.path) as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Put the open row on disk at the end of a run, however it ends."""
        self.save()


def _written(value: Any) -> Any:
    """Ten digits: enough to compare runs, too few for the order of a sum over ranks to show."""
    return f"{value:.10g}" if isinstance(value, float) else value
