"""Serves optimizer steps: which examples belong to a step is decided by its place in the run, and by nothing else.

`Batches` says which rows a step holds. A step is cut into `accumulate` chunks and each chunk into equal shares of the
ranks (of about as many rows, where steps differ): the same examples and draws whatever the workers and ranks, fresh or
resumed. The position is three integers.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pretraining.data.batches import STREAM, Batches, Position, batches_of
from pretraining.data.source import Source
from pretraining.engine.batch import Batch, Step
from pretraining.engine.watchdog import heartbeat
from pretraining.errors import RunError
from pretraining.random import Keys

Collate = Callable[[Any, Keys], Batch]
Ranks = tuple[int, int]  # this one, and how many there are
Examples = TypeVar("Examples", bound=tuple)
NO_ROWS = "has no rows: give more data (data.path=) or shorter rows (data.max_tokens=)"
EVALUATION_SEED = 0  # of masks and views in evaluation: the same for each run, so that their losses can be compared


def joined(parts: list[Examples]) -> Examples:
    """Concatenate raw examples field by field; a field may hold others by name, and examples of its own."""
    if len(parts) == 1:
        return parts[0]

    def join(values: tuple[Any, ...]) -> Any:
        if values[0] is None:
            return None
        if isinstance(values[0], dict):
            return {name: join(tuple(value[name] for value in values)) for name in values[0]}
        return joined(list(values)) if isinstance(values[0], tuple) else np.concatenate(values)

    return type(parts[0])(*map(join, zip(*parts, strict=True)))


class _Steps(Dataset[Step | RunError]):
    """Builds this rank's share of a step from its place; runs in the workers."""

    def __init__(
        self,
        source: Source,
        collate: Collate,
        *,
        batches: Batches,
        seed: int,
        accumulate: int,
        ranks: Ranks,
        max_steps: int,
    ) -> None:
        self.source, self.collate, self.seed, self.max_steps = source, collate, seed, max_steps
        self.batches, self.accumulate, (self.rank, self.world) = batches, accumulate, ranks

    def __getitem__(self, place: tuple[int, Any]) -> Step | RunError:
        try:
            return self._step(*place)
        except RunError as error:  # such as a damaged image: torch would bury its words in a worker's traceback
            return error

    def _step(self, number: int, place: Any) -> Step:
        epochs, rows = self.batches.rows(place, self.seed)
        chunks = np.array_split(np.arange(len(rows)), self.accumulate * self.world)[self.rank :: self.world]
        served = [self._batch(epochs[chunk], rows[chunk], number / self.max_steps) for chunk in chunks]
        units = sum(batch.get("units", len(chunk)) for batch, chunk in zip(served, chunks, strict=True))
        return Step(number, served, examples=sum(map(len, chunks)), units=units)

    def _batch(self, epochs: np.ndarray, rows: np.ndarray, progress: float) -> Batch:
        bounds = [0, *(np.flatnonzero(np.diff(epochs)) + 1).tolist(), len(rows)]
        parts = [self.source.read(int(epochs[first]), rows[first:last]) for first, last in itertools.pairwise(bounds)]
        return collated(self.collate, joined(parts), Keys(self.seed, STREAM, epochs, rows, progress))


def collated(collate: Collate, examples: Any, keys: Keys) -> Batch:
    """Collate raw examples and attach their keys, as tensors, for what the device still draws."""
    return {**collate(examples, keys), "keys": keys.to("cpu")}


class StepLoader:
    """Iterates over the steps that remain of a run of `max_steps`; each step once.

    `batch_size`: rows of a step, where the source has no `batches` of its own; or `Batches` themselves. The position
    is kept in `state_dict`, counted when a step is handed out (not when a worker prefetched it). `wait_seconds` adds up
    the time that the consumer spent waiting.
    """

    def __init__(
        self,
        source: Source,
        collate: Collate,
        *,
        batch_size: int | Batches,
        max_steps: int,
        seed: int,
        accumulate: int = 1,
        workers: int = 0,
        ranks: Ranks = (0, 1),
    ) -> None:
        if source.count(0) == 0:
            raise ValueError(f"the training data {NO_ROWS}")
        self.batches = batch_size if isinstance(batch_size, Batches) else batches_of(source, batch_size)
        self.batches.check(accumulate, ranks[1])
        self.max_steps, self.workers, self.wait_seconds = max_steps, workers, 0.0
        order: dict[str, Any] = {"batches": self.batches, "seed": seed, "accumulate": accumulate, "ranks": ranks}
        self._steps = _Steps(source, collate, **order, max_steps=max_steps)
        self._position = {"step": 0, "epoch": 0, "consumed": 0}

    def __len__(self) -> int:
        return self.max_steps

    def _places(self) -> Iterator[tuple[Position, tuple[int, Any]]]:
        """Walk from the current position to the end: the position after each step, and the place of the step."""
        left = range(self._position["step"], self.max_steps)
        for step, (after, place) in zip(left, self.batches.walk(self._position), strict=False):
            yield after, (step, place)

    def __iter__(self) -> Iterator[Step]:
        loader = DataLoader(
            self._steps,
            batch_size=None,
            sampler=(place for _, place in self._places()),  # type: ignore[arg-type]
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
        )
        steps, places = iter(loader), self._places()
        while True:
            heartbeat("data")
            started = time.perf_counter()
            step = next(steps, None)
            self.wait_seconds += time.perf_counter() - started
            if step is None:
                return
            if isinstance(step, RunError):
                raise step
            self._position = next(places)[0]
            yield step

    def state_dict(self) -> dict[str, int]:
        """Copy the position after the last step handed out."""
        return dict(self._position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a saved position."""
        self._position = {name: int(state[name]) for name in ("step", "epoch", "consumed")}


class EvalLoader:
    """Iterates over a split in its own order, in equally many batches on each rank; yields (batch, share).

    The share is 1, or 0 for a batch repeated to make up the number. The rows left over by the last full batch form a
    smaller one, unless `full_batches` (losses that compare the examples of a batch need equal ones). Such a batch is
    served in `pieces`, one after another, as many as it has rows for.
    """

    def __init__(
        self,
        source: Source,
        collate: Collate,
        *,
        batch_size: int,
        ranks: Ranks = (0, 1),
        full_batches: bool = False,
        pieces: int = 1,
    ) -> None:
        rows = source.count(0)
        batch_size = min(batch_size, rows)
        if rows == 0:
            raise ValueError(f"the evaluation data {NO_ROWS}")
        if full_batches and rows < 2:
            raise ValueError("the evaluation data has 1 row, and this objective compares examples: give at least 2")
        stop = rows - rows % batch_size if full_batches else rows
        self.source, self.collate, self.ranks, self.pieces = source, collate, ranks, min(pieces, batch_size)
        self.batches = [np.arange(start, min(start + batch_size, stop)) for start in range(0, stop, batch_size)]

    def __len__(self) -> int:
        return -(-len(self.batches) // self.ranks[1])

    def __iter__(self) -> Iterator[tuple[Batch, float]]:
        rank, world = self.ranks
        for number in range(rank, len(self) * world, world):
            for rows in np.array_split(self.batches[min(number, len(self.batches) - 1)], self.pieces):
                keys = Keys(EVALUATION_SEED, "validation", np.zeros_like(rows), rows)
                yield collated(self.collate, self.source.read(0, rows), keys), float(number < len(self.batches))
