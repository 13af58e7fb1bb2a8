"""How documents fill rows: cutting the long ones, then bin packing by best fit.

Both work on whole arrays: their time grows with the number of pieces only inside numpy.
"""

from __future__ import annotations

import bisect

import numpy as np


def cut(sentence_offsets: np.ndarray, document_offsets: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut documents into pieces of at most `capacity` tokens: starts and lengths, int64 [P], in corpus order.

    A piece ends with its document, else at the last sentence border that fits, else after `capacity` tokens.
    """
    borders = sentence_offsets[document_offsets]
    starts, ends = borders[:-1].astype(np.int64), borders[1:].astype(np.int64)
    pieces, stops = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    while len(starts):
        limit = np.minimum(starts + capacity, ends)
        fitting = sentence_offsets[np.searchsorted(sentence_offsets, limit, side="right") - 1]
        stop = np.where(fitting > starts, fitting, limit)
        pieces.append(starts)
        stops.append(stop)
        unfinished = stop < ends
        starts, ends = stop[unfinished], ends[unfinished]
    first, behind = np.concatenate(pieces), np.concatenate(stops)
    order = np.argsort(first)
    return first[order], (behind - first)[order]


def best_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Pack pieces into rows of `capacity`, the largest first, each where it leaves the least room. int64 [P]: its row.

    Pieces of a size are placed together: a row with the least room that fits one takes as many of them as it holds,
    because after each it has the least room again. Equal pieces keep their order.
    """
    row_of = np.empty(len(sizes), dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(sizes[order])) + 1) if len(order) else []
    rows = _OpenRows(capacity)
    for pieces in groups:
        size = int(sizes[pieces[0]])
        while len(pieces):
            room, taken, per_row = rows.take(size, len(pieces))
            filled = min(len(pieces), per_row * len(taken))
            row_of[pieces[:filled]] = np.repeat(taken, per_row)[:filled]
            pieces = pieces[filled:]
            full, rest = divmod(filled, per_row)
            rows.leave(room - per_row * size, taken[:full])
            rows.leave(room - rest * size, taken[full:])
    return row_of


class _OpenRows:
    """Rows that still have room, by how much they have."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.count = capacity, 0
        self._rows: dict[int, list[np.ndarray]] = {}
        self._rooms: list[int] = []  # ascending

    def take(self, size: int, pieces: int) -> tuple[int, np.ndarray, int]:
        """Take rows of the least room for `size`, as many as `pieces` fill: the room, the rows, how many each holds."""
        place = bisect.bisect_left(self._rooms, size)
        if place == len(self._rooms):
            per_row = self.capacity // size
            rows = np.arange(self.count, self.count - (-pieces // per_row))
            self.count += len(rows)
            return self.capacity, rows, per_row
        room = self._rooms[place]
        per_row = room // size
        rows = self._rows[room].pop()
        if not self._rows[room]:
            del self._rows[room], self._rooms[place]
        wanted = -(-pieces // per_row)
        self.leave(room, rows[wanted:])
        return room, rows[:wanted], per_row

    def leave(self, room: int, rows: np.ndarray) -> None:
        """Put rows back."""
        if room == 0 or len(rows) == 0:
            return
        if room not in self._rows:
            self._rows[room] = []
            bisect.insort(self._rooms, room)
        self._rows[room].append(rows)
