"""Rectangles of patches, drawn for each image: what masked prediction hides or asks for.

Everything is a function of uniform numbers, so that it can be one of an image's key alone.

Shapes: N images, H x W patches of an image, A attempts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pretraining.random import Keys, uniform

Grid = tuple[int, int]
ATTEMPTS = 16  # rectangles that are tried per view


def rectangles(drawn: Tensor, area: Tensor, grid: Grid, aspect: tuple[float, float]) -> Tensor:
    """Place a rectangle of about `area` [N] patches in each grid. bool [N, H, W]

    `drawn` [N, 3] gives its height over width (uniform in the logarithm of `aspect`), its row and its column.
    """
    low, high = (math.log(part) for part in aspect)
    ratio = (low + (high - low) * drawn[:, 0]).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).round()
    extent = drawn.new_tensor(grid)
    sides = torch.minimum(sides.clamp(min=1.0), extent)
    corner = (drawn[:, 1:3] * (extent - sides + 1.0)).floor()
    rows, columns = (torch.arange(size, device=drawn.device) for size in grid)
    inside = [
        (place >= corner[:, axis, None]) & (place < (corner + sides)[:, axis, None])
        for axis, place in enumerate((rows, columns))
    ]
    return inside[0][:, :, None] & inside[1][:, None, :]


def block_masks(drawn: Tensor, count: Tensor, grid: Grid, aspect: tuple[float, float] = (0.3, 1 / 0.3)) -> Tensor:
    """Hide up to `count` [N] patches in rectangles that may overlap (Bao et al. 2022, "BEiT", algorithm 1).

    Returns bool [N, H, W]. Each of the attempts `drawn` [N, A, 4] proposes a rectangle between a ninth of the shorter
    side's square and what is left to hide; one that would hide too much is left out.
    """
    least = max(1, (min(grid) // 3) ** 2)
    masks = torch.zeros(len(drawn), *grid, dtype=torch.bool, device=drawn.device)
    for attempt in drawn.unbind(1):
        left = count - masks.sum((1, 2))
        area = least + attempt[:, 0] * (left - least).clamp(min=0)
        fresh = rectangles(attempt[:, 1:], area, grid, aspect) & ~masks
        fits = fresh.sum((1, 2)) <= left
        masks |= fresh & fits[:, None, None]
    return masks


def draw_masks(
    keys: Keys, view: int, grid: Grid, *, chance: float, ratio: tuple[float, float], device: torch.device
) -> Tensor:
    """Hide nothing of a view, or with `chance` a share of its patches, uniform in `ratio`. bool [N, H, W]"""
    drawn = torch.as_tensor(uniform(keys, "hidden", 2 + 4 * ATTEMPTS, view), device=device)
    share = torch.where(drawn[:, 0] < chance, ratio[0] + (ratio[1] - ratio[0]) * drawn[:, 1], 0.0)
    return block_masks(drawn[:, 2:].unflatten(1, (ATTEMPTS, 4)), (share * grid[0] * grid[1]).floor(), grid)
