"""From scores of every frame to a text: what a connectionist temporal classifier says (Graves et al. 2006).

Shapes: T frames, V symbols; symbol 0 is blank.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from finetuning.tasks.ngrams import CharacterNgrams
from pretraining.errors import RunError

BLANK = 0
NONE = -np.inf


Prior = Callable[[Sequence[int]], np.ndarray]


@dataclass(kw_only=True)
class CtcDecoding:
    """`beam` 1 takes each frame's best symbol; more search the texts themselves, so many of them at a time.

    With `ngram` above 0 the search prefers what an n-gram model of that order finds likely: a text is worth the log of
    its chance by its recording, plus `alpha` times that by the model, plus `beta` for each character (Hannun et al.
    2014, equation 3, there by words). The model is of the training transcripts, or of the lines of the file `texts`.
    """

    beam: int = 1
    ngram: int = 0
    texts: str | None = None
    alpha: float = 0.5
    beta: float = 0.0
    language: CharacterNgrams | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise RunError(f"got task.decoding.beam={self.beam}: give a number of at least 1")
        if self.ngram and self.beam == 1:
            what = f"got task.decoding.ngram={self.ngram} and beam=1, which searches no texts"
            raise RunError(f"{what}: set task.decoding.beam=16, or ngram=0")
        if self.texts is not None and not self.ngram:
            what = f"got task.decoding.texts={self.texts} and ngram=0, which learns nothing of them"
            raise RunError(f"{what}: set task.decoding.ngram=5, for example")

    def __call__(self, log_probabilities: np.ndarray) -> list[int]:
        """Find a text as symbols, given log probabilities [T, V]."""
        if self.beam == 1:
            return greedy(log_probabilities)
        return prefix_beam_search(log_probabilities, self.beam, None if self.language is None else self.worth)

    def worth(self, symbols: Sequence[int]) -> np.ndarray:
        """Compute what a text's beginning gains by each symbol that may follow, or (0) by its end. [V]"""
        assert self.language is not None
        gains = self.alpha * self.language(symbols)
        gains[1:] += self.beta
        return gains


def greedy(log_probabilities: np.ndarray) -> list[int]:
    """Take each frame's best symbol, join repeated ones, and drop blanks."""
    best = log_probabilities.argmax(1)
    fresh = np.concatenate([[True], best[1:] != best[:-1]])
    return [int(symbol) for symbol in best[fresh] if symbol != BLANK]


def prefix_beam_search(log_probabilities: np.ndarray, beam: int, prior: Prior | None = None) -> list[int]:
    """Find the most probable text, all its alignments added up (Hannun et al. 2014, algorithm 1).

    `prior` names log factors [V] of symbols that may follow a beginning, and at 0 that of its end. The `beam` most
    probable beginnings are kept after each frame; each has the log probabilities of its alignments that end in blank
    and in its last symbol. With a beam that nothing falls out of the search is exact.
    """
    prior = prior or (lambda _: np.zeros(log_probabilities.shape[1]))
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, NONE)}
    for frame in log_probabilities.astype(np.float64):
        grown: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [NONE, NONE])
        for prefix, (blank, last) in beams.items():
            total = np.logaddexp(blank, last)
            stays = grown[prefix]
            stays[0] = np.logaddexp(stays[0], total + frame[BLANK])
            if prefix:
                stays[1] = np.logaddexp(stays[1], last + frame[prefix[-1]])
            gains = frame + prior(prefix)
            for symbol in range(1, len(frame)):
                # The same symbol again is a new one only behind a blank.
                before = blank if prefix and symbol == prefix[-1] else total
                longer = grown[(*prefix, symbol)]
                longer[1] = np.logaddexp(longer[1], before + gains[symbol])
        best = sorted(grown.items(), key=lambda item: (-np.logaddexp(item[1][0], item[1][1]), item[0]))[:beam]
        beams = {prefix: (ends[0], ends[1]) for prefix, ends in best}
    found = max(beams, key=lambda prefix: np.logaddexp(*beams[prefix]) + prior(prefix)[BLANK])
    return list(found)


def needed_frames(targets: Tensor, per_row: Tensor) -> Tensor:
    """Count the frames that each row's targets need at least: one each, and a blank between two that are equal. [B]

    `targets` are those of all rows, one after the other.
    """
    owner = torch.arange(len(per_row), device=per_row.device).repeat_interleave(per_row)
    again = (targets[1:] == targets[:-1]) & (owner[1:] == owner[:-1])
    return per_row + per_row.new_zeros(len(per_row)).index_add(0, owner[1:], again.to(per_row.dtype))
