"""What a user sets of each augmentation. A probability is one number, or a list of one per view."""

from __future__ import annotations

from dataclasses import dataclass

from pretraining.image.augment.resampling import Interpolation

Probability = float | list[float]


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A random box of the image, resized to `size` x `size`; mirrored left to right with probability `flip`."""

    size: int
    area: tuple[float, float] = (0.08, 1.0)  # as a share of the image
    aspect: tuple[float, float] = (3 / 4, 4 / 3)  # width over height
    interpolation: Interpolation = "bicubic"
    flip: Probability = 0.5


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """Brightness, contrast, saturation by a factor in [max(0, 1 - x), 1 + x], `hue` of the circle; in random order."""

    probability: Probability = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2


@dataclass(frozen=True, kw_only=True)
class Blur:
    """A Gaussian of random width, in pixels, sampled at `kernel_size` taps."""

    probability: Probability = 0.5
    kernel_size: int = 23
    sigma: tuple[float, float] = (0.1, 2.0)


@dataclass(frozen=True, kw_only=True)
class Output:
    """How views leave: normalised by `mean` and `std` per channel, in `dtype`, `channels_last` in memory or first."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str = "float32"  # or bfloat16
    channels_last: bool = True
