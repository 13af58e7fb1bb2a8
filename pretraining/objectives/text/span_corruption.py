"""T5's span corruption (Raffel et al. 2020, section 3.1.4): spans become sentinels, the target is what they hid.

Lengths are exact: a row of a given length always has the same number of hidden tokens and spans, so inputs and targets
have fixed shapes without padding (with end-of-text tokens, inputs of 512 come from 568 tokens and have targets of 114).

Shapes: B rows, T tokens, S spans.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pretraining.data.order import lowest, shuffled
from pretraining.random import Keys


class Lengths(NamedTuple):
    """What a row of `raw` tokens becomes; both sides include their end-of-text token."""

    raw: int
    inputs: int
    targets: int


class Corrupted(NamedTuple):
    """Both sides of a batch; row b is its first `lengths[b]` places, the rest is `pad_id`."""

    inputs: np.ndarray  # int64 [B, T']
    input_lengths: np.ndarray  # int64 [B]
    targets: np.ndarray  # int64 [B, T'']
    target_lengths: np.ndarray  # int64 [B]


def span_counts(
    lengths: np.ndarray, density: float, mean_length: float, sentinels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Count the tokens and the spans that are hidden in rows of these lengths. int64 [B] each.

    There are never more spans than hidden tokens, visible tokens to part them, or sentinels to stand for them.
    """
    hidden = np.minimum(np.maximum(np.rint(lengths * density), 1), np.maximum(lengths - 1, 0)).astype(np.int64)
    spans = np.maximum(1, np.rint(hidden / mean_length)).astype(np.int64)
    return hidden, np.minimum.reduce([spans, hidden, lengths - hidden, np.full_like(spans, sentinels)])


def lengths_for(inputs: int, *, density: float, mean_length: float, sentinels: int = 100) -> Lengths:
    """Find the longest raw length whose inputs, with sentinels and end-of-text token, are at most `inputs` tokens."""

    def both(raw: int) -> Lengths:
        hidden, spans = (int(part[0]) for part in span_counts(np.array([raw]), density, mean_length, sentinels))
        return Lengths(raw, raw - hidden + spans + 1, hidden + spans + 1)

    raw = 2
    if both(raw).inputs > inputs:
        least = both(raw).inputs
        raise ValueError(f"span corruption needs at least {least} tokens, got {inputs}: raise collate.max_tokens")
    while both(raw + 1).inputs <= inputs:
        raw += 1
    return both(raw)


def choose_spans(
    lengths: np.ndarray, keys: Keys, *, density: float, mean_length: float, sentinels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Part rows into visible and hidden runs by turns, each uniformly cut, a visible one first and a hidden one last.

    Returns (hidden, opens): which tokens are hidden, and at which a run of either kind opens. bool [B, T] each.
    """
    width = int(lengths.max(initial=0))
    hidden, spans = span_counts(lengths, density, mean_length, sentinels)
    visible_runs = _parts(lengths - hidden, spans, keys, "corruption.visible")
    hidden_runs = _parts(hidden, spans, keys, "corruption.hidden")
    runs = np.stack([visible_runs, hidden_runs], -1).reshape(len(lengths), -1)  # [B, 2S] visible, hidden, visible, ...
    begin = np.cumsum(runs, 1) - runs
    rows, which = np.nonzero(runs)
    opens = np.zeros((len(lengths), width), dtype=bool)
    opens[rows, begin[rows, which]] = True
    number = np.cumsum(opens, 1)  # 0 throughout a row too short to hide anything
    return (number > 0) & (number % 2 == 0) & (np.arange(width) < lengths[:, None]), opens


def _parts(total: np.ndarray, parts: np.ndarray, keys: Keys, slot: str) -> np.ndarray:
    """Cut `total` [B] into `parts` [B] non-empty parts, uniformly among all ways; 0 behind the last. int64 [B, S]."""
    gaps = max(int(total.max(initial=0)) - 1, 0)
    between = np.arange(gaps) < total[:, None] - 1
    cuts = lowest(shuffled(between, keys, slot), np.maximum(parts - 1, 0))
    number = np.pad(np.cumsum(cuts, 1), ((0, 0), (1, 0)))  # which part each item is in [B, items]
    most = int(parts.max(initial=0))
    rows, items = np.nonzero(np.arange(gaps + 1) < np.where(parts > 0, total, 0)[:, None])
    sizes = np.bincount(rows * most + number[rows, items], minlength=len(total) * most)
    return sizes.reshape(len(total), most)


def corrupt_spans(
    tokens: np.ndarray,
    hidden: np.ndarray,
    opens: np.ndarray,
    lengths: np.ndarray,
    *,
    sentinel_ids: np.ndarray,
    eos_id: int,
    pad_id: int,
) -> Corrupted:
    """Make inputs (each hidden run is one sentinel) and targets (each visible run is one), both closed by `eos_id`.

    The i-th hidden run and the visible run before it share the i-th of `sentinel_ids`; no sentinel closes the target.
    """
    inside = np.arange(tokens.shape[1]) < lengths[:, None]
    run = np.cumsum(opens, 1) - 1
    sentinel = sentinel_ids[np.minimum(np.maximum(run, 0) // 2, len(sentinel_ids) - 1)]
    sides = []
    for away in (hidden, ~hidden & inside):
        stands = away & opens
        sides.append(_closed(np.where(stands, sentinel, tokens), (inside & ~away) | stands, eos_id, pad_id))
    return Corrupted(*sides[0], *sides[1])


def _closed(tokens: np.ndarray, kept: np.ndarray, eos_id: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Close the gaps between kept tokens and append `eos_id`. ([B, T'], lengths [B])."""
    counts = kept.sum(1)
    result = np.full((len(tokens), int(counts.max(initial=0)) + 1), pad_id, dtype=np.int64)
    rows, places = np.nonzero(kept)
    result[rows, (np.cumsum(kept, 1) - 1)[rows, places]] = tokens[rows, places]
    result[np.arange(len(tokens)), counts] = eos_id
    return result, counts + 1
