"""Any logger of Lightning's kind beside metrics.csv and Weights & Biases."""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from pretraining.cache import replace_text
from pretraining.errors import reason_of

RUN_KEYS = ("run_id", "experiment_key", "id")  # what constructors of loggers call the run that they continue
PLACE = "{run_dir}"  # stands for the run's directory in a logger's arguments


class OtherHistory(Logger):
    """Hands rows to the logger that `make` makes. What that raises is said once, and it gets no more of this run.

    A resumed run goes on in the same run of the logger where its constructor takes one; `loggers/runs.json` in the run
    directory remembers which. TensorBoard drops what it holds behind the step that the run goes on from; others get
    those rows again, with equal numbers. `settings` is the run's configuration, which it gets once.
    """

    def __init__(self, name: str, *, make: Callable[..., Any], directory: Path, settings: dict[str, Any]) -> None:
        super().__init__()
        self._name, self._make, self._settings = name, make, settings
        self._memory = directory / "loggers" / "runs.json"
        self._memory.parent.mkdir(parents=True, exist_ok=True)  # for files of theirs
        kind = getattr(make, "func", make)
        self._is_tensorboard = isinstance(kind, type) and issubclass(kind, TensorBoardLogger)
        taken = inspect.signature(kind).parameters
        self._key = next((key for key in RUN_KEYS if key in taken), None)
        self._known = self._remembered().get(name)
        self._inner, self._begun = self._continued(), False

    @property
    def name(self) -> str:
        """What conf/ calls it."""
        return self._name

    version = ""

    def _remembered(self) -> dict[str, str]:
        return json.loads(self._memory.read_text("utf-8")) if self._memory.exists() else {}

    def _continued(self, **more: Any) -> Any:
        """Make the logger, of the run that it knows."""
        return self._make(**more, **({} if self._key is None or self._known is None else {self._key: self._known}))

    @rank_zero_only
    def cut_back(self, step: int) -> None:
        """Go on behind `step`, whatever was logged before."""
        if self._is_tensorboard and not self._begun:
            with self._spared():
                self._inner = self._continued(purge_step=step + 1)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the configuration goes along with the first row."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Send a row, at once: what a killed run has logged stays."""
        with self._spared():
            if self._inner is None:
                return
            self._begin()
            self._inner.log_metrics(
                {name: part for name, part in metrics.items() if isinstance(part, int | float)}, step
            )
            self._inner.save()

    def _begin(self) -> None:
        """Send the configuration, and remember the run, once."""
        if self._begun:
            return
        self._begun = True
        if self._known is None:
            self._inner.log_hyperparams(self._settings)
        if self._key is not None:
            replace_text(self._memory, json.dumps(self._remembered() | {self.name: str(self._inner.version)}))

    @contextlib.contextmanager
    def _spared(self) -> Iterator[None]:
        """Keep from the run whatever the logger raises: it is said once, and the logger is not called again."""
        try:
            yield
        except Exception as error:
            print(f"logger {self.name}: the rest of this run is left out: {reason_of(error)}", file=sys.stderr)
            self._inner = None

    @rank_zero_only
    def save(self) -> None:
        """Put what was logged where it belongs."""
        with self._spared():
            if self._inner is not None:
                self._inner.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close it with the state of the run."""
        with self._spared():
            if self._inner is not None:
                self._inner.finalize(status)


def placed(tree: Any, directory: Path) -> Any:
    """Put the run's directory into all texts of a logger's arguments."""
    if isinstance(tree, dict):
        return {name: placed(part, directory) for name, part in tree.items()}
    if isinstance(tree, list):
        return [placed(part, directory) for part in tree]
    return tree.replace(PLACE, str(directory)) if isinstance(tree, str) else tree
