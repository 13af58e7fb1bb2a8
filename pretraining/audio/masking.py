"""Which frames are hidden: spans at random places (Baevski et al. 2020, "wav2vec 2.0", section 3.1).

Shapes: B rows, T frames.
"""

from __future__ import annotations

import numpy as np

from pretraining.data.order import lowest, shuffled
from pretraining.random import Keys, uniform


def span_mask(frames: np.ndarray, keys: Keys, *, share: float, span: int, slot: str = "mask") -> np.ndarray:
    """Hide spans of `span` frames in rows of so many `frames` [B]. bool [B, T]

    As in fairseq a row of n frames gets share * n / span spans, rounded up or down at random, at least one; their
    starts are drawn without replacement, and they may overlap: 0.65 hides 49 % of 499 frames. Nothing behind a row is
    ever hidden, and never all of it: spans are dropped until a frame is left. In a row of fewer than span + 2 frames
    spans are a third of it. `slot` names the draws.
    """
    width = int(frames.max(initial=0))
    spans = np.where(frames < span + 2, np.maximum(1, frames // 3), span)
    starts = frames - spans + 1
    wanted = (share * frames / spans + uniform(keys, f"{slot}.round", 1)[:, 0]).astype(np.int64)
    wanted = np.clip(wanted, 1, starts)
    order = shuffled(np.arange(width) < starts[:, None], keys, f"{slot}.start")
    while True:
        chosen = lowest(order, wanted)
        borders = np.zeros((len(frames), width + 1), np.int64)
        borders[:, :width] += chosen
        row, start = np.nonzero(chosen)
        np.subtract.at(borders, (row, start + spans[row]), 1)
        hidden = np.cumsum(borders[:, :width], 1) > 0
        full = (hidden.sum(1) >= frames) & (wanted > 1)
        if not full.any():
            return hidden
        wanted[full] -= 1
