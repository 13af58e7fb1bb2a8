"""BERT's pairs of segments as rows of a plan: A, then what follows it or something else (Devlin et al. 2019, A.2).

The published walk over a document's sentences is sequential, but documents are independent: all documents of a block
take their next step at once. Draws are keyed by (seed, epoch, where the chunk starts), so that the pairs of a document
do not depend on other documents'.

Shapes: D documents, S sentences, N chunks that start at the same step, R pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from pretraining.random import Keys, bits, integers, uniform
from pretraining.text.corpus.corpus import Corpus
from pretraining.text.plan import Rows

Negatives = Literal["random", "swapped"]
Keyed = Callable[[np.ndarray], Keys]  # of sentences or documents, in an epoch
SPECIALS = 3  # [CLS] A [SEP] B [SEP]
_BLOCK = 1 << 16  # documents that walk together
_STREAM = "sentence_pairs"


class Pairs(NamedTuple):
    """Two segments each, as runs of sentences before truncation. int64 [N] each."""

    a_first: np.ndarray  # the sentence at which the chunk starts: the key of its draws
    a_behind: np.ndarray
    b_first: np.ndarray
    b_behind: np.ndarray
    label: np.ndarray  # 0: B follows A; 1: it does not


def plan_pairs(
    corpus: Corpus, *, max_tokens: int, short_share: float, negatives: Negatives, seed: int, epoch: int
) -> Rows:
    """Draw one epoch's pairs, in corpus order: rows of two pieces, with a column "label" (0: B follows A).

    `short_share` of the documents aim at a random shorter length. "random": B of a negative comes from another
    document, and the sentences it displaced are used again; more than half are negatives, because a chunk of one
    sentence has nothing to follow it. "swapped": B of a negative precedes A (sentence order prediction), and a chunk of
    one sentence makes no pair.
    """
    check_pairs(max_tokens, negatives)
    _check_corpus(corpus, negatives)
    tokens, documents = corpus.sentence_offsets, np.asarray(corpus.document_offsets, dtype=np.int64)
    parts, keyed = [], functools.partial(_keys, seed, epoch)
    for first in range(0, corpus.num_documents, _BLOCK):
        block = np.arange(first, min(first + _BLOCK, corpus.num_documents))
        target = _targets(block, max_tokens - SPECIALS, short_share, keyed)
        steps = _walk(block, target, tokens, documents, negatives, keyed)
        joined = Pairs(*(np.concatenate(columns) for columns in zip(*steps, strict=True)))
        in_order = np.argsort(joined.a_first)
        pairs = Pairs(*(column[in_order] for column in joined))
        parts.append(_pieces(pairs, tokens, max_tokens - SPECIALS, negatives, keyed))
    starts, lengths, label = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Rows(2 * np.arange(len(label) + 1), starts.reshape(-1), lengths.reshape(-1), {"label": label})


def check_pairs(max_tokens: int, negatives: str) -> None:
    """Refuse settings that no corpus can serve."""
    if negatives not in ("random", "swapped"):
        raise ValueError(f"collate.negatives={negatives!r} is unknown: choose random or swapped")
    if max_tokens < SPECIALS + 2:
        raise ValueError(f"a pair of segments needs at least {SPECIALS + 2} tokens, got collate.{max_tokens=}")


def _check_corpus(corpus: Corpus, negatives: str) -> None:
    if corpus.num_sentences <= corpus.num_documents:
        told = f"but each of the {corpus.num_documents} documents of this corpus is one sentence"
        remedy = "prepare the data with a sentence splitter, or take objective=masked_language"
        raise ValueError(f"next-sentence prediction needs sentence boundaries, {told}: {remedy}")
    if negatives == "random" and corpus.num_documents < 2:
        told = "next-sentence prediction draws its negatives from another document, but this corpus has only one"
        raise ValueError(f"{told}: mark where documents end, or set collate.negatives=swapped")


def _keys(seed: int, epoch: int, index: np.ndarray) -> Keys:
    return Keys(seed, _STREAM, np.full_like(index, epoch), index)


def _targets(block: np.ndarray, most: int, short_share: float, keyed: Keyed) -> np.ndarray:
    """Draw how many tokens each document's pairs aim at: `most`, or for `short_share` of them 2 to that. int64 [D]."""
    keys = keyed(block)
    short = uniform(keys, "short")[:, 0] < short_share
    return np.where(short, 2 + integers(keys, "target", most - 1)[:, 0], most)


def _walk(
    block: np.ndarray, target: np.ndarray, tokens: np.ndarray, documents: np.ndarray, negatives: Negatives, keyed: Keyed
) -> list[Pairs]:
    """Let every document take chunks of sentences until it has none left."""
    document, at = block, documents[block]
    steps = [Pairs(*(np.zeros(0, dtype=np.int64) for _ in Pairs._fields))]
    while True:
        going = at < documents[document + 1]
        document, at, target = document[going], at[going], target[going]
        if not len(at):
            return steps
        last = documents[document + 1]
        behind = _reach(tokens, at, target, last)
        keys = keyed(at)
        count = behind - at
        split = at + np.where(count > 1, 1 + integers(keys, "split", np.maximum(count - 1, 1)[:, None])[:, 0], 1)
        alone = count == 1
        flipped = np.asarray(uniform(keys, "negative"))[:, 0] < 0.5
        if negatives == "swapped":
            pairs = Pairs(at, split, split, behind, flipped.astype(np.int64))
            steps.append(Pairs(*(column[~alone] for column in pairs)))
            at = behind
            continue
        negative = alone | flipped
        wanted = target - (tokens[split] - tokens[at]).astype(np.int64)
        other_first, other_behind = _elsewhere(document, wanted, tokens, documents, keys)
        b_first, b_behind = np.where(negative, other_first, split), np.where(negative, other_behind, behind)
        steps.append(Pairs(at, split, b_first, b_behind, negative.astype(np.int64)))
        at = np.where(negative, split, behind)  # what a negative did not use is put back


def _elsewhere(
    document: np.ndarray, wanted: np.ndarray, tokens: np.ndarray, documents: np.ndarray, keys: Keys
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a run of `wanted` tokens from a random sentence of another document on: (first, behind), int64 [N] each."""
    other = integers(keys, "document", len(documents) - 2)[:, 0]
    other = other + (other >= document)
    first = documents[other] + integers(keys, "sentence", (documents[other + 1] - documents[other])[:, None])[:, 0]
    return first, _reach(tokens, first, wanted, documents[other + 1])


def _reach(tokens: np.ndarray, first: np.ndarray, wanted: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Find the sentence behind a run from `first` of `wanted` tokens, if `last` allows, and one sentence at least."""
    behind = np.searchsorted(tokens, tokens[first].astype(tokens.dtype) + wanted.astype(tokens.dtype), side="left")
    return np.clip(behind, first + 1, last)


def _pieces(
    pairs: Pairs, tokens: np.ndarray, most: int, negatives: Negatives, keyed: Keyed
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truncate pairs to `most` tokens: (starts [R, 2], lengths [R, 2], label [R]).

    One token at a time goes from the longer segment (from B if equal), from its front or back with equal probability.
    """
    starts = np.stack([tokens[pairs.a_first], tokens[pairs.b_first]], 1).astype(np.int64)
    lengths = np.stack([tokens[pairs.a_behind], tokens[pairs.b_behind]], 1).astype(np.int64) - starts
    kept = truncated(lengths, most)
    for side, slot in enumerate(("truncate.a", "truncate.b")):
        starts[:, side] += heads(keyed(pairs.a_first), slot, (lengths - kept)[:, side])
    if negatives == "swapped":
        swapped = pairs.label == 1
        starts[swapped], kept[swapped] = starts[swapped, ::-1], kept[swapped, ::-1]
    return starts, kept, pairs.label


def truncated(lengths: np.ndarray, most: int) -> np.ndarray:
    """Shorten the longer one of each pair, B if equal, token by token until both have `most`: lengths [R, 2]."""
    first, second = lengths[:, 0], lengths[:, 1]
    half_first, half_second = most - most // 2, most // 2
    kept = np.where(second <= half_second, np.minimum(first, most - second), np.minimum(first, half_first))
    return np.stack([kept, np.minimum(second, most - kept)], 1)


def heads(keys: Keys, slot: str, tosses: np.ndarray) -> np.ndarray:
    """Toss a fair coin `tosses` [N] times and count the heads, exactly. int64 [N]."""
    result = np.zeros(len(tosses), dtype=np.int64)
    left, words, turn = np.array(tosses, dtype=np.int64), 8, 0
    active = np.flatnonzero(left > 0)
    while active.size:
        drawn = bits(keys.select(active), f"{slot}.{turn}", words)
        use = np.clip(left[active, None] - 32 * np.arange(words), 0, 32)
        result[active] += np.bitwise_count(drawn & ((1 << use) - 1)).sum(1, dtype=np.int64)
        left[active] -= 32 * words
        active, turn = active[left[active] > 0], turn + 1
    return result
