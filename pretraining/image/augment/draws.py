"""From keys to augmentation parameters: one evaluation of the counter-based generator for all slots and views.

Every function but the first turns uniform numbers into parameters alone: it can be held against torchvision's samplers.

Shapes: N rows (images times views).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretraining.image.augment.constants import constant
from pretraining.random import Keys, philox, word

TRIES = 10  # shapes of a crop that are tried before the whole image is taken
CROP_NUMBERS = 2 * TRIES  # uniforms that `crop_boxes` takes for the shape; two more for the place
_WORD = 0xFFFFFFFF
_ORDERS = list(permutations(range(4)))


def draw(keys: Keys, counts: Mapping[str, int], views: range) -> dict[str, Tensor]:
    """Draw `counts[slot]` uniforms in [0, 1) per image, view and slot: float32 [len(views) * B, count], view by view.

    The numbers are those of `random.uniform(keys, slot, count, view)`; one evaluation for all of them costs what one of
    those costs, where the time goes into starting operations rather than into computing them.
    """
    index, epoch = (torch.as_tensor(part) for part in (keys.index, keys.epoch))
    blocks = {slot: -(-count // 4) for slot, count in counts.items()}
    words = constant([word(slot) for slot, number in blocks.items() for _ in range(number)], index.device, torch.int64)
    lanes = constant([lane for number in blocks.values() for lane in range(number)], index.device, torch.int64)
    view = constant(views, index.device, torch.int64)[:, None, None]
    first = index[None, :, None] & _WORD
    second = ((epoch & 0xFFFF) | ((index >> 32) << 16))[None, :, None] & _WORD
    counter = torch.broadcast_tensors(first, second, (view << 24) + lanes, words)  # [V, B, blocks of all slots]
    drawn = philox(_rows(counter, keys), (keys.seed & _WORD, word(keys.stream)))
    numbers = torch.stack([torch.as_tensor(part) for part in drawn], -1).flatten(0, 1)  # [N, blocks of all slots, 4]
    parts = ((numbers >> 8).float() * 2.0**-24).split(list(blocks.values()), 1)
    return {slot: part.flatten(1)[:, :count] for (slot, count), part in zip(counts.items(), parts, strict=True)}


def _rows(counter: Sequence[Tensor], keys: Keys) -> tuple[Any, ...]:
    """Leave the arithmetic of array keys to numpy, which starts small operations faster."""
    return tuple(part.numpy() for part in counter) if isinstance(keys.index, np.ndarray) else tuple(counter)


def between(numbers: Tensor, low: float, high: float) -> Tensor:
    """Spread uniforms over [low, high)."""
    return low + (high - low) * numbers


def crop_boxes(
    shape: Tensor, place: Tensor, extent: tuple[int, int], *, area: tuple[float, float], aspect: tuple[float, float]
) -> Tensor:
    """Choose a box by its share of the image's area and its width-to-height ratio (uniform in its logarithm).

    `shape` [N, 2 * TRIES] holds the areas and ratios of ten tries, of which the first that fits counts; where none
    fits, the largest centred box of an allowed ratio is taken. `place` [N, 2]. Top, left, height, width: int64 [N, 4].
    """
    height, width = extent
    pixels = between(shape[:, :TRIES], *area) * (height * width)
    ratio = between(shape[:, TRIES:], math.log(aspect[0]), math.log(aspect[1])).exp_()
    columns, rows = (pixels * ratio).sqrt_().round_(), (pixels / ratio).sqrt_().round_()
    fits = (columns > 0) & (columns <= width) & (rows > 0) & (rows <= height)
    first = fits.int().argmax(1, keepdim=True)
    box = torch.cat([rows.gather(1, first), columns.gather(1, first)], 1)
    corner = (place * (constant([height, width], box.device) - box + 1)).floor_()
    whole = min(max(width / height, aspect[0]), aspect[1])
    fallback = (min(height, round(width / whole)), min(width, round(height * whole)))
    centred = [(height - fallback[0]) // 2, (width - fallback[1]) // 2, *fallback]
    found = fits.any(1, keepdim=True)
    return torch.where(found, torch.cat([corner, box], 1), constant(centred, box.device)).long()


def orders(numbers: Tensor) -> Tensor:
    """Choose one of the 24 orders of four operations. [N, 1] -> int64 [N, 4]."""
    return constant(_ORDERS, numbers.device, torch.int64)[(numbers[:, 0] * 24).long()]
