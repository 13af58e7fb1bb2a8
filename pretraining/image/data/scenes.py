"""Scenes of handwritten digits, made up as they are asked for: nothing to download, and everything about them is known.

One to four of scikit-learn's digits in random colours, sizes and places on a coloured, noisy canvas. Each scene is a
function of (seed, split, index) alone. The handwriting of each split is that split's own.

Shapes: B scenes, S pixels to a side, K things in a scene.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pretraining.data.splits import stratified
from pretraining.image.data.base import check_split
from pretraining.image.data.builtin import grey_digits
from pretraining.image.data.scene_captions import (
    COLOURS,
    DIGITS,
    SIZES,
    Claim,
    Thing,
    hard_negatives,
    relations,
    replaced,
)
from pretraining.random import Keys, integers, uniform, word

MOST = 4  # things
REPLACED = 3  # false captions with another word, at most
SIDES = {"small": (0.16, 0.24), "large": (0.32, 0.40)}  # of the canvas
CUTS = (0.44, 0.56)  # where a canvas may be cut in two, so that the larger things fit into each quarter
INKS = np.array(
    [[225, 50, 45], [50, 190, 70], [60, 100, 240], [240, 220, 60], [175, 70, 220], [240, 240, 240]], np.float32
)
INK = 0.4  # from this share of ink on, a pixel belongs to the digit


class Scene(NamedTuple):
    """One scene and all that is known about it."""

    image: np.ndarray  # uint8 [3, S, S]
    boxes: np.ndarray  # int64 [K, 4]: left, top, right, bottom in pixels, the last two just outside
    classes: np.ndarray  # int64 [K]: which digit, 0 .. 9
    instances: np.ndarray  # uint8 [S, S]: 0 is canvas, k the k-th thing
    semantic: np.ndarray  # uint8 [S, S]: 0 is canvas, d + 1 the digit d
    things: tuple[Thing, ...]
    claim: Claim
    drawn: np.ndarray  # float32 [2 R] in [0, 1): what decides about R words to replace

    @property
    def caption(self) -> str:
        """Say what is to be seen: one thing, or two and how they stand to each other."""
        return str(self.claim)

    @property
    def negatives(self) -> dict[str, str]:
        """Make false captions of the same words, by what was swapped: colour, size or relation."""
        return hard_negatives(self.claim, self.things)

    @property
    def replaced(self) -> list[str]:
        """Make false captions that differ in one word."""
        return replaced(self.claim, self.things, self.drawn.tolist())


@dataclass(frozen=True, kw_only=True)
class DigitScenes:
    """Makes scenes: `size` pixels to a side, with `least` to `most` digits in each."""

    size: int = 64
    least: int = 1
    most: int = MOST
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 32:
            raise ValueError(f"scenes of {self.size} pixels are too small to read digits in: give at least 32")
        if not 1 <= self.least <= self.most <= MOST:
            told = f"scenes of {self.least} to {self.most} digits"
            raise ValueError(f"{told}: give a least and a most from 1 to {MOST}, the most no smaller than the least")

    def draw(self, split: str, rows: Sequence[int] | np.ndarray) -> list[Scene]:
        """Make the scenes with the given numbers of a split."""
        check_split(split)
        index = np.asarray(rows, np.int64)
        keys = Keys(self.seed, f"scenes/{split}", np.zeros_like(index), index)
        plan = _Plan.of(keys, self, split)
        return [self._scene(plan, place, int(row), split) for place, row in enumerate(index)]

    def _scene(self, plan: _Plan, place: int, row: int, split: str) -> Scene:
        canvas = self._canvas(plan.canvas[place], row, split)
        count, pens = int(plan.sizes[place]), _handwriting(split)
        instances, semantic = (np.zeros((self.size, self.size), np.uint8) for _ in range(2))
        boxes, things = np.zeros((count, 4), np.int64), []
        for number, cell in enumerate(_cells(plan.cuts[place], count, self.size)):
            drawn = plan.things[number]
            digit, size, colour = (int(drawn[name][place]) for name in ("digit", "size", "colour"))
            glyphs = pens[digit]
            glyph = glyphs[int(drawn["pen"][place] * len(glyphs))]
            low, high = SIDES[SIZES[size]]
            side = round((low + (high - low) * float(drawn["side"][place])) * self.size)
            left, top = (
                start + int(share * (end - start - side + 1))
                for start, end, share in zip(cell[:2], cell[2:], drawn["place"][place], strict=True)
            )
            spread = _spread(side)
            ink = spread @ glyph @ spread.T  # [side, side]
            window = (slice(top, top + side), slice(left, left + side))
            shade = INKS[colour] + 30.0 * (drawn["shade"][place] - 0.5)
            canvas[:, *window] += ink * (shade[:, None, None] - canvas[:, *window])
            covered = ink >= INK
            instances[window][covered], semantic[window][covered] = number + 1, digit + 1
            boxes[number] = _box(covered) + np.array([left, top, left, top])
            things.append(Thing(SIZES[size], COLOURS[colour], DIGITS[digit], tuple(boxes[number].tolist())))
        image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
        classes = np.array([DIGITS.index(thing.digit) for thing in things], np.int64)
        said = _claim(things, plan.claim[place])
        return Scene(image, boxes, classes, instances, semantic, tuple(things), said, plan.replaced[place])

    def _canvas(self, drawn: np.ndarray, row: int, split: str) -> np.ndarray:
        """Paint a dark canvas of one colour with noise. float32 [3, S, S]"""
        size = 3 * self.size**2
        bits = np.random.Philox(key=np.array([self.seed & 0xFFFFFFFF, word(split)], np.uint64), counter=row)
        noise = bits.random_raw(-(-size // 8)).view(np.uint8)[:size].reshape(3, self.size, self.size)
        canvas = noise * np.float32((20.0 + 40.0 * drawn[3]) / 255.0)
        return canvas + (60.0 * drawn[:3, None, None]).astype(np.float32)


class _Plan(NamedTuple):
    """All that is drawn about B scenes, but for the noise."""

    sizes: np.ndarray  # int64 [B]: how many things there are
    canvas: np.ndarray  # [B, 4]: its colour, and how noisy it is
    cuts: np.ndarray  # [B, 5]
    claim: np.ndarray  # [B, 2]
    replaced: np.ndarray  # [B, 2 R]
    things: list[dict[str, Any]]  # of each possible thing, arrays [B] or [B, n]

    @classmethod
    def of(cls, keys: Keys, scenes: DigitScenes, split: str) -> _Plan:
        """Draw."""
        sizes: Any = integers(keys, "count", scenes.most - scenes.least + 1)[:, 0] + scenes.least
        things = []
        for number in range(scenes.most):
            choices = {"digit": len(DIGITS), "size": len(SIZES), "colour": len(COLOURS)}
            drawn: dict[str, Any] = {
                name: integers(keys, name, high, view=number)[:, 0] for name, high in choices.items()
            }
            drawn |= {name: uniform(keys, name, view=number)[:, 0] for name in ("pen", "side")}
            drawn |= {name: uniform(keys, name, size, view=number) for name, size in (("place", 2), ("shade", 3))}
            things.append(drawn)
        drawn = {"canvas": 4, "cuts": 5, "claim": 2, "replaced": 2 * REPLACED}
        canvas, cuts, claim, words = (np.asarray(uniform(keys, name, size)) for name, size in drawn.items())
        return cls(sizes, canvas, cuts, claim, words, things)


def _cells(drawn: np.ndarray, count: int, size: int) -> list[tuple[int, int, int, int]]:
    """Cut the canvas into a cell for each thing, so that none covers another: in two, then each part in two."""
    first, second, third = (round(size * (CUTS[0] + (CUTS[1] - CUTS[0]) * float(share))) for share in drawn[:3])
    if count == 1:
        cells = [(0, 0, size, size)]
    else:
        cells = [(0, 0, first, size), (first, 0, size, size)]
        halved = range(2) if count == 4 else [int(drawn[4] < 0.5)] if count == 3 else []
        for half in sorted(halved, reverse=True):
            left, _, right, _ = cells[half]
            cut = second if half else third
            cells[half : half + 1] = [(left, 0, right, cut), (left, cut, right, size)]
    return [(top, left, bottom, right) for left, top, right, bottom in cells] if drawn[3] < 0.5 else cells


def _claim(things: Sequence[Thing], drawn: np.ndarray) -> Claim:
    """Choose what is said: of one thing its name; of more, two of them and one of the ways in which they stand."""
    if len(things) == 1:
        return Claim(things[0])
    pairs = [(one, other) for one in things for other in things if one is not other]
    one, other = pairs[int(drawn[0] * len(pairs))]
    true = relations(one.box, other.box)
    return Claim(one, true[int(drawn[1] * len(true))], other)


def _box(covered: np.ndarray) -> np.ndarray:
    """Bound what is covered: left, top, right, bottom."""
    across, down = (np.flatnonzero(covered.any(axis)) for axis in (0, 1))
    return np.array([across[0], down[0], across[-1] + 1, down[-1] + 1])


@functools.cache
def _spread(side: int) -> np.ndarray:
    """Tabulate bilinear interpolation from 8 pixels to `side`. float32 [side, 8]"""
    place = np.clip((np.arange(side) + 0.5) * 8 / side - 0.5, 0, 7)
    return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(8))).astype(np.float32)


@functools.cache
def _handwriting(split: str) -> list[np.ndarray]:
    """List each digit's pieces of handwriting in a split, as shares of ink. float32 [n, 8, 8] for each of ten"""
    images, labels = grey_digits()
    rows = handwriting_rows(split)
    return [images[rows[labels[rows] == digit], 0].astype(np.float32) / 255.0 for digit in range(len(DIGITS))]


def handwriting_rows(split: str) -> np.ndarray:
    """List the rows of scikit-learn's digits that a split's scenes are made of; no other split's are."""
    _, labels = grey_digits()
    return stratified(labels, validation_share=0.1, test_share=0.2)[split]
