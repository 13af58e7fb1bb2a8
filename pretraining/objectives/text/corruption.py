"""The two published ways to make a denoising task out of text: BART's and T5's.

Shapes: B rows, T encoder tokens, U decoder tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretraining.objectives.text.noises import DocumentBatch, Draws, Noise, SentencePermutation
from pretraining.objectives.text.span_corruption import Corrupted, choose_spans, corrupt_spans, lengths_for
from pretraining.random import Keys
from pretraining.text.corpus.corpus import Corpus, expand_runs
from pretraining.text.plan import Rows, TextExamples, cached_rows, continuous_rows, one_document_per_row
from pretraining.text.tokenizer import TextPreprocess


class Corruption(ABC):
    """A way to make inputs and targets out of text, with the special tokens of a tokenizer."""

    @abstractmethod
    def check(self, preprocess: TextPreprocess) -> None:
        """Refuse a tokenizer that lacks a token this needs."""

    @abstractmethod
    def plan(self, corpus: Corpus, preprocess: TextPreprocess, max_tokens: int, seed: int, epoch: int) -> Rows:
        """Lay an epoch's rows out, so that inputs take at most `max_tokens`."""

    @abstractmethod
    def __call__(self, text: DocumentBatch, preprocess: TextPreprocess, max_tokens: int, keys: Keys) -> Corrupted:
        """Make both sides, special tokens included."""

    @abstractmethod
    def start_id(self, preprocess: TextPreprocess) -> int:
        """Name the token that a decoder starts from."""


@dataclass(kw_only=True)
class Bart(Corruption):
    """A document per row, corrupted by `noises` in their order; the target is the whole document, framed.

    Inputs that grew beyond the row (by insertions) lose their last tokens.
    """

    noises: Sequence[Noise]

    def __post_init__(self) -> None:
        if not self.noises:
            raise ValueError("collate.corruption.noises is empty: list at least one noise, as copying teaches nothing")
        self.noises = tuple(self.noises)

    def check(self, preprocess: TextPreprocess) -> None:
        """Refuse a tokenizer without a mask or an end token."""
        if preprocess.mask_id is None or preprocess.eos_id is None:
            told = "BART's noises need a tokenizer with a mask and an end token"
            raise ValueError(f"{told}: choose preprocess=byte_bpe or wordpiece")

    def plan(self, corpus: Corpus, preprocess: TextPreprocess, max_tokens: int, seed: int, epoch: int) -> Rows:
        """Make a row of each document, the same each epoch; where sentences are permuted, each of them is a piece."""
        specials = preprocess.specials_per_document
        rows = one_document_per_row(corpus, max_tokens, specials)
        if not any(isinstance(noise, SentencePermutation) for noise in self.noises):
            return rows
        parts = {"plan": "sentences of documents", "max_tokens": max_tokens, "specials": specials}
        return cached_rows(corpus, parts, lambda: cut_at_sentences(rows, corpus.sentence_offsets))

    def __call__(self, text: DocumentBatch, preprocess: TextPreprocess, max_tokens: int, keys: Keys) -> Corrupted:
        """Apply the noises to documents."""
        assert preprocess.mask_id is not None
        noised = text
        for view, noise in enumerate(self.noises):
            noised = noise(noised, Draws(keys, view, preprocess.mask_id, preprocess.ordinary_ids))
        room = np.minimum(noised.lengths, max_tokens - preprocess.specials_per_document)
        return Corrupted(*framed(noised.tokens, room, preprocess), *framed(text.tokens, text.lengths, preprocess))

    def start_id(self, preprocess: TextPreprocess) -> int:
        """Name the end token, as BART does."""
        assert preprocess.eos_id is not None
        return preprocess.eos_id


class SpanCorruption(Corruption):
    """T5's way: rows are filled exactly, with documents end to end, and hidden spans become sentinels."""

    def __init__(self, *, density: float = 0.15, mean_length: float = 3.0) -> None:
        if not 0 < density < 1 or mean_length < 1:
            told = f"collate.corruption.density={density} must lie between 0 and 1"
            raise ValueError(f"{told}, and collate.corruption.mean_length={mean_length} be at least 1")
        self.spans = self.noted = {"density": density, "mean_length": mean_length}

    def check(self, preprocess: TextPreprocess) -> None:
        """Refuse a tokenizer without sentinels, an end or a padding token."""
        if not len(preprocess.sentinel_ids) or preprocess.eos_id is None or preprocess.pad_id is None:
            needed = "sentinels (<extra_id_0>, <extra_id_1>, ...), an end and a padding token"
            remedy = "choose preprocess=sentinel_bpe, or preprocess=pretrained_tokenizer with that of T5"
            raise ValueError(f"span corruption needs a tokenizer with {needed}: {remedy}")

    def plan(self, corpus: Corpus, preprocess: TextPreprocess, max_tokens: int, seed: int, epoch: int) -> Rows:
        """Cut the stream of documents into rows whose inputs take exactly `max_tokens`."""
        lengths = lengths_for(max_tokens, **self.spans, sentinels=len(preprocess.sentinel_ids))
        return continuous_rows(corpus, lengths.raw, seed=seed, epoch=epoch)

    def __call__(self, text: DocumentBatch, preprocess: TextPreprocess, max_tokens: int, keys: Keys) -> Corrupted:
        """Hide spans."""
        assert preprocess.eos_id is not None and preprocess.pad_id is not None
        sentinels = preprocess.sentinel_ids
        hidden, opens = choose_spans(text.lengths, keys, **self.spans, sentinels=len(sentinels))
        ids = {"eos_id": preprocess.eos_id, "pad_id": preprocess.pad_id}
        return corrupt_spans(text.tokens, hidden, opens, text.lengths, sentinel_ids=sentinels, **ids)

    def start_id(self, preprocess: TextPreprocess) -> int:
        """Name the padding token, as T5 does."""
        assert preprocess.pad_id is not None
        return preprocess.pad_id


def unpacked(examples: TextExamples, starts_word: np.ndarray) -> DocumentBatch:
    """Lay rows out without special tokens; each piece starts a sentence. `starts_word` is the tokenizer's table."""
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
    return DocumentBatch(tokens, lengths, starts_word[tokens] & inside, sentence_starts)


def framed(tokens: np.ndarray, lengths: np.ndarray, preprocess: TextPreprocess) -> tuple[np.ndarray, np.ndarray]:
    """Put the first `lengths` tokens of each row between the special tokens. ([B, T], lengths [B])."""
    assert preprocess.eos_id is not None
    opening = [] if preprocess.bos_id is None else [preprocess.bos_id]
    width = len(opening) + int(lengths.max(initial=0)) + 1
    result = np.zeros((len(tokens), width), dtype=np.int64)
    result[:, : len(opening)] = opening
    result[:, len(opening) : -1] = tokens[:, : width - len(opening) - 1]
    result[np.arange(len(tokens)), len(opening) + lengths] = preprocess.eos_id
    return result, lengths + len(opening) + 1


def cut_at_sentences(rows: Rows, sentence_offsets: np.ndarray) -> Rows:
    """Cut the pieces of rows wherever a sentence of the corpus starts."""
    starts, ends = np.asarray(rows.starts), np.asarray(rows.starts) + rows.lengths
    first = np.searchsorted(sentence_offsets, starts, side="right")  # the first border inside a piece
    inner = np.maximum(np.searchsorted(sentence_offsets, ends, side="left") - first, 0)
    behind = np.cumsum(inner + 1)  # new pieces up to and with each old one
    opening = behind - inner - 1
    new_starts = np.asarray(sentence_offsets)[expand_runs(first - 1, inner + 1)].astype(np.int64)
    new_starts[opening] = starts
    new_ends = np.append(new_starts[1:], 0)
    new_ends[behind - 1] = ends
    counts = np.concatenate([[0], behind])
    return Rows(counts[np.asarray(rows.offsets)], new_starts, new_ends - new_starts, dict(rows.columns))
