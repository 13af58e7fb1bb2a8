"""Binary masks as run lengths, in COCO's form.

COCO (Lin et al. 2014; `cocoapi/common/maskApi.c`) walks a mask column by column and counts zeros, ones, zeros, and so
on. In json the counts are a list, or a string of signed numbers in 5-bit digits, each from the third on as its
difference to the one two places before.

Shapes: H rows, W columns, n masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pretraining.errors import reason_of

FINER = 5  # outlines of polygons than pixels
FARTHEST = 16  # times the image's longer side: what is farther out is no polygon on it, and would fill the memory


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


def from_coco(written: Mapping[str, Any], place: str) -> Mask:
    """Read {size, counts} as json has it; `place` is what errors call it."""
    try:
        height, width = map(int, written["size"])
        return decode((height, width), written["counts"])
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        what = f"{place} has a mask whose run lengths cannot be read ({reason_of(error)})"
        raise ValueError(f"{what}: give {{size: [height, width], counts: …}} in COCO's form") from error


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


def fill(shape: Sequence[Sequence[float]], size: tuple[int, int]) -> Mask:
    """Fill polygons [x, y, x, y, ...] as COCO does (`rleFrPoly`): on outlines drawn five times as fine."""
    drawn = np.zeros(size[0] * size[1], bool)
    for corners in shape:
        points = np.array(corners, np.float64).reshape(-1, 2)
        if len(points) < 3:
            raise ValueError(f"a polygon of {len(points)} points")
        if not (np.abs(points) <= FARTHEST * max(size)).all():
            raise ValueError(f"a polygon with a point at {np.abs(points).max():g}, in {size[0]} x {size[1]} pixels")
        drawn |= _filled(points, size)
    return encode(drawn.reshape(size[::-1]).T)


def _filled(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Fill one polygon; bool [W * H], down the columns: each crossing of the outline turns the rest of its column."""
    height, width = size
    fine = np.trunc(points * FINER + 0.5).astype(np.int64)
    outline = np.concatenate([_line(*pair) for pair in zip(fine, np.roll(fine, -1, 0), strict=True)])
    before, after = outline[:-1], outline[1:]
    x = np.where(after[:, 0] < before[:, 0], after[:, 0], after[:, 0] - 1)
    column = (x + 0.5) / FINER - 0.5
    row = (np.minimum(after[:, 1], before[:, 1]) + 0.5) / FINER - 0.5
    crossing = (after[:, 0] != before[:, 0]) & (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    places = column[crossing].astype(np.int64) * height + np.ceil(row[crossing].clip(0, height)).astype(np.int64)
    turns = np.bincount(places, minlength=height * width + 1)[: height * width]
    return np.cumsum(turns) % 2 == 1


def _line(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """List the points of a line, one per step along its longer side. int64 [steps + 1, 2]"""
    across = np.abs(end - start)
    long = 0 if across[0] >= across[1] else 1
    turned = start[long] > end[long]
    first, last = (end, start) if turned else (start, end)
    steps = np.arange(across[long] + 1)
    slope = (last[1 - long] - first[1 - long]) / across[long] if across[long] else 0.0
    points = np.empty((len(steps), 2), np.int64)
    points[:, long] = first[long] + steps
    points[:, 1 - long] = np.trunc(first[1 - long] + slope * steps + 0.5)
    return points[::-1] if turned else points


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
