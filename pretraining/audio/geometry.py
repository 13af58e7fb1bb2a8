"""How many frames a stem of convolutions without padding makes of samples.

Shapes: B rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def frames_of(samples: Any, kernels: Sequence[int], strides: Sequence[int]) -> Any:
    """Count the frames of so many samples (a number, an array or a tensor): floor((L - k) / s) + 1, layer by layer."""
    for kernel, stride in zip(kernels, strides, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples


def field_and_hop(kernels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """Count the samples that a frame sees, and those from one frame to the next."""
    field, hop = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field, hop = field + (kernel - 1) * hop, hop * stride
    return field, hop


def check_geometry(kernels: Sequence[int], strides: Sequence[int]) -> None:
    """Refuse kernels and strides that make no stem."""
    if not kernels or len(kernels) != len(strides) or min(*kernels, *strides) < 1 or math.prod(strides) < 2:
        what = f"got conv_kernel={list(kernels)} and conv_stride={list(strides)}"
        raise ValueError(f"{what}: give a stem's layers as many kernels as strides, of at least 1")
