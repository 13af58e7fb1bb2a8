"""Places drawn in an order that is a function of the example's key: what masks of any modality are made of.

Shapes: B rows, N places.
"""

from __future__ import annotations

import numpy as np

from pretraining.random import Keys, bits

_PLACE_BITS = 20  # below a draw's 32 bits: the place in the row, so that no two sort keys are equal
_LAST = np.int64(1) << 62  # sorts behind every drawn key


def shuffled(eligible: np.ndarray, keys: Keys, slot: str, view: int = 0) -> np.ndarray:
    """Draw a sort key for each eligible place of a row, no two alike, and larger ones for the rest. int64 [B, N]."""
    count = eligible.shape[1]
    drawn = (bits(keys, slot, count, view) << _PLACE_BITS) | np.arange(count)
    return np.where(eligible, drawn, _LAST)


def lowest(order: np.ndarray, how_many: np.ndarray) -> np.ndarray:
    """Mark the `how_many` [B] smallest keys of each row. bool [B, N]."""
    if not order.size:
        return np.zeros(order.shape, dtype=bool)
    limit = np.take_along_axis(np.sort(order, 1), np.maximum(how_many - 1, 0)[:, None], 1)
    return (order <= limit) & (order < _LAST) & (how_many > 0)[:, None]
