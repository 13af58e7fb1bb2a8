"""Which rows each optimizer step holds: a function of the seed and of the step's place in the run, and of nothing else.

Shapes: N rows of an epoch, B rows of a step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from pretraining.data.source import Source
from pretraining.errors import RunError
from pretraining.random import permuted

Position = dict[str, int]  # steps served, the epoch, and how much of it is consumed: rows or steps
STREAM = "train"
GROUPS = 24  # of rows of about equal length; the order of each is tabulated, and kept, by `permuted`
STEPS_OF_A_GROUP = 4  # at least, or what does not fill its last one would weigh


class Batches(ABC):
    """A way of cutting epochs into steps. `rows_per_step`: on average."""

    rows_per_step: float

    @property
    def batch_size(self) -> int:
        """Count the rows of a step, rounded where steps differ."""
        return max(1, round(self.rows_per_step))

    @abstractmethod
    def check(self, accumulate: int, world: int) -> None:
        """Refuse steps that cannot be cut into `accumulate` micro-batches on each of `world` ranks."""

    @abstractmethod
    def walk(self, position: Position) -> Iterator[tuple[Position, Any]]:
        """Walk on from a position, without end: the position after each step, and the place that says which it is."""

    @abstractmethod
    def rows(self, place: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """List the rows of a step: their epochs, in order, and numbers. int64 [B] each"""


class Segment(NamedTuple):
    """A run of consecutive positions within one epoch's order."""

    epoch: int
    start: int
    stop: int
    size: int  # rows in that epoch


class EqualBatches(Batches):
    """Steps of `size` rows: epochs are keyed permutations, laid end to end.

    Rows that do not fill a step open the next epoch's first.
    """

    def __init__(self, source: Source, size: int) -> None:
        self.source, self.size, self.rows_per_step = source, size, float(size)

    def check(self, accumulate: int, world: int) -> None:
        """Refuse a size that does not divide into equal micro-batches."""
        check_batch_size(self.size, accumulate, world)

    def walk(self, position: Position) -> Iterator[tuple[Position, list[Segment]]]:
        """Take the next rows of an epoch's order, and of those after it."""
        step, epoch, consumed = position["step"], position["epoch"], position["consumed"]
        while True:
            segments, wanted = [], self.size
            while wanted:
                size = self.source.count(epoch)
                stop = min(size, consumed + wanted)
                segments.append(Segment(epoch, consumed, stop, size))
                wanted -= stop - consumed
                consumed = stop
                if consumed == size:
                    epoch, consumed = epoch + 1, 0
            step += 1
            yield {"step": step, "epoch": epoch, "consumed": consumed}, segments

    def rows(self, place: list[Segment], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Permute the positions of each segment."""
        epochs = np.concatenate([np.full(part.stop - part.start, part.epoch, np.int64) for part in place])
        parts = [np.arange(part.start, part.stop) for part in place]
        orders = [
            permuted(positions, part.size, seed=seed, epoch=part.epoch, stream=STREAM)
            for part, positions in zip(place, parts, strict=True)
        ]
        return epochs, np.concatenate(orders)


class LengthBatches(Batches):
    """Steps of rows of about equal length, which hold at most `most` together, each counted as the longest of them.

    Rows [N] are parted into groups by their `lengths`; each epoch permutes the rows of a group, deals them out evenly
    to as few steps as hold them, and permutes the steps of all groups. Every row is served once per epoch. `setting`
    is what errors call `most`.
    """

    def __init__(self, lengths: np.ndarray, most: float, setting: str) -> None:
        self.setting, self.groups = setting, groups_by_length(lengths, most)
        rooms = [int(most / lengths[group[-1]]) for group in self.groups]
        self.counts = [-(-len(group) // room) for group, room in zip(self.groups, rooms, strict=True)]  # of steps
        self.behind = np.cumsum(self.counts)
        self.rows_per_step = len(lengths) / int(self.behind[-1])

    def check(self, accumulate: int, world: int) -> None:
        """Refuse steps of fewer rows than there are micro-batches."""
        fewest = min(len(group) // count for group, count in zip(self.groups, self.counts, strict=True))
        if fewest < accumulate * world:
            what = f"{self.setting} holds only {fewest} of the longest rows, fewer than {world} rank(s)"
            raise RunError(f"{what} x trainer.accumulate={accumulate}: raise it, or lower trainer.accumulate")

    def walk(self, position: Position) -> Iterator[tuple[Position, tuple[int, int]]]:
        """Take the next step of an epoch."""
        step, epoch, consumed = position["step"], position["epoch"], position["consumed"]
        while True:
            place, consumed, step = (epoch, consumed), consumed + 1, step + 1
            if consumed == self.behind[-1]:
                epoch, consumed = epoch + 1, 0
            yield {"step": step, "epoch": epoch, "consumed": consumed}, place

    def rows(self, place: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the step's group, and its share of the group's order."""
        epoch, number = place
        (step,) = permuted(np.array([number]), int(self.behind[-1]), seed=seed, epoch=epoch, stream=f"{STREAM} steps")
        which = int(np.searchsorted(self.behind, step, side="right"))
        group, count = self.groups[which], self.counts[which]
        share = int(step - self.behind[which]) + count
        positions = np.arange(share * len(group) // count, (share + 1) * len(group) // count)
        order = permuted(positions, len(group), seed=seed, epoch=epoch, stream=f"{STREAM} group {which}")
        return np.full(len(positions), epoch, np.int64), group[order]


def groups_by_length(lengths: np.ndarray, most: float) -> list[np.ndarray]:
    """Part rows by their lengths [N] into groups that add up to about the same, shortest first. int64 each

    Each but a lone one has enough for several steps of `most`.
    """
    order = np.argsort(lengths, kind="stable")
    total = np.cumsum(lengths[order], dtype=np.float64)
    wanted = int(np.clip(total[-1] / (STEPS_OF_A_GROUP * most), 1, GROUPS))
    bounds = np.searchsorted(total, total[-1] * np.arange(1, wanted) / wanted)
    return [group for group in np.split(order, np.unique(bounds)) if len(group)]


def batches_of(source: Source, batch_size: int) -> Batches:
    """Take a source's own `batches`, or else cut it into steps of `batch_size` rows."""
    own: Batches | None = getattr(source, "batches", None)
    return EqualBatches(source, batch_size) if own is None else own


def check_batch_size(batch_size: int, accumulate: int, world: int) -> None:
    """Refuse a batch size that does not divide into equal micro-batches, naming the values near it that do."""
    unit = accumulate * world
    if batch_size < 1 or batch_size % unit:
        below, above = batch_size // unit * unit, (batch_size // unit + 1) * unit
        values = " or ".join(str(value) for value in (below, above) if value)
        what = f"data.batch_size={batch_size} does not divide into {world} rank(s) x trainer.accumulate={accumulate}"
        raise RunError(f"{what}: set data.batch_size to {values}, or change trainer.accumulate")
