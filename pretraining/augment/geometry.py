"""Resized crops and blur, each image with its own parameters.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pretraining.augment.bands import Interpolation, blurring, contract, resampling


def resized_crop(images: Tensor, boxes: Tensor, size: tuple[int, int], *, flip: Tensor, interpolation: Interpolation) -> Tensor:
    """Cut a box from each image, resize it with antialiasing, and mirror it left to right where `flip`. float32 [B, C, *size].

    `images` are uint8, or floats in [0, 1]; so is the result, clipped where the bicubic kernel overshoots. `boxes` [B, 4] holds top,
    left, height and width in whole pixels; `flip` bool [B].
    """
    _, _, height, width = images.shape
    top, left, rows, columns = boxes.float().unbind(1)
    upright = torch.zeros_like(flip)
    vertical = resampling(top, rows, size=size[0], extent=height, flip=upright, interpolation=interpolation)
    horizontal = resampling(left, columns, size=size[1], extent=width, flip=flip, interpolation=interpolation)
    if images.dtype == torch.uint8:
        vertical.weights.mul_(1.0 / 255.0)
    resized = contract(contract(images, vertical), horizontal)
    return resized.clamp_(0.0, 1.0) if interpolation == "bicubic" else resized


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Convolve each image with a Gaussian of its own width, cut at `kernel_size` taps, edges reflected. `sigma` [B], in pixels."""
    _, _, height, width = images.shape
    if kernel_size // 2 >= min(height, width):
        raise ValueError(
            f"a blur of {kernel_size} taps reaches beyond the reflection of a {height} x {width} image: choose kernel_size below "
            f"{2 * min(height, width)}"
        )
    vertical = blurring(sigma, size=height, kernel_size=kernel_size)
    horizontal = vertical if height == width else blurring(sigma, size=width, kernel_size=kernel_size)
    return contract(contract(images, vertical), horizontal)
