"""Texts as they are, one per example: captions and the like, which are tokenised when they are read.

Shapes: B texts, T tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pretraining.engine.batch import Batch
from pretraining.random import Keys
from pretraining.text.collate import padded_width, padding_of, text_batch
from pretraining.text.tokenizer import TextPreprocess


class RawTexts(NamedTuple):
    """Texts."""

    texts: np.ndarray  # of str [B]

    @classmethod
    def of(cls, texts: Sequence[str]) -> RawTexts:
        """Take texts as they are."""
        array = np.empty(len(texts), object)
        array[:] = texts
        return cls(array)


class TokeniseTexts:
    """A collate that makes a row of each text, of at most `max_tokens` tokens with special ones; longer ones are cut.

    Rows are padded to the longest of the batch.
    """

    def __init__(self, *, preprocess: TextPreprocess, max_tokens: int = 32) -> None:
        self.preprocess, self.max_tokens = preprocess, max_tokens
        self.room = (max_tokens or 0) - preprocess.specials_per_document
        if self.room < 1:
            what = f"max_tokens={max_tokens} leaves no room beside {preprocess.specials_per_document} special tokens"
            raise ValueError(f"{what}: give a larger number")

    def __call__(self, examples: RawTexts, keys: Keys | None = None) -> Batch:
        """Tokenise."""
        first, last = ([] if token is None else [token] for token in (self.preprocess.bos_id, self.preprocess.eos_id))
        rows = [[*first, *ids[: self.room], *last] for ids in self._encode(examples)]
        width = min(padded_width(max(map(len, rows))), self.max_tokens)  # which may be all positions that there are
        ids = np.full((len(rows), width), padding_of(self.preprocess), np.int64)
        real = np.zeros((len(rows), width), np.int64)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)], real[row, : len(tokens)] = tokens, 1
        return text_batch(ids, real)

    def identify(self, batch: Batch) -> list[int]:
        """Number a batch's rows, in 63 bits of a hash: those by one number that are the same to a network. [B]"""
        inputs = batch["inputs"]
        rows = zip(inputs["input_ids"].numpy(), inputs["document_ids"].numpy() > 0, strict=True)
        digests = [hashlib.blake2b(ids[real].tobytes(), digest_size=8).digest() for ids, real in rows]
        return [int.from_bytes(digest, "little") >> 1 for digest in digests]

    def cut(self, examples: RawTexts) -> np.ndarray:
        """Tell which texts are too long. bool [B]"""
        return np.array([len(ids) > self.room for ids in self._encode(examples)])

    def _encode(self, examples: RawTexts) -> list[Any]:
        return self.preprocess.encode(examples.texts.tolist())

    def describe(self, batch: Batch, count: int) -> list[str]:
        """Decode the first texts."""
        ids, real = batch["inputs"]["input_ids"][:count], batch["inputs"]["document_ids"][:count] > 0
        return [f"  text    {self.preprocess.tokenizer.decode(row[own])}" for row, own in zip(ids, real, strict=True)]
