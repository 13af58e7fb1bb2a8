"""BART's noises: each takes a batch of documents and returns a corrupted one; any of them combine, in the order listed.

Every draw is keyed by example and by the noise's place in the list, so a row is corrupted alike in any batch and a
noise may be listed twice. Counts are exact: `fraction` of a row means ceil(fraction * what it counts), as in fairseq.

Shapes: B rows, T places (documents without special tokens, then padding), S sentences or spans.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pretraining.data.order import lowest, shuffled
from pretraining.random import Keys, bits, integers, uniform


class DocumentBatch(NamedTuple):
    """A batch of documents on their way through the noises: row b is its first `lengths[b]` places."""

    tokens: np.ndarray  # int64 [B, T]
    lengths: np.ndarray  # int64 [B]
    word_starts: np.ndarray  # bool [B, T]
    sentence_starts: np.ndarray  # bool [B, T]

    def inside(self) -> np.ndarray:
        """Mark the places that hold a token. bool [B, T]."""
        return np.arange(self.tokens.shape[1]) < self.lengths[:, None]

    def take(self, places: np.ndarray, lengths: np.ndarray) -> DocumentBatch:
        """Move what stands at `places` [B, T'] to places 0 to T'."""
        places = places[:, : int(lengths.max(initial=0))]
        tokens, words, sentences = (np.take_along_axis(part, places, 1) for part in (self.tokens, *self[2:]))
        return DocumentBatch(tokens, lengths, words, sentences)

    def keep(self, kept: np.ndarray) -> DocumentBatch:
        """Delete the places where `kept` [B, T] is False, closing the gaps."""
        kept = kept & self.inside()
        return self.take(np.argsort(~kept, axis=1, kind="stable"), kept.sum(1))


class Draws(NamedTuple):
    """What a noise draws from, and what it puts in: [MASK], or one of `ordinary_ids`, which holds no special token."""

    keys: Keys
    view: int  # the noise's place in the list
    mask_id: int
    ordinary_ids: np.ndarray

    def shuffle(self, eligible: np.ndarray, slot: str) -> np.ndarray:
        """Draw a sort key for each eligible place of a row, and larger ones for the rest. int64 [B, N]."""
        return shuffled(eligible, self.keys, slot, self.view)

    def toss(self, slot: str, count: int, probability: float) -> np.ndarray:
        """Toss `count` coins per row that are True with this probability. bool [B, count]."""
        return np.asarray(uniform(self.keys, slot, count, self.view)) < probability

    def replacements(self, slot: str, random: np.ndarray) -> np.ndarray:
        """Draw a random token where `random` [B, N] says so; [MASK] elsewhere. int64 [B, N]."""
        drawn = integers(self.keys, f"{slot}.id", len(self.ordinary_ids), random.shape[1], self.view)
        return np.where(random, self.ordinary_ids[drawn], self.mask_id)


class Noise(ABC):
    """One way to corrupt documents."""

    @abstractmethod
    def __call__(self, documents: DocumentBatch, draws: Draws) -> DocumentBatch:
        """Corrupt each document with the draws of its key."""


def part_of(count: np.ndarray, fraction: float) -> np.ndarray:
    """Compute ceil(fraction * count), without the extra one that float error would add. int64."""
    return np.ceil(np.round(fraction * count, 9)).astype(np.int64)


@dataclass(kw_only=True)
class TokenMasking(Noise):
    """Replace `fraction` of the tokens by [MASK], of which `random_share` by random tokens instead."""

    fraction: float
    random_share: float = 0.0

    def __call__(self, documents: DocumentBatch, draws: Draws) -> DocumentBatch:
        """Replace tokens in place."""
        order = draws.shuffle(documents.inside(), "token_masking")
        random = draws.toss("token_masking.random", order.shape[1], self.random_share)
        hit = lowest(order, part_of(documents.lengths, self.fraction))
        tokens = np.where(hit, draws.replacements("token_masking", random), documents.tokens)
        return documents._replace(tokens=tokens)


@dataclass(kw_only=True)
class TokenReplacement(TokenMasking):
    """Replace `fraction` of the tokens by random tokens."""

    random_share: float = field(default=1.0, init=False)


@dataclass(kw_only=True)
class TokenDeletion(Noise):
    """Delete `fraction` of the tokens; nothing shows where."""

    fraction: float

    def __call__(self, documents: DocumentBatch, draws: Draws) -> DocumentBatch:
        """Delete tokens."""
        order = draws.shuffle(documents.inside(), "token_deletion")
        return documents.keep(~lowest(order, part_of(documents.lengths, self.fraction)))


@dataclass(kw_only=True)
class TokenInsertion(Noise):
    """Insert as many tokens as `fraction` of the document: `random_share` of them random tokens, the rest [MASK]."""

    fraction: float
    random_share: float = 0.0

    def __call__(self, documents: DocumentBatch, draws: Draws) -> DocumentBatch:
        """Insert tokens at distinct uniform places."""
        return insert(documents, draws, part_of(documents.lengths, self.fraction), self.random_share)


@dataclass(kw_only=True)
class SentencePermutation(Noise):
    """Permute `fraction` of a document's sentences among themselves; the others stay where they are."""

    fraction: float = 1.0

    def __call__(self, documents: DocumentBatch, draws: Draws) -> DocumentBatch:
        """Reorder whole sentences."""
        inside = documents.inside()
        starts = documents.sentence_starts & inside
        starts[:, :1] = inside[:, :1]
        sentence = np.maximum(np.cumsum(starts, 1) - 1, 0)  # [B, T]
        counts = starts.sum(1)
        exists = np.arange(counts.max(initial=0)) < counts[:, None]  # [B, S]
        moving = lowest(draws.shuffle(exists, "sentence_permutation.which"), part_of(counts, self.fraction))
        # Of the moving sentences, the i-th in drawn order goes where the i-th in place order was.
        there = np.argsort(~moving, axis=1, kind="stable")
        drawn = np.argsort(draws.shuffle(moving, "sentence_permutation.order"), axis=1)
        slot = np.broadcast_to(np.arange(exists.shape[1]), exists.shape).copy()
        rows, rank = np.nonzero(np.arange(exists.shape[1]) < moving.sum(1)[:, None])
        slot[rows, drawn[rows, rank]] = there[rows, rank]
        turn = np.where(inside, np.take_along_axis(slot, sentence, 1) if slot.size else 0, inside.shape[1])
        return documents.take(np.argsort(turn, axis=1, kind="stable"), documents.lengths)


@dataclass(kw_only=True)
class DocumentRotation(Noise):
    """With `probability`, start a document at a uniformly drawn token and append what stood before it."""

    probability: float

    def __call__(self, documents: DocumentBatch, draws: Draws) -> DocumentBatch:
        """Rotate documents."""
        lengths = documents.lengths[:, None]
        rotated = draws.toss("document_rotation", 1, self.probability)
        offset = integers(draws.keys, "document_rotation.offset", lengths, 1, draws.view) * rotated
        places = np.arange(documents.tokens.shape[1])
        turned = np.where(places < lengths, (places + offset) % np.maximum(lengths, 1), places)
        return documents.take(turned, documents.lengths)


@dataclass(kw_only=True)
class TextInfilling(Noise):
    """Hide spans of Poisson length behind one [MASK] each; one of length 0 inserts a [MASK] where nothing is missing.

    The spans' lengths add up to `fraction` of the document's words (`whole_words`) or tokens. They start at distinct
    places but may overlap, and then share a [MASK]: with fraction 0.3 and mean 3, 26.8 % of a document of 510 tokens
    are hidden by about 42.8. A `random_share` of the spans shows a random token instead of [MASK].
    """

    fraction: float = 0.3
    mean_length: float = 3.5
    random_share: float = 0.1
    whole_words: bool = True

    def __post_init__(self) -> None:
        mean = self.mean_length
        if mean <= 0:
            told = f"text infilling needs a mean span length above 0, got {mean}"
            raise ValueError(f"{told}: for insertions take TokenInsertion")
        self.lengths_below = poisson_cdf(mean)

    def __call__(self, documents: DocumentBatch, draws: Draws) -> DocumentBatch:
        """Hide spans, then insert the [MASK]s of the empty ones at uniform places."""
        inside = documents.inside()
        starts = documents.word_starts & inside if self.whole_words else inside
        starts[:, :1] = inside[:, :1]
        spans = self.span_lengths(part_of(starts.sum(1), self.fraction), draws.keys, draws.view)  # [B, S]
        filled, empty = (spans > 0).sum(1), (spans == 0).sum(1)
        spans = np.take_along_axis(spans, np.argsort(spans <= 0, axis=1, kind="stable"), 1)
        order = np.argsort(draws.shuffle(starts, "text_infilling.start"), 1)[:, : spans.shape[1]]
        rows, rank = np.nonzero(np.arange(order.shape[1]) < filled[:, None])
        first = order[rows, rank]
        behind = _end_of_span(starts, documents.lengths, rows, first, spans[rows, rank])
        gone = _covered(rows, first + 1, behind, inside.shape)
        random = draws.toss("text_infilling.random", order.shape[1], self.random_share)
        tokens, word_starts = documents.tokens.copy(), documents.word_starts.copy()
        tokens[rows, first] = draws.replacements("text_infilling", random)[rows, rank]
        word_starts[rows, first] = True
        hidden = documents._replace(tokens=tokens, word_starts=word_starts).keep(~gone)
        return insert(hidden, draws, empty, self.random_share)

    def span_lengths(self, budget: np.ndarray, keys: Keys, view: int) -> np.ndarray:
        """Draw lengths until they add up to `budget` [B], cutting the last; -1 behind it. int64 [B, S]."""
        count = max(4, int(budget.max(initial=0) * 1.5 / self.mean_length))
        while True:
            drawn = bits(keys, "text_infilling.length", count, view)
            lengths = np.searchsorted(self.lengths_below, drawn * 2.0**-32, side="right")
            total = np.cumsum(lengths, 1)
            if (total[:, -1] >= budget).all():
                break
            count *= 2
        before = total - lengths
        lengths = np.where(before < budget[:, None], np.minimum(lengths, budget[:, None] - before), -1)
        return lengths[:, : int((lengths >= 0).sum(1).max(initial=0))]


def poisson_cdf(mean: float) -> np.ndarray:
    """Compute P(length <= k) for k = 0, 1, ... up to 127 or a tail below 1e-7, without the last: bounds to search."""
    counts = np.arange(128)
    log_mass = counts * np.log(mean) - mean - np.cumsum(np.log(np.maximum(counts, 1)))
    mass = np.exp(log_mass)
    mass = mass[: int(np.flatnonzero(mass >= 1e-7)[-1]) + 1]
    return np.cumsum(mass / mass.sum())[:-1]


def insert(documents: DocumentBatch, draws: Draws, count: np.ndarray, random_share: float) -> DocumentBatch:
    """Insert `count` [B] tokens per document at distinct uniform places; ceil(random_share * count) are random ones."""
    lengths = documents.lengths + count
    order = draws.shuffle(np.arange(int(lengths.max(initial=0))) < lengths[:, None], "insertion")
    new, random = lowest(order, count), lowest(order, part_of(count, random_share))
    source = np.minimum(np.maximum(np.cumsum(~new, 1) - 1, 0), documents.tokens.shape[1])
    padded = (np.pad(part, ((0, 0), (0, 1))) for part in (documents.tokens, *documents[2:]))
    tokens, words, sentences = (np.take_along_axis(part, source, 1) for part in padded)
    tokens = np.where(new, draws.replacements("insertion", random), tokens)
    return DocumentBatch(tokens, lengths, words | new, sentences & ~new)


def _end_of_span(
    starts: np.ndarray, lengths: np.ndarray, rows: np.ndarray, first: np.ndarray, words: np.ndarray
) -> np.ndarray:
    """Find the place behind `words` words from place `first`, at most the document's end."""
    flat_places = np.nonzero(starts)[1]
    per_row = starts.sum(1)
    offset = np.cumsum(per_row) - per_row
    word = (np.cumsum(starts, 1) - 1)[rows, first] + words
    within = word < per_row[rows]
    ends = flat_places[np.minimum(offset[rows] + word, max(flat_places.size - 1, 0))] if flat_places.size else word
    return np.where(within, ends, lengths[rows])


def _covered(rows: np.ndarray, first: np.ndarray, behind: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Mark the places from `first` to before `behind` of each span. bool [B, T]."""
    width = shape[1] + 1
    change = np.bincount(rows * width + first, minlength=shape[0] * width)
    change = change - np.bincount(rows * width + behind, minlength=shape[0] * width)
    return np.cumsum(change.reshape(shape[0], width), 1)[:, :-1] > 0
