"""Serves optimizer steps: which examples belong to a step is decided by its place in the run, and by nothing else.

Epochs are keyed permutations of a plan's rows, laid end to end; step s is the next `batch_size` of them, so rows that
do not fill a step open the next epoch's first. A step is cut into `accumulate` chunks and each chunk into equal shares
of the ranks: the same examples and draws whatever the workers and ranks, fresh or resumed. The position is three
integers.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pretraining.data.source import Source
from pretraining.engine.batch import Batch, Step
from pretraining.engine.watchdog import heartbeat
from pretraining.errors import RunError
from pretraining.random import Keys, permuted

Collate = Callable[[Any, Keys], Batch]
Ranks = tuple[int, int]  # this one, and how many there are
Examples = TypeVar("Examples", bound=tuple)
NO_ROWS = "has no rows: give more data (data.path=) or shorter rows (data.max_tokens=)"
EVALUATION_SEED = 0  # of masks and views in evaluation: the same for each run, so that their losses can be compared


class Segment(NamedTuple):
    """A run of consecutive positions within one epoch's order."""

    epoch: int
    start: int
    stop: int
    size: int  # rows in that epoch


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


class _Steps(Dataset[Step]):
    """Builds this rank's share of a step from its segments; runs in the workers."""

    stream = "train"

    def __init__(
        self, source: Source, collate: Collate, *, seed: int, accumulate: int, ranks: Ranks, max_steps: int
    ) -> None:
        self.source, self.collate, self.seed, self.max_steps = source, collate, seed, max_steps
        self.accumulate, (self.rank, self.world) = accumulate, ranks

    def __getitem__(self, place: tuple[int, list[Segment]]) -> Step:
        number, segments = place
        epochs = np.concatenate([np.full(part.stop - part.start, part.epoch, np.int64) for part in segments])
        rows = np.concatenate([self._rows(part) for part in segments])
        share = len(rows) // (self.accumulate * self.world)
        chunks = np.arange(len(rows)).reshape(self.accumulate, self.world, share)[:, self.rank]
        batches = [self._batch(epochs[chunk], rows[chunk], number / self.max_steps) for chunk in chunks]
        units = sum(batch.get("units", share) for batch in batches)
        return Step(number, batches, examples=share * self.accumulate, units=units)

    def _rows(self, part: Segment) -> np.ndarray:
        positions = np.arange(part.start, part.stop)
        return permuted(positions, part.size, seed=self.seed, epoch=part.epoch, stream=self.stream)

    def _batch(self, epochs: np.ndarray, rows: np.ndarray, progress: float) -> Batch:
        bounds = [0, *(np.flatnonzero(np.diff(epochs)) + 1).tolist(), len(rows)]
        parts = [self.source.read(int(epochs[first]), rows[first:last]) for first, last in itertools.pairwise(bounds)]
        return collated(self.collate, joined(parts), Keys(self.seed, self.stream, epochs, rows, progress))


def collated(collate: Collate, examples: Any, keys: Keys) -> Batch:
    """Collate raw examples and attach their keys, as tensors, for what the device still draws."""
    return {**collate(examples, keys), "keys": keys.to("cpu")}


class StepLoader:
    """Iterates over the steps that remain of a run of `max_steps`; each step once.

    It keeps the position in `state_dict`, counted when a step is handed out (not when a worker prefetched it).
    `wait_seconds` adds up the time that the consumer spent waiting.
    """

    def __init__(
        self,
        source: Source,
        collate: Collate,
        *,
        batch_size: int,
        max_steps: int,
        seed: int,
        accumulate: int = 1,
        workers: int = 0,
        ranks: Ranks = (0, 1),
    ) -> None:
        check_batch_size(batch_size, accumulate, ranks[1])
        if source.count(0) == 0:
            raise ValueError(f"the training data {NO_ROWS}")
        self.source, self.batch_size, self.max_steps = source, batch_size, max_steps
        self.workers, self.wait_seconds = workers, 0.0
        self._steps = _Steps(source, collate, seed=seed, accumulate=accumulate, ranks=ranks, max_steps=max_steps)
        self._position = {"step": 0, "epoch": 0, "consumed": 0}

    def __len__(self) -> int:
        return self.max_steps

    def _places(self) -> Iterator[tuple[dict[str, int], tuple[int, list[Segment]]]]:
        """Walk from the current position: the position after each step, and what the step holds."""
        step, epoch, consumed = self._position["step"], self._position["epoch"], self._position["consumed"]
        while step < self.max_steps:
            segments, wanted = [], self.batch_size
            while wanted:
                size = self.source.count(epoch)
                stop = min(size, consumed + wanted)
                segments.append(Segment(epoch, consumed, stop, size))
                wanted -= stop - consumed
                consumed = stop
                if consumed == size:
                    epoch, consumed = epoch + 1, 0
            yield {"step": step + 1, "epoch": epoch, "consumed": consumed}, (step, segments)
            step += 1

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
            self._position = next(places)[0]
            yield step

    def state_dict(self) -> dict[str, int]:
        """Copy the position after the last step handed out."""
        return dict(self._position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a saved position."""
        self._position = {name: int(state[name]) for name in ("step", "epoch", "consumed")}


def check_batch_size(batch_size: int, accumulate: int, world: int) -> None:
    """Refuse a batch size that does not divide into equal micro-batches, naming the values near it that do."""
    unit = accumulate * world
    if batch_size < 1 or batch_size % unit:
        below, above = batch_size // unit * unit, (batch_size // unit + 1) * unit
        values = " or ".join(str(value) for value in (below, above) if value)
        what = f"data.batch_size={batch_size} does not divide into {world} rank(s) x trainer.accumulate={accumulate}"
        raise RunError(f"{what}: set data.batch_size to {values}, or change trainer.accumulate")


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
