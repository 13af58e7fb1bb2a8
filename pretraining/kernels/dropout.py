"""Dropout whose draws are cheap on CPUs: 16 random bits per value, and no product with a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def dropout(values: Tensor, rate: float) -> Tensor:
    """Set a share `rate` of the values to 0 and scale the rest up, as `F.dropout` does; draws follow torch's generator.

    On CPUs the share is a multiple of 2**-16.
    """
    if rate == 0.0:
        return values
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(values, rate, training=True)
    return _Dropout.apply(values, rate)  # type: ignore[no-untyped-call]


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rate: float) -> Tensor:
        keep = draw_kept(values, rate)
        ctx.save_for_backward(keep)
        ctx.scale = 1.0 / (1.0 - rate)
        return zero_dropped(values, keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return zero_dropped(gradient, keep).mul_(ctx.scale), None


def draw_kept(values: Tensor, rate: float) -> Tensor:
    """Draw which values stay. bool, the shape of `values`"""
    seed = int(torch.randint(2**62, ()))
    words = np.random.Generator(np.random.SFC64(seed)).integers(0, 2**64, -(-values.numel() // 4), dtype=np.uint64)
    return torch.from_numpy(words.view(np.uint16)[: values.numel()] >= round(rate * 2**16)).view(values.shape)


def zero_dropped(values: Tensor, keep: Tensor) -> Tensor:
    """Set what is not kept to 0, by its bits: a product of floats and bools takes several times as long."""
    words = _WORDS[values.element_size()]
    return (values.contiguous().view(words) & keep.to(words).neg_()).view(values.dtype)
