"""3x3 convolutions of stride 1 in bf16 on CPUs by Winograd's algorithm, in C: 2.25 times fewer multiplications.

F(2x2, 3x3) of Lavin and Gray 2016, Fast Algorithms for Convolutional Neural Networks (section 4.1). It rounds
transformed images and filters to bf16 where the direct algorithm rounds filters and results alone: outputs and
gradients are off by 1.9 to 2.4 times as much as the direct algorithm's, 0.4 % of their norm. Sums are fp32.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretraining.kernels import compile

CHANNELS = 64  # of which the code takes multiples
SMALLEST = 4  # rows and columns of a map: smaller ones waste what the algorithm saves
_SIZES = ("count", "height", "width", "in_channels", "out_channels")


class _Job(ctypes.Structure):
    """The struct Convolution of winograd.c."""

    _fields_ = compile.fields(("inputs", "filters", "outputs"), (*_SIZES, "following", "failed"))


class _FilterJob(ctypes.Structure):
    """The struct FilterGradient of winograd.c."""

    _numbers = (*_SIZES, "groups", "columns", "following", "failed")
    _fields_ = compile.fields(("inputs", "gradients", "sums", "filters"), _numbers)


@functools.cache
def library() -> ctypes.CDLL | None:
    """Load the C code; None where the processor lacks bf16 vectors or nothing can compile it, which is said once.

    None also on processors with AMX, with which the direct algorithm is faster.
    """
    able = torch.cpu.get_capabilities()
    if not able.get("avx512_bf16", False) or able.get("amx_bf16", False):
        return None
    sources = (
        Path(__file__).with_name(name) for name in ("winograd.c", "winograd_gradient.c", "winograd.h", "vectors.h")
    )
    code = compile.library(*sources, otherwise="3x3 convolutions in bf16 are torch's")
    return code if hasattr(code, "convolve") else None  # a compiler may be older than the processor


class Convolution(nn.Conv2d):
    """A 3x3 convolution that uses the fast algorithm where it can: in bf16, on a suitable CPU, on maps of 4x4 and more.

    The batch does not matter to that choice, nor to any bit of an output. `winograd=False` on an instance keeps torch's
    algorithm.
    """

    winograd = True

    def forward(self, input: Tensor) -> Tensor:
        """Convolve [B, C, H, W]."""
        code = library() if self.winograd and _suits(input, self.weight) else None
        if code is None:
            return super().forward(input)
        return _Winograd.apply(input.to(torch.bfloat16), self.weight, code)


def adopt(model: nn.Module) -> None:
    """Make each convolution of `model` that the code can compute a `Convolution`, of the same weights."""
    for part in model.modules():
        if type(part) is nn.Conv2d and _is_plain(part):
            part.__class__ = Convolution  # nothing is drawn or copied


def allow(model: nn.Module, allowed: bool) -> None:
    """Let the convolutions of `model` use the fast algorithm, or keep them to torch's."""
    for part in model.modules():
        if isinstance(part, Convolution):
            part.winograd = allowed


def _is_plain(part: nn.Conv2d) -> bool:
    shape = (part.kernel_size, part.stride, part.padding, part.dilation, part.groups, part.padding_mode, part.bias)
    fits = part.in_channels % CHANNELS == part.out_channels % CHANNELS == 0
    return fits and shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros", None)


def _suits(images: Tensor, weight: Tensor) -> bool:
    if images.device.type != "cpu" or weight.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if torch.is_autocast_enabled("cpu"):
        in_bf16 = torch.get_autocast_dtype("cpu") == torch.bfloat16
    else:
        in_bf16 = images.dtype == weight.dtype == torch.bfloat16
    fits = images.dim() == 4 and images.shape[1] == weight.shape[1] and len(images) > 0
    return in_bf16 and fits and min(images.shape[2:]) >= SMALLEST


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, code: ctypes.CDLL) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(images, weight)
        ctx.code = code
        return _convolved(code, images, _filters(code, weight.permute(2, 3, 1, 0), is_reversed=False))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        images, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            of_images = _convolved(ctx.code, gradient, _filters(ctx.code, weight.permute(2, 3, 0, 1), is_reversed=True))
        if ctx.needs_input_grad[1]:
            of_weight = _filter_gradient(ctx.code, images, gradient).to(weight.dtype)
        return of_images, of_weight, None


def _filter_gradient(code: ctypes.CDLL, images: Tensor, gradient: Tensor) -> Tensor:
    """Compute the gradient of filters [N, K, 3, 3]. Tasks and their sums do not depend on the number of threads."""
    count, taken, height, width = images.shape
    given, columns = gradient.shape[1], 2 * CHANNELS if taken % (2 * CHANNELS) == 0 else CHANNELS
    groups = max(1, 16 * CHANNELS**2 // (taken * given))
    sums, filters = torch.zeros(groups, 16, given, taken), torch.empty(3, 3, given, taken)
    pointers = (part.data_ptr() for part in (images, gradient, sums, filters))
    job = _FilterJob(*pointers, count, height, width, taken, given, groups, columns, 0, 0)
    compile.in_threads(code.sum_products, job, most=4 * groups * taken // columns)
    job.following = 0
    compile.in_threads(code.transform_sums, job, most=taken)
    return filters.permute(2, 3, 0, 1)


def _filters(code: ctypes.CDLL, weight: Tensor, *, is_reversed: bool) -> Tensor:
    """Transform filters [3, 3, K, N] that take K channels to N."""
    taken, given = weight.shape[2:]
    weight = weight.float()
    if weight.stride(3) != 1 or weight.stride(0) != 3 * weight.stride(1):
        weight = weight.contiguous()
    filters = torch.empty(16 * taken * given, dtype=torch.bfloat16)
    strides = (ctypes.c_int64(number) for number in (weight.stride(1), weight.stride(2), taken, given, is_reversed))
    code.transform_filters(ctypes.c_void_p(weight.data_ptr()), *strides, ctypes.c_void_p(filters.data_ptr()))
    return filters


def _convolved(code: ctypes.CDLL, images: Tensor, filters: Tensor) -> Tensor:
    count, taken, height, width = images.shape
    given = filters.numel() // (16 * taken)
    maps = torch.empty((count, given, height, width), dtype=images.dtype, memory_format=torch.channels_last)
    job = _Job(images.data_ptr(), filters.data_ptr(), maps.data_ptr(), count, height, width, taken, given, 0, 0)
    compile.in_threads(code.convolve, job, most=count)
    return maps
