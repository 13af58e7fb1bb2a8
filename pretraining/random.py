"""Random numbers that are a function of place, not of history.

Every draw of the data path is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")
evaluated at (seed, stream; epoch, index, view, slot): never of a worker, a rank, a batch split or what was drawn
before. The same integer operations run on numpy arrays and torch tensors, CPU or GPU, and give the same numbers.

Shapes: B examples.
"""

from __future__ import annotations

import functools
import zlib
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray | Tensor
_MASK = 0xFFFFFFFF


class Keys(NamedTuple):
    """Which examples: everything that a draw about them may depend on.

    `epoch` and `index` are int64 [B], both numpy or both torch; `stream` separates uses that share a seed ("train",
    "validation"). `progress` is the share of the run before this step, for schedules; draws do not depend on it.
    Evaluation happens at the end, 1.
    """

    seed: int
    stream: str
    epoch: Array
    index: Array  # type: ignore[assignment]  # tuple.index is not missed
    progress: float = 1.0

    def to(self, device: torch.device | str) -> Keys:
        """Copy the keys to tensors on `device`."""
        epoch, index = (torch.as_tensor(part, device=device) for part in (self.epoch, self.index))
        return Keys(self.seed, self.stream, epoch, index, self.progress)

    def select(self, rows: Array) -> Keys:
        """Take the keys of `rows` of this batch."""
        return Keys(self.seed, self.stream, self.epoch[rows], self.index[rows], self.progress)


@functools.cache
def word(name: str) -> int:
    """Turn a name into the 32-bit word that stands for it in a counter or key."""
    return zlib.crc32(name.encode())


def philox(counter: tuple[Array, ...], key: tuple[int, int]) -> tuple[Array, ...]:
    """Apply Philox4x32-10 to four int64 arrays of 32-bit words; returns four of the same shape.

    Products wrap in int64, whose bits are those of the unsigned product: masking after the shift gives the high word.
    """
    if isinstance(counter[0], np.ndarray):
        return _philox_numpy(counter, key)
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c2 = ((second >> 32) & _MASK) ^ c1 ^ k0, ((first >> 32) & _MASK) ^ c3 ^ k1
        c1, c3 = second & _MASK, first & _MASK
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def _philox_numpy(counter: tuple[Array, ...], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Apply the same rounds to unsigned words, in place where that saves an array."""
    c0, c1, c2, c3 = (np.asarray(part).astype(np.uint64) for part in counter)
    mask, half, (k0, k1) = np.uint64(_MASK), np.uint64(32), key
    for _ in range(10):
        first, second = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c2 = second >> half, first >> half
        c0 ^= c1
        c0 ^= np.uint64(k0)
        c2 ^= c3
        c2 ^= np.uint64(k1)
        first &= mask
        second &= mask
        c1, c3 = second, first
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return tuple(part.view(np.int64) for part in (c0, c1, c2, c3))


def bits(keys: Keys, slot: str, count: int = 1, view: int = 0) -> Array:
    """Draw uniform 32-bit integers for the decision named `slot`. int64 [B, count].

    Adding a slot, or asking an existing one for more numbers, shifts no other draw.
    """
    blocks = -(-count // 4)
    lane: Any = torch.arange(blocks, device=keys.index.device) if isinstance(keys.index, Tensor) else np.arange(blocks)
    ones = lane[None] * 0 + 1
    index = keys.index[:, None]
    # An index beyond 32 bits spills into the epoch word's upper half, a view into the block word's: none meets another.
    first = (index & _MASK) * ones
    second = ((keys.epoch[:, None] & 0xFFFF) | ((index >> 32) << 16)) * ones
    third = (view << 24) + lane[None] + index * 0
    fourth = word(slot) + third * 0
    drawn: Any = philox((first, second & _MASK, third, fourth), (keys.seed & _MASK, word(keys.stream)))
    stacked = torch.stack(drawn, -1) if isinstance(drawn[0], Tensor) else np.stack(drawn, -1)
    return stacked.reshape(len(keys.index), blocks * 4)[:, :count]


def uniform(keys: Keys, slot: str, count: int = 1, view: int = 0) -> Array:
    """Draw from [0, 1) with 24 bits, so that float32 holds each number exactly. float32 [B, count]."""
    drawn = bits(keys, slot, count, view) >> 8
    drawn = drawn.float() if isinstance(drawn, Tensor) else drawn.astype(np.float32)
    return drawn * 2.0**-24 if isinstance(drawn, Tensor) else drawn * np.float32(2.0**-24)


def integers(keys: Keys, slot: str, high: int | Array, count: int = 1, view: int = 0) -> Array:
    """Draw from {0 .. high-1}, by Lemire's multiply-shift (bias below high / 2**32). int64 [B, count]."""
    return (bits(keys, slot, count, view) * high) >> 32


def permuted(index: np.ndarray, size: int, *, seed: int, epoch: int, stream: str) -> np.ndarray:
    """Compute the places of positions `index` in a keyed permutation of range(size). int64, the shape of `index`.

    A Feistel network on the smallest even number of bits that holds `size`, walked until it lands inside (Black &
    Rogaway 2002): any part of an epoch's order can be asked for without building the whole.
    """
    half = max(1, ((max(size - 1, 1)).bit_length() + 1) // 2)
    low, rounds = (1 << half) - 1, _round_tables(half, seed, epoch, stream)
    place = np.array(index, dtype=np.int64)
    pending = np.arange(place.size)
    flat = place.reshape(-1)
    while pending.size:
        left, right = flat[pending] >> half, flat[pending] & low
        for mixed in rounds:
            left, right = right, left ^ mixed[right]
        flat[pending] = (left << half) | right
        pending = pending[flat[pending] >= size]
    return flat.reshape(place.shape)


@functools.lru_cache(maxsize=64)
def _round_tables(half: int, seed: int, epoch: int, stream: str) -> np.ndarray:
    """Tabulate the six round functions, of `half` bits each: an epoch's tables are made at once. int64 [6, 2**half]"""
    right = np.tile(np.arange(1 << half, dtype=np.int64), (6, 1))
    zero = np.zeros_like(right)
    turn = zero + np.arange(6)[:, None]
    counter = (right, zero + (epoch & _MASK), turn, zero + word("order"))
    return _philox_numpy(counter, (seed & _MASK, word(stream)))[0] & ((1 << half) - 1)


def seed_everything_at(seed: int, *place: int) -> None:
    """Set torch's global generators from (seed, *place): dropout and other draws on the model's side."""
    words = np.random.SeedSequence([seed & _MASK, *(part & _MASK for part in place)]).generate_state(2, np.uint32)
    torch.manual_seed(int(words[0]) << 31 ^ int(words[1]))
