"""Binary masks as run lengths, in COCO's form.

COCO (Lin et al. 2014; `cocoapi/common/maskApi.c`) walks a mask column by column and counts zeros, ones, zeros, and so
on. In json the counts are a list, or a string of signed numbers in 5-bit digits, each from the third on as its
difference to the one two places before.

Shapes: H rows, W columns, n masks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Mask(NamedTuple):
    """A mask of `size` (H, W) as run lengths: zeros, ones, zeros, ..., down the columns."""

    size: tuple[int, int]
    counts: np.ndarray  # int64

    @property
    def area(self) -> int:
        """Count the ones."""
        return int(self.counts[1::2].sum())

    def pixels(self) -> np.ndarray:
        """Draw it. bool [H, W]"""
        values = np.arange(len(self.counts)) % 2 == 1
        return np.repeat(values, self.counts).reshape(self.size[::-1]).T

    def as_coco(self) -> dict[str, Any]:
        """Write it as COCO's results have it."""
        return {"size": list(self.size), "counts": to_text(self.counts)}


def encode(pixels: np.ndarray) -> Mask:
    """Count the runs of a mask [H, W]."""
    flat = pixels.astype(bool).T.reshape(-1)
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], ends, [len(flat)]]))
    if len(flat) and flat[0]:
        counts = np.concatenate([[0], counts])
    return Mask((pixels.shape[0], pixels.shape[1]), counts.astype(np.int64))


def decode(size: tuple[int, int], counts: list[int] | str) -> Mask:
    """Read counts as json has them; ones that do not add up to the size are an error."""
    runs = from_text(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    if len(runs) == 0 or (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise ValueError(f"run lengths that add up to {runs.sum()} pixels for a mask of {size[0]} x {size[1]}")
    return Mask(size, runs)


def to_text(counts: np.ndarray) -> str:
    """Write counts as COCO's string."""
    written = []
    for place, count in enumerate(counts.tolist()):
        rest, more = count - (int(counts[place - 2]) if place > 2 else 0), True
        while more:
            digit, rest = rest & 0x1F, rest >> 5
            more = rest != -1 if digit & 0x10 else rest != 0
            written.append(chr((digit | 0x20 if more else digit) + 48))
    return "".join(written)


def from_text(text: str) -> np.ndarray:
    """Read COCO's string. int64 [runs]"""
    counts: list[int] = []
    value, shift = 0, 0
    for letter in text.encode():
        digit = letter - 48
        value |= (digit & 0x1F) << shift
        shift += 5
        if digit & 0x20:
            continue
        if digit & 0x10:
            value |= -1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return np.array(counts, np.int64)


def intersections(first: list[Mask], second: list[Mask]) -> np.ndarray:
    """Count the pixels that masks of one size share, pairwise. int64 [n, m]"""
    if not first or not second:
        return np.zeros((len(first), len(second)), np.int64)
    ones, others = (np.stack([mask.pixels().reshape(-1) for mask in masks]) for masks in (first, second))
    # A product of single precision counts exactly up to 2**24 pixels, so wide masks are counted in parts.
    total = np.zeros((len(ones), len(others)), np.int64)
    for start in range(0, ones.shape[1], 2**22):
        part = slice(start, start + 2**22)
        total += (ones[:, part].astype(np.float32) @ others[:, part].T.astype(np.float32)).astype(np.int64)
    return total


def box_of(mask: Mask) -> np.ndarray:
    """Find the smallest box around a mask; of an empty one, zeros. float64 [4]"""
    pixels = mask.pixels()
    rows, columns = (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros(4)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
