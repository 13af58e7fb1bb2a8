"""Encoding word by word from a cache: most words were seen before, and looking one up is cheaper than encoding it."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pretraining.text.corpus.corpus import expand_runs
from pretraining.text.tokenizer import encode_plain

WORDS = 2**17  # kept at a time: some 30 MB
_SPACES_AS_ONE = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
_LOCAL_NORMALIZERS = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"}


class WordCache:
    """Encodes sentences exactly as `encode_plain` does.

    A sentence's ids are those of its words, one after the other, where a tokenizer never looks across a single space:
    BERT's splitting, byte-level BPE with GPT-2's pattern, SentencePiece's spaces as marks. Others, and sentences with
    white space that is not one plain space between words, are encoded whole.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._prefix = _prefix_of_later_words(tokenizer)
        self._forget()

    def __call__(self, sentences: list[str], dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """Encode sentences without special tokens: all ids [tokens] of `dtype`, and the length of each, int64."""
        if self._prefix is None:
            return _flat(encode_plain(self.tokenizer, sentences), dtype)
        words = [sentence.split(" ") for sentence in sentences]
        if self._prefix:
            words = [[*row[:1], *map(self._prefix.__add__, row[1:])] for row in words]
        self._learn(set(itertools.chain.from_iterable(words)))
        sizes = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
        known = map(self._numbers.__getitem__, itertools.chain.from_iterable(words))
        numbers = np.fromiter(known, dtype=np.int64, count=int(sizes.sum()))
        tokens, lengths = self._gathered(numbers, dtype)
        ends = np.concatenate([[0], np.cumsum(sizes)])
        borders = np.concatenate([[0], np.cumsum(lengths)])[ends]
        odd = np.flatnonzero(np.add.reduceat(numbers == 0, ends[:-1])) if len(words) else ends[:0]
        return self._with_whole(sentences, odd, tokens, borders, dtype) if len(odd) else (tokens, np.diff(borders))

    def _forget(self) -> None:
        self._numbers: dict[str, int] = {}  # of words; 0: not a word that can be encoded by itself
        self._sizes = np.zeros(1, dtype=np.int64)  # ids of each word
        self._ids = np.zeros(0, dtype=np.int64)  # word after word

    def _learn(self, words: set[str]) -> None:
        """Encode the words that are not there; start again where there are too many."""
        if len(self._numbers) > WORDS:
            self._forget()
        new = sorted(words.difference(self._numbers))
        plain = [word for word in new if _is_word(word.removeprefix(self._prefix or ""))]
        self._numbers.update(dict.fromkeys(new, 0))
        self._numbers.update(zip(plain, itertools.count(len(self._sizes)), strict=False))
        ids, sizes = _flat(encode_plain(self.tokenizer, plain), "int64")
        self._ids, self._sizes = np.concatenate([self._ids, ids]), np.concatenate([self._sizes, sizes])

    def _gathered(self, numbers: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """Put the ids of words one after the other: the ids, and how many each word has."""
        starts, lengths = (np.cumsum(self._sizes) - self._sizes)[numbers], self._sizes[numbers]
        return self._ids[expand_runs(starts, lengths)].astype(dtype), lengths

    def _with_whole(
        self, sentences: list[str], odd: np.ndarray, tokens: np.ndarray, borders: np.ndarray, dtype: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Put whole encodings in the places of the sentences `odd`."""
        pieces = np.split(tokens, borders[1:-1])
        encoded = encode_plain(self.tokenizer, [sentences[number] for number in odd])
        for number, ids in zip(odd.tolist(), encoded, strict=True):
            pieces[number] = np.array(ids, dtype=dtype)
        return np.concatenate(pieces), np.array([len(piece) for piece in pieces], dtype=np.int64)


def _is_word(text: str) -> bool:
    return text.split() == [text] and "▁" not in text  # SentencePiece takes that mark for a space


def _flat(ids: list[list[int]], dtype: str) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    return np.fromiter(itertools.chain.from_iterable(ids), dtype=dtype, count=int(lengths.sum())), lengths


def _prefix_of_later_words(tokenizer: Tokenizer) -> str | None:
    """Tell what stands before a word that is not a sentence's first ("": nothing); None: words are not enough."""
    described = json.loads(tokenizer.to_str())
    plain = all(token["special"] for token in described["added_tokens"])
    steps = _steps(described["normalizer"])
    normal = all(step["type"] in _LOCAL_NORMALIZERS or step == _SPACES_AS_ONE for step in steps)
    splitting = _steps(described["pre_tokenizer"])
    within = splitting[1:] if splitting[:1] and splitting[0]["type"] == "Metaspace" else []
    within = [step for step in within if step["type"] == "Split"]  # which cuts each word by itself
    if not plain or not normal or len(splitting) - len(within) != 1:
        return None
    step = splitting[0]
    if step["type"] == "BertPreTokenizer":
        return ""
    if step["type"] == "ByteLevel" and step["use_regex"]:
        return "" if step["add_prefix_space"] else " "
    if step["type"] == "Metaspace" and step["prepend_scheme"] == "always" and step["split"]:
        return ""
    return None


def _steps(described: dict[str, Any] | None) -> list[dict[str, Any]]:
    if described is None:
        return []
    if described["type"] == "Sequence":
        return described.get("normalizers") or described["pretokenizers"]
    return [described]
