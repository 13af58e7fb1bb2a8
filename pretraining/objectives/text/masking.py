"""Which tokens a masked language model predicts, and what it sees in their place.

Everything is keyed by example, so a row's result is the same in any batch, with an exact number of predictions.

Shapes: B rows, T tokens, W words.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from pretraining.data.order import lowest, shuffled
from pretraining.random import Keys, bits, integers, uniform

Unit = Literal["token", "whole_word", "span"]
SPAN_STOP = 0.2  # SpanBERT: a span ends after each word with this probability ...
SPAN_WORDS = 10  # ... and has at most this many words


def budgets(candidates: np.ndarray, fraction: float) -> np.ndarray:
    """Count the tokens a row predicts: round(fraction * candidates), at least 1 if it has a candidate. int64 [B].

    Halves go to the even number, as in BERT's script.
    """
    available = candidates.sum(1)
    return np.minimum(np.maximum(np.rint(fraction * available), 1), available).astype(np.int64)


def choose(
    candidates: np.ndarray, keys: Keys, *, fraction: float, unit: Unit = "token", word_starts: np.ndarray | None = None
) -> np.ndarray:
    """Choose the tokens to predict among `candidates`. bool [B, T].

    `candidates` [B, T] is False at special and padding tokens; `word_starts` [B, T] is True at the first token of each
    word, and needed for the units above the token. "token" and "span" hit `budgets` exactly; "whole_word" stays at most
    a word below.
    """
    budget = budgets(candidates, fraction)
    if unit == "token":
        return lowest(shuffled(candidates, keys, "mask.order"), budget)
    if word_starts is None:
        raise ValueError(f"unit {unit!r} needs word_starts: take a tokenizer that knows its words, or unit=token")
    words, runs = number_words(candidates, word_starts)
    if unit == "whole_word":
        return _choose_words(candidates, words, keys, budget)
    if unit == "span":
        return _choose_spans(candidates, words, runs, keys, budget)
    raise ValueError(f"unknown masking unit {unit!r}: choose token, whole_word or span")


def number_words(candidates: np.ndarray, word_starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number each row's words and its runs of candidates from 0. int64 [B, T] each, only valid in `candidates`.

    A word never crosses a token that is no candidate: what follows one starts a word and a run.
    """
    fresh = candidates.copy()
    fresh[:, 1:] &= ~candidates[:, :-1]
    return np.cumsum(candidates & (word_starts | fresh), 1) - 1, np.cumsum(fresh, 1) - 1


def _choose_words(candidates: np.ndarray, words: np.ndarray, keys: Keys, budget: np.ndarray) -> np.ndarray:
    """Take shuffled words until the budget is full, skipping each that would exceed it (BERT's rule).

    A row whose every word is longer than its budget predicts the first tokens of its first drawn word, not nothing.
    """
    rows = np.arange(len(words))[:, None]
    count = int(words.max(initial=-1)) + 1
    sizes = np.zeros((len(words), count), dtype=np.int64)  # [B, W] tokens per word
    flat_rows, flat_places = np.nonzero(candidates)
    np.add.at(sizes, (flat_rows, words[flat_rows, flat_places]), 1)
    turn = np.argsort(shuffled(sizes > 0, keys, "mask.order"), 1)
    left, waiting, taken = budget.copy(), np.take_along_axis(sizes, turn, 1), np.zeros(sizes.shape, dtype=bool)
    first = np.where((sizes > 0).any(1), turn[:, 0], -1) if count else np.full(len(words), -1)
    # What exceeds the rest of a budget now always will: drop it, take the longest prefix that fits, repeat behind it.
    while True:
        waiting[waiting > left[:, None]] = 0
        reach = np.cumsum(waiting, 1)
        take = (waiting > 0) & (reach <= left[:, None])
        if not take.any():
            break
        taken |= take
        left -= (waiting * take).sum(1)
        waiting[take] = 0
    by_word = np.zeros_like(taken)
    np.put_along_axis(by_word, turn, taken, 1)
    chosen = candidates & by_word[rows, np.maximum(words, 0)] if count else np.zeros_like(candidates)
    cut = candidates & (words == first[:, None]) & ~chosen.any(1, keepdims=True)
    return chosen | (cut & (np.cumsum(cut, 1) <= budget[:, None]))


def span_lengths(
    keys: Keys, slot: str, count: int, *, stop: float = SPAN_STOP, longest: int = SPAN_WORDS
) -> np.ndarray:
    """Draw span lengths in words from a geometric distribution renormalised to 1..longest. int64 [B, count].

    Renormalised, not clipped: for stop 0.2 and 10 words the mean is 3.797, where clipping would give 4.463.
    """
    weights = stop * (1 - stop) ** np.arange(longest)
    return 1 + np.searchsorted(np.cumsum(weights / weights.sum())[:-1], uniform(keys, slot, count), side="right")


def _choose_spans(
    candidates: np.ndarray, word: np.ndarray, run: np.ndarray, keys: Keys, budget: np.ndarray
) -> np.ndarray:
    """Add spans of whole words, from the word of a random token that is not yet chosen, until the budget is full.

    SpanBERT's rule: a span ends where its run of candidates does, the last one even inside a word, with the budget.
    """
    chosen = np.zeros_like(candidates)
    left, active = budget.copy(), np.flatnonzero(budget > 0)
    most = int(budget.max(initial=0))  # each span adds a token at least
    anchors, lengths = bits(keys, "span.anchor", most), span_lengths(keys, "span.length", most)
    turn = 0
    while active.size:
        free = candidates[active] & ~chosen[active]
        ordinal = (anchors[active, turn] * free.sum(1)) >> 32
        place = (np.cumsum(free, 1) > ordinal[:, None]).argmax(1)[:, None]
        words, runs = word[active], run[active]
        beyond = words - np.take_along_axis(words, place, 1)
        span = free & (beyond >= 0) & (beyond < lengths[active, turn, None])
        span &= runs == np.take_along_axis(runs, place, 1)
        span &= np.cumsum(span, 1) <= left[active, None]
        chosen[active] |= span
        left[active] -= span.sum(1)
        active = active[left[active] > 0]
        turn += 1
    return chosen


def corrupt(
    input_ids: np.ndarray,
    chosen: np.ndarray,
    keys: Keys,
    *,
    mask_id: int,
    ordinary_ids: np.ndarray,
    mask_share: float = 0.8,
    random_share: float = 0.1,
    per_span: bool = False,
) -> np.ndarray:
    """Copy `input_ids`, with each chosen token turned into [MASK] or a random token, or kept, by these shares. [B, T].

    Random tokens come from `ordinary_ids`, which holds no special token. With `per_span`, touching chosen tokens share
    one fate (and still draw a random token each).
    """
    result = input_ids.copy()
    flat = np.flatnonzero(chosen)
    if not flat.size:
        return result
    rows, places = np.divmod(flat, chosen.shape[1])
    sizes = np.bincount(rows, minlength=len(chosen))
    # Draws go by rank among the chosen of a row: few of them, and padding shifts none.
    rank = fate_rank = np.arange(rows.size) - (np.cumsum(sizes) - sizes)[rows]
    most = int(rank.max()) + 1
    if per_span:
        opens = np.ones(rows.size, dtype=bool)
        opens[1:] = (np.diff(rows) != 0) | (np.diff(places) != 1)
        fate_rank = rank[opens][np.cumsum(opens) - 1]  # a span's fate is drawn at its first token
    drawn = uniform(keys, "mask.fate", most)[rows, fate_rank]
    random_ids = ordinary_ids[integers(keys, "mask.random_id", len(ordinary_ids), most)[rows, rank]]
    kept = np.where(drawn < mask_share + random_share, random_ids, input_ids.reshape(-1)[flat])
    result.reshape(-1)[flat] = np.where(drawn < mask_share, mask_id, kept)
    return result
