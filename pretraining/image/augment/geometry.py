"""Resized crops and blur, each image with its own parameters.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pretraining.image.augment.resampling import Band, Interpolation, blurring, contract, reach_of, resampling

Size = tuple[int, int]  # height and width


def crop_bands(
    boxes: Tensor, extent: Size, size: Size, *, flip: Tensor, interpolation: Interpolation, scale: float = 1.0
) -> tuple[Band, Band]:
    """Build the maps from rows and columns of images of `extent` to crops of `size`, of values multiplied by `scale`.

    `boxes` [B, 4]: top, left, height and width in whole pixels; `flip` bool [B]: which are mirrored left to right.
    """
    top, left, rows, columns = boxes.float().unbind(1)
    upright = torch.zeros_like(flip)
    vertical = resampling(top, rows, size=size[0], extent=extent[0], flip=upright, interpolation=interpolation)
    horizontal = resampling(left, columns, size=size[1], extent=extent[1], flip=flip, interpolation=interpolation)
    vertical.weights.mul_(scale)
    return vertical, horizontal


def resize(images: Tensor, vertical: Band, horizontal: Band) -> Tensor:
    """Apply the maps of `crop_bands`, and clip to [0, 1] where a bicubic kernel overshoots. float32"""
    return contract(contract(images, vertical), horizontal).clamp_(0.0, 1.0)


def resized_crop(images: Tensor, boxes: Tensor, size: Size, *, flip: Tensor, interpolation: Interpolation) -> Tensor:
    """Cut a box from each image, resize it with antialiasing, and mirror it left to right where `flip`.

    `images` are uint8, or floats in [0, 1]; so is the result, float32 [B, C, *size]. `boxes` as for `crop_bands`.
    """
    extent, scale = (images.shape[2], images.shape[3]), 1.0 / 255.0 if images.dtype == torch.uint8 else 1.0
    return resize(images, *crop_bands(boxes, extent, size, flip=flip, interpolation=interpolation, scale=scale))


def check_reach(kernel_size: int, height: int, width: int) -> None:
    """Raise ValueError where a blur's taps would leave the reflection of the image."""
    if kernel_size // 2 >= min(height, width):
        what = f"a blur of {kernel_size} taps reaches beyond the reflection of a {height} x {width} image"
        raise ValueError(f"{what}: choose kernel_size below {2 * min(height, width)}")


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Convolve each image with a Gaussian of its own `sigma` [B] in pixels, cut at `kernel_size`, edges reflected."""
    _, _, height, width = images.shape
    check_reach(kernel_size, height, width)
    if sigma.device.type == "cpu":  # an accelerator would have to tell the host how far its Gaussians reach
        kernel_size = min(kernel_size, 2 * int(reach_of(sigma).max()) + 1)
    vertical = blurring(sigma, size=height, kernel_size=kernel_size)
    horizontal = vertical if height == width else blurring(sigma, size=width, kernel_size=kernel_size)
    return contract(contract(images, vertical), horizontal)
