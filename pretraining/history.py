"""Where a run's numbers go: metrics.csv, which survives anything, and Weights & Biases, which nothing depends on."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only


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
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
            self.columns = list(rows[0]) if rows else ["step"]
        # A kill in the middle of a write leaves a short last row: it lies behind the checkpoint, whose rows were synced.
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
        with self.path.open("a", newline="", encoding="utf-8") as file:
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
        temporary = self.path.with_suffix(".csv.writing")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Put the open row on disk at the end of a run, however it ends."""
        self.save()


def _written(value: Any) -> Any:
    """Ten digits: enough to compare runs, too few for the order of a sum over ranks to show."""
    return f"{value:.10g}" if isinstance(value, float) else value


class WandbHistory(Logger):
    """Weights & Biases: offline unless a key is configured, and never a reason for a run to fail.

    `mode` is auto (online with WANDB_API_KEY or after `wandb login`, else offline), online, offline or disabled. The run id lives in
    the run directory, so a resumed run continues the same W&B run.
    """

    def __init__(
        self,
        directory: Path,
        *,
        project: str,
        mode: str,
        name: str,
        group: str | None,
        job_type: str,
        tags: list[str],
        config: dict[str, Any],
    ) -> None:
        super().__init__()
        self.directory, self.mode = directory, mode
        self.options = {"project": project, "name": name, "group": group, "job_type": job_type, "tags": tags, "config": config}
        self._run: Any = None
        self._tried = False

    name = "wandb"

    @property
    def version(self) -> str:
        """Give the run id: made once, kept in the run directory."""
        path = self.directory / "wandb_id.txt"
        if not path.exists():
            path.write_text(os.urandom(4).hex() + "\n")
        return path.read_text().strip()

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Start the W&B run when first needed; None where it cannot be had."""
        if not self._tried:
            self._tried = True
            self._run = self._start()
        return self._run

    def _start(self) -> Any:
        import wandb

        mode = ("online" if _wandb_key() else "offline") if self.mode == "auto" else self.mode
        settings = wandb.Settings(init_timeout=20, silent=True, x_disable_stats=False, console="off", x_file_transfer_timeout_seconds=20)
        try:
            run = wandb.init(id=self.version, resume="allow", dir=self.directory, mode=mode, settings=settings, **self.options)  # type: ignore[arg-type]
        except (wandb.Error, OSError) as error:
            print(f"W&B is left out of this run: {error}", file=sys.stderr)
            return None
        run.define_metric("*", step_metric="step")
        for axis in ("examples", "tokens", "flops", "time"):
            run.define_metric(axis)
        return run

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the config went along at the start."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Send metrics with their step."""
        if self.experiment is not None:
            self.experiment.log({"step": step, **metrics})

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the run with its state."""
        if self._run is not None:
            self._run.finish(exit_code=0 if status == "success" else 1)
            self._run, self._tried = None, False


def _wandb_key() -> bool:
    """Tell whether a key is configured, without asking anyone."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return netrc.exists() and "wandb" in netrc.read_text(errors="ignore")
