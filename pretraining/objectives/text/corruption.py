"""The two published ways to make a denoising task out of text: BART's and T5's.

Shapes: B rows, T encoder tokens, U decoder tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pretraining.objectives.text.continuous_rows import continuous_rows
from pretraining.objectives.text.noises import Documents, Noise, Replacements, SentencePermutation
from pretraining.objectives.text.span_corruption import Corrupted, choose_spans, corrupt_spans, lengths_for
from pretraining.random import Keys
from pretraining.text.corpus.corpus import Corpus
from pretraining.text.plan import Rows, TextExamples, cached_rows, one_document_per_row
from pretraining.text.tokenizer import TextPreprocess


class Vocabulary(NamedTuple):
    """The ids that damage puts in. `last_id` closes a text; None where the tokenizer has no such token."""

    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    mask_id: int | None
    ordinary_ids: np.ndarray  # all but the special ones
    sentinel_ids: np.ndarray  # of <extra_id_0>, <extra_id_1>, ...

    @classmethod
    def of(cls, preprocess: TextPreprocess) -> Vocabulary:
        """Read them from a tokenizer."""
        ordinary = np.setdiff1d(np.arange(preprocess.vocab_size), preprocess.special_ids)
        known = preprocess.tokenizer.get_vocab()
        sentinels: list[int] = []
        while (name := f"<extra_id_{len(sentinels)}>") in known:
            sentinels.append(known[name])
        ids = (preprocess.bos_id, preprocess.eos_id, preprocess.pad_id, preprocess.mask_id)
        return cls(*ids, ordinary, np.array(sentinels, dtype=np.int64))

    @property
    def specials(self) -> int:
        """Count the special tokens that frame a text."""
        return (self.bos_id is not None) + (self.eos_id is not None)


class Damage(ABC):
    """A way to make inputs and targets out of text."""

    @abstractmethod
    def check(self, vocabulary: Vocabulary) -> None:
        """Refuse a tokenizer that lacks a token this needs."""

    @abstractmethod
    def plan(self, corpus: Corpus, vocabulary: Vocabulary, max_tokens: int, seed: int, epoch: int) -> Rows:
        """Lay an epoch's rows out, so that inputs take at most `max_tokens`."""

    @abstractmethod
    def __call__(self, text: Documents, vocabulary: Vocabulary, max_tokens: int, keys: Keys) -> Corrupted:
        """Make both sides, special tokens included."""

    @abstractmethod
    def start_id(self, vocabulary: Vocabulary) -> int:
        """Give the token that a decoder starts from."""


class Bart(Damage):
    """A document per row, damaged by `noises` in their order; the target is the whole document between its special tokens.

    Inputs that grew beyond the row (by insertions) lose their last tokens.
    """

    def __init__(self, *, noises: Sequence[Noise]) -> None:
        if not noises:
            raise ValueError("collate.damage.noises is empty: list at least one noise, since copying teaches nothing")
        self.noises = tuple(noises)

    def check(self, vocabulary: Vocabulary) -> None:
        """Refuse a tokenizer without a mask or a last token."""
        if vocabulary.mask_id is None or vocabulary.eos_id is None:
            raise ValueError(
                "BART's noises need a tokenizer with a mask and an end token: choose preprocess=byte_bpe or wordpiece"
            )

    def plan(self, corpus: Corpus, vocabulary: Vocabulary, max_tokens: int, seed: int, epoch: int) -> Rows:
        """Give each document a row, the same each epoch; where sentences are permuted, each of them is a piece."""
        rows = one_document_per_row(corpus, max_tokens, vocabulary.specials)
        if not any(isinstance(noise, SentencePermutation) for noise in self.noises):
            return rows
        parts = {"plan": "sentences of documents", "max_tokens": max_tokens, "specials": vocabulary.specials}
        return cached_rows(corpus, parts, lambda: cut_at_sentences(rows, corpus.sentence_offsets))

    def __call__(self, text: Documents, vocabulary: Vocabulary, max_tokens: int, keys: Keys) -> Corrupted:
        """Damage documents."""
        assert vocabulary.mask_id is not None
        replacements = Replacements(vocabulary.mask_id, vocabulary.ordinary_ids)
        noised = text
        for view, noise in enumerate(self.noises):
            noised = noise(noised, replacements, keys, view)
        room = np.minimum(noised.lengths, max_tokens - vocabulary.specials)
        return Corrupted(*framed(noised.tokens, room, vocabulary), *framed(text.tokens, text.lengths, vocabulary))

    def start_id(self, vocabulary: Vocabulary) -> int:
        """Give the end token, as BART does."""
        assert vocabulary.eos_id is not None
        return vocabulary.eos_id


class SpanCorruption(Damage):
    """T5's way: rows are filled exactly, with documents end to end, and hidden spans become sentinels."""

    def __init__(self, *, density: float, mean_length: float) -> None:
        if not 0 < density < 1 or mean_length < 1:
            raise ValueError(
                f"collate.damage.density={density} must lie between 0 and 1, and collate.damage.mean_length={mean_length} be at least 1"
            )
        self.density, self.mean_length = density, mean_length

    def check(self, vocabulary: Vocabulary) -> None:
        """Refuse a tokenizer without sentinels, an end or a padding token."""
        if not len(vocabulary.sentinel_ids) or vocabulary.eos_id is None or vocabulary.pad_id is None:
            raise ValueError(
                "span corruption needs a tokenizer with sentinels (<extra_id_0>, <extra_id_1>, ...), an end and a padding token: "
                "choose preprocess=sentinel_bpe, or preprocess=pretrained_tokenizer with that of T5"
            )

    def plan(self, corpus: Corpus, vocabulary: Vocabulary, max_tokens: int, seed: int, epoch: int) -> Rows:
        """Cut the stream of documents into rows whose inputs take exactly `max_tokens`."""
        sentinels = len(vocabulary.sentinel_ids)
        lengths = lengths_for(max_tokens, density=self.density, mean_length=self.mean_length, sentinels=sentinels)
        return continuous_rows(corpus, lengths.raw, seed=seed, epoch=epoch)

    def __call__(self, text: Documents, vocabulary: Vocabulary, max_tokens: int, keys: Keys) -> Corrupted:
        """Hide spans."""
        assert vocabulary.eos_id is not None and vocabulary.pad_id is not None
        sentinels = vocabulary.sentinel_ids
        hidden, opens = choose_spans(
            text.lengths, keys, density=self.density, mean_length=self.mean_length, sentinels=len(sentinels)
        )
        ids = {"eos_id": vocabulary.eos_id, "pad_id": vocabulary.pad_id}
        return corrupt_spans(text.tokens, hidden, opens, text.lengths, sentinel_ids=sentinels, **ids)

    def start_id(self, vocabulary: Vocabulary) -> int:
        """Give the padding token, as T5 does."""
        assert vocabulary.pad_id is not None
        return vocabulary.pad_id


def lay_out(examples: TextExamples, starts_word: np.ndarray) -> Documents:
    """Lay rows out without special tokens; each piece of a row starts a sentence. `starts_word` is a table of the vocabulary."""
    first_piece = np.cumsum(examples.row_pieces) - examples.row_pieces
    ends = np.concatenate([[0], np.cumsum(examples.piece_lengths)])
    lengths = ends[first_piece + examples.row_pieces] - ends[first_piece]
    inside = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
    tokens = np.zeros(inside.shape, dtype=np.int64)
    tokens[inside] = examples.tokens
    opens = np.zeros(len(examples.tokens), dtype=bool)
    opens[ends[:-1][examples.piece_lengths > 0]] = True
    sentence_starts = np.zeros_like(inside)
    sentence_starts[inside] = opens
    return Documents(tokens, lengths, starts_word[tokens] & inside, sentence_starts)


def framed(tokens: np.ndarray, lengths: np.ndarray, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Put the first `lengths` tokens of each row between the special tokens. ([B, T], lengths [B])."""
    assert vocabulary.eos_id is not None
    opening = [] if vocabulary.bos_id is None else [vocabulary.bos_id]
    width = len(opening) + int(lengths.max(initial=0)) + 1
    result = np.zeros((len(tokens), width), dtype=np.int64)
    result[:, : len(opening)] = opening
    result[:, len(opening) : -1] = tokens[:, : width - len(opening) - 1]
    result[np.arange(len(tokens)), len(opening) + lengths] = vocabulary.eos_id
    return result, lengths + len(opening) + 1


def cut_at_sentences(rows: Rows, sentence_offsets: np.ndarray) -> Rows:
    """Cut the pieces of rows wherever a sentence of the corpus starts."""
    starts, ends = np.asarray(rows.starts), np.asarray(rows.starts) + rows.lengths
    first = np.searchsorted(
        sentence_offsets, starts, side="right"
    )  # the first border inside a piece, and behind the last one
    inner = np.maximum(np.searchsorted(sentence_offsets, ends, side="left") - first, 0)
    behind = np.cumsum(inner + 1)  # new pieces up to and with each old one
    opening = behind - inner - 1
    borders = np.repeat(first - 1 - opening, inner + 1) + np.arange(behind[-1] if len(behind) else 0)
    new_starts = np.asarray(sentence_offsets)[borders].astype(np.int64)
    new_starts[opening] = starts
    new_ends = np.append(new_starts[1:], 0)
    new_ends[behind - 1] = ends
    counts = np.concatenate([[0], behind])
    return Rows(counts[np.asarray(rows.offsets)], new_starts, new_ends - new_starts, dict(rows.columns))
