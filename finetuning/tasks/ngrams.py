"""How likely a text is, letter by letter: an n-gram model, for a decoder that is to prefer texts of a language.

Shapes: V symbols: the end of a text (0), then the characters of an alphabet.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

BORDER = "\n"  # stands before a text, as often as a context is long, and behind it


def count_ngrams(texts: Iterable[str], order: int) -> dict[str, int]:
    """Count the stretches of `order` characters that texts are made of, their borders included."""
    counts = Counter[str]()
    for text in texts:
        framed = BORDER * (order - 1) + text + BORDER
        counts.update(framed[start : start + order] for start in range(len(text) + 1))
    return dict(sorted(counts.items()))


class CharacterNgrams:
    """Chances of the next symbol behind the last ones, each context mixed with the next shorter one.

    The share of the shorter one is that of kinds among all that followed (Witten & Bell 1991, "The zero-frequency
    problem", method C; Chen & Goodman 1999, section 2.4); behind the shortest all V symbols are alike. `counts` are
    those of `count_ngrams`.
    """

    def __init__(self, counts: Mapping[str, int], characters: Sequence[str]) -> None:
        numbers = {BORDER: 0} | {character: number for number, character in enumerate(characters, start=1)}
        self.width, self.behind = len(next(iter(counts))) - 1, defaultdict[tuple[int, ...], Counter[int]](Counter)
        for stretch, count in counts.items():
            *context, following = map(numbers.__getitem__, stretch)
            for start in range(len(context) + 1):
                self.behind[tuple(context[start:])][following] += count
        self.size, self.known = len(numbers), dict[tuple[int, ...], np.ndarray]()

    def __call__(self, symbols: Sequence[int]) -> np.ndarray:
        """Compute log chances of the end and of each character behind the symbols of a text's beginning. float64 [V]"""
        context = ((0,) * self.width + tuple(symbols))[len(symbols) :]
        if context not in self.known:
            self.known[context] = np.log(self._chances(context))
        return self.known[context]

    def _chances(self, context: tuple[int, ...]) -> np.ndarray:
        chances = np.full(self.size, 1.0 / self.size)
        for length in range(len(context) + 1):
            followers = self.behind.get(context[len(context) - length :])
            if followers is None:  # nor is a longer one known
                break
            found = np.zeros(self.size)
            found[list(followers)] = list(followers.values())
            chances = (found + len(followers) * chances) / (found.sum() + len(followers))
        return chances
