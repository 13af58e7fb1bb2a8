"""Several sources as one, each with its share of the rows of every epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pretraining.data.loader import joined
from pretraining.random import permuted


class Part(NamedTuple):
    """Rows of one source among the rows that were asked for."""

    source: int
    epoch: int  # of the source
    rows: np.ndarray  # int64, in the source's plan of that epoch
    places: np.ndarray  # int64, among the rows that were asked for, ascending


class MixedRows:
    """Serves rows of several sources: those of an epoch are blocks, one per source, which the loader's order mixes.

    An epoch is as long as it can be without repeating a row of any source. A source's own epochs follow one another,
    each in a keyed order, and a mixed epoch takes the next rows of that sequence. `take` picks rows of examples that
    were read together.
    """

    def __init__(
        self, sources: Sequence[Any], weights: np.ndarray, *, seed: int, take: Callable[[Any, np.ndarray], Any]
    ) -> None:
        self.sources: list[Any] = list(sources)  # each a `Source`
        self.seed, self.take = seed, take
        self._sizes = np.array([source.count(0) for source in sources])
        rows = float((self._sizes / weights).min())
        self.shares = np.maximum(np.floor(weights * rows + 1e-6), 1).astype(np.int64)  # of each source in an epoch
        self._begins = np.cumsum(self.shares) - self.shares

    def count(self, epoch: int) -> int:
        """Count the rows of an epoch; all have the same number."""
        return int(self.shares.sum())

    def parts(self, epoch: int, rows: np.ndarray) -> list[Part]:
        """Find rows in their sources, in the order of sources and their epochs."""
        which = np.searchsorted(self._begins, rows, side="right") - 1
        position = epoch * self.shares[which] + rows - self._begins[which]
        turn, place = position // self._sizes[which], position % self._sizes[which]
        found = []
        for source, number in sorted(set(zip(which.tolist(), turn.tolist(), strict=True))):
            here = np.flatnonzero((which == source) & (turn == number))
            size = self.sources[source].count(number)  # plans that are drawn anew may differ a little in length
            own = permuted(place[here] % size, size, seed=self.seed, epoch=number, stream=f"mixture.{source}")
            found.append(Part(source, number, own, here))
        return found

    def read(self, epoch: int, rows: np.ndarray) -> Any:
        """Read rows by number."""
        parts = self.parts(epoch, rows)
        examples = joined([self.sources[part.source].read(part.epoch, part.rows) for part in parts])
        return self.take(examples, np.argsort(np.concatenate([part.places for part in parts])))
