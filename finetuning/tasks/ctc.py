"""From scores of every frame to a text: what a connectionist temporal classifier says (Graves et al. 2006).

Shapes: T frames, V symbols; symbol 0 is blank.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pretraining.errors import RunError

BLANK = 0
NONE = -np.inf


@dataclass(kw_only=True)
class CtcDecoding:
    """`beam` 1 takes each frame's best symbol; more search the texts themselves, so many of them at a time."""

    beam: int = 1

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise RunError(f"got task.decoding.beam={self.beam}: give a number of at least 1")

    def __call__(self, log_probabilities: np.ndarray) -> list[int]:
        """Find a text as symbols, given log probabilities [T, V]."""
        return greedy(log_probabilities) if self.beam == 1 else prefix_beam_search(log_probabilities, self.beam)


def greedy(log_probabilities: np.ndarray) -> list[int]:
    """Take each frame's best symbol, join repeated ones, and drop blanks."""
    best = log_probabilities.argmax(1)
    fresh = np.concatenate([[True], best[1:] != best[:-1]])
    return [int(symbol) for symbol in best[fresh] if symbol != BLANK]


def prefix_beam_search(log_probabilities: np.ndarray, beam: int) -> list[int]:
    """Find the most probable text, all its alignments added up (Hannun et al. 2014, algorithm 1, without a language).

    The `beam` most probable beginnings are kept after each frame; each has the log probabilities of its alignments that
    end in blank and in its last symbol. With a beam that nothing falls out of the search is exact.
    """
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, NONE)}
    for frame in log_probabilities.astype(np.float64):
        grown: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [NONE, NONE])
        for prefix, (blank, last) in beams.items():
            total = np.logaddexp(blank, last)
            stays = grown[prefix]
            stays[0] = np.logaddexp(stays[0], total + frame[BLANK])
            if prefix:
                stays[1] = np.logaddexp(stays[1], last + frame[prefix[-1]])
            for symbol in range(1, len(frame)):
                # The same symbol again is a new one only behind a blank.
                before = blank if prefix and symbol == prefix[-1] else total
                longer = grown[(*prefix, symbol)]
                longer[1] = np.logaddexp(longer[1], before + frame[symbol])
        best = sorted(grown.items(), key=lambda item: (-np.logaddexp(item[1][0], item[1][1]), item[0]))[:beam]
        beams = {prefix: (ends[0], ends[1]) for prefix, ends in best}
    return list(next(iter(beams)))


def needed_frames(targets: Tensor, per_row: Tensor) -> Tensor:
    """Count the frames that each row's targets need at least: one each, and a blank between two that are equal. [B]

    `targets` are those of all rows, one after the other.
    """
    owner = torch.arange(len(per_row), device=per_row.device).repeat_interleave(per_row)
    again = (targets[1:] == targets[:-1]) & (owner[1:] == owner[:-1])
    return per_row + per_row.new_zeros(len(per_row)).index_add(0, owner[1:], again.to(per_row.dtype))
