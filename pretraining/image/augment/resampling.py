"""Linear maps along one image axis as batched matrix products, only of the band that can differ from zero.

The outputs of an axis are cut into blocks; a block depends on a window of consecutive inputs. Gathering whole rows of a
window is a plain memory copy, and window times weights is a dense product that every matrix library does near the peak
of its machine.

Shapes: B images, C channels, H rows, W columns; n blocks of K outputs, each from a window of R rows.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Interpolation = Literal["bilinear", "bicubic"]
RADIUS = {"bilinear": 1, "bicubic": 2}  # of the kernel, in pixels of the coarser grid
BLOCK = 16  # outputs: narrower ones gather more overlap, wider ones multiply more zeros


class Band(NamedTuple):
    """One linear map per image along the rows."""

    rows: Tensor  # int64 [B, n, R], or [1, n, R] where all images share them
    weights: Tensor  # float32 [B, n, R, K]
    size: int  # outputs; the last block may have spare ones beyond it

    def some(self, chosen: slice) -> Band:
        """Select the maps of some images."""
        return Band(self.rows[chosen], self.weights[chosen], self.size)


def blocks_of(size: int) -> tuple[int, int]:
    """Cut `size` outputs into blocks: how many, and how many outputs each."""
    return (1, size) if size <= 3 * BLOCK else (-(-size // BLOCK), BLOCK)


def contract(images: Tensor, band: Band) -> Tensor:
    """Map the rows and swap the two axes, which a second call restores. [B, C, H, W] -> [B, C, W, size]"""
    batch, channels, height, width = images.shape
    _, blocks, reach, outputs = band.weights.shape
    planes = torch.arange(batch * channels, device=images.device).view(batch, 1, 1, channels) * height
    places = (planes + band.rows[..., None]).flatten()
    windows = images.reshape(-1, width).index_select(0, places).view(batch * blocks, reach, channels * width)
    mapped = torch.bmm(windows.to(band.weights.dtype).transpose(1, 2), band.weights.flatten(0, 1))
    joined = mapped.view(batch, blocks, channels, width, outputs).permute(0, 2, 3, 1, 4)
    return joined.reshape(batch, channels, width, blocks * outputs)[..., : band.size].contiguous()


def cubic(distance: Tensor) -> Tensor:
    """Evaluate the cubic convolution kernel with a = -1/2 (Keys 1981), PIL's.

    Its two pieces vanish where they meet, so it is the sum of the pieces, each at the distance clipped to its interval.
    """
    distance = distance.abs()
    inner = distance.clamp(max=1.0)
    outer = distance.clamp_(1.0, 2.0)
    inner = (1.5 * inner).sub_(2.5).mul_(inner).mul_(inner).add_(1.0)
    return inner.add_((outer - 2.0).square_().mul_(outer.sub_(1.0)), alpha=-0.5)


def resampling(
    start: Tensor, length: Tensor, *, size: int, extent: int, flip: Tensor, interpolation: Interpolation
) -> Band:
    """Build the map from pixels [start, start + length) of an axis of `extent` to `size` outputs, reversed if `flip`.

    The kernel widens with the reduction (antialiasing) and sees nothing outside of its interval, as PIL's and torch's
    do. `start`, `length` float32 [B], `flip` bool [B]; the shapes of the result depend on `size` and `extent` alone.
    """
    blocks, outputs = blocks_of(size)
    reduction = max(extent / size, 1.0)
    reach = min(math.ceil((outputs - 1 + 2 * RADIUS[interpolation]) * reduction) + 1, extent)
    place = torch.arange(blocks * outputs, device=start.device).clamp_(max=size - 1)
    place = torch.where(flip[:, None], size - 1 - place, place).view(-1, blocks, outputs)
    start, length = start[:, None, None], length[:, None, None]
    scale = length / size
    width = scale.clamp(min=1.0)
    centre = (place + 0.5) * scale  # [B, n, K], from the interval's start
    first = (centre.amin(2, keepdim=True) - RADIUS[interpolation] * width + 0.5).floor_().clamp_(min=0.0)
    first = torch.minimum(first, extent - reach - start)
    pixel = first + torch.arange(reach, device=start.device)  # [B, n, R], from the interval's start
    distance = ((pixel[..., None] + 0.5) - centre[:, :, None, :]) / width[..., None]
    weights = cubic(distance) if interpolation == "bicubic" else (1.0 - distance.abs_()).clamp_(min=0.0)
    weights *= ((pixel >= 0.0) & (pixel < length)).to(weights.dtype)[..., None]
    weights /= weights.sum(2, keepdim=True)
    return Band((pixel + start).long(), weights, size)


def reach_of(sigma: Tensor) -> Tensor:
    """Count the pixels on each side that a Gaussian reaches: beyond six deviations it is below 2e-8 of its height."""
    return (6.0 * sigma).ceil()


def blurring(sigma: Tensor, *, size: int, kernel_size: int) -> Band:
    """Build the convolution of an axis with `kernel_size` samples of a Gaussian of `sigma` [B], its ends reflected."""
    half = kernel_size // 2
    blocks, outputs = blocks_of(size)
    reach = outputs + 2 * half
    # Listing a window from its last row to its first, weight [row r, output k] depends on r + k alone, since a Gaussian
    # is symmetric: all weights are overlapping views of the padded taps.
    last = torch.arange(blocks, device=sigma.device)[:, None] * outputs + (outputs + half - 1)
    rows = last - torch.arange(reach, device=sigma.device)
    rows = size - 1 - (size - 1 - rows.abs()).abs()
    place = torch.arange(-half, half + 1, device=sigma.device)
    taps = torch.exp(-0.5 * (place / sigma[:, None]).square_()) * (place.abs() <= reach_of(sigma)[:, None])
    taps /= taps.sum(1, keepdim=True)
    padded = torch.nn.functional.pad(taps, (outputs - 1, outputs - 1))
    weights = padded.unfold(1, outputs, 1)[:, None]  # [B, 1, R, K]
    return Band(rows.clamp_(min=0)[None], weights.expand(-1, blocks, -1, -1), size)
