"""Batch normalisation of a training step with the addition and the ReLU behind it in one, in bf16 on CPUs, in C.

A step on a CPU waits for its memory. Of a map torch's three operations read and write eight times as many numbers as it
has, and their derivatives, too; here it is four and six, without an addition three and five (and a bit for each). It
rounds once where torch rounds after each operation: gradients are nearer to exact ones. Sums are fp32, of sums double.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.kernels import compile

CHANNELS = 16  # of which the code takes multiples
LEAST = 2**18  # numbers of a map: with fewer, torch's operations begin sooner than this is called
CHUNK = 2**17  # numbers that a core's cache holds
_MAPS = ("inputs", "added", "gradients", "outputs", "of_inputs", "of_added", "alive")
_VECTORS = ("scale", "shift", "mean", "slope", "offset", "sums", "products")


class _Job(ctypes.Structure):
    """The struct Normalisation of batchnorm.c."""

    _fields_ = compile.fields((*_MAPS, *_VECTORS), ("rows", "channels", "chunks", "following", "failed"))


@functools.cache
def library() -> ctypes.CDLL | None:
    """Load the C code; None where the processor lacks bf16 vectors or nothing can compile it, which is said once."""
    if not torch.cpu.get_capabilities().get("avx512_bf16", False):
        return None
    sources = (Path(__file__).with_name(name) for name in ("batchnorm.c", "vectors.h"))
    code = compile.library(*sources, otherwise="batch normalisation in bf16 is torch's")
    return code if hasattr(code, "normalise") else None  # a compiler may be older than the processor


def activate(norm: nn.Module, maps: Tensor, added: Tensor | None = None) -> Tensor:
    """Compute relu(norm(maps) + added) of maps [B, C, H, W]; running statistics move as torch moves them.

    Hooks on `norm` are called where torch computes: in evaluation, in other precisions, on other devices.
    """
    code = library() if _suits(norm, maps, added) else None
    if code is None:
        normalised = norm(maps)
        if added is not None:
            normalised += added
        return F.relu(normalised, inplace=True)
    outputs, mean, variance = _Activated.apply(maps, added, norm.weight, norm.bias, norm.eps, code)
    _follow(norm, mean, variance, maps.numel() // maps.shape[1])
    return outputs


def _suits(norm: nn.Module, maps: Tensor, added: Tensor | None) -> bool:
    if type(norm) is not nn.BatchNorm2d or not norm.training or not norm.affine or not norm.track_running_stats:
        return False
    if maps.device.type != "cpu" or maps.numel() < LEAST or maps.shape[1] % CHANNELS or torch.compiler.is_compiling():
        return False
    given = [maps] if added is None else [maps, added]
    same = all(part.shape == maps.shape and part.dtype == torch.bfloat16 for part in given)
    return same and all(part.is_contiguous(memory_format=torch.channels_last) for part in given)


@torch.no_grad()
def _follow(norm: Any, mean: Tensor, variance: Tensor, rows: int) -> None:
    norm.num_batches_tracked.add_(1)
    share = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_((variance * rows / (rows - 1)).to(norm.running_var.dtype), share)


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, eps: float, code: ctypes.CDLL
    ) -> tuple[Tensor, Tensor, Tensor]:
        means, spread = _summed(code.measure, inputs=maps)
        counts, rows = _rows_of_chunks(maps), maps.numel() // maps.shape[1]
        mean = (counts * means).sum(0) / rows
        variance = (counts * (means - mean).square() + spread).sum(0) / rows
        inverse = (variance + eps).rsqrt()
        scale, shift = (inverse * weight).float(), (bias - mean * inverse * weight).float()
        outputs, alive = torch.empty_like(maps), torch.empty(maps.numel() // CHANNELS, dtype=torch.int16)
        _run(code.normalise, inputs=maps, added=added, outputs=outputs, alive=alive, scale=scale, shift=shift)
        ctx.save_for_backward(maps, alive, scale, mean, inverse)
        ctx.code, ctx.dtype, ctx.adds = code, weight.dtype, added is not None
        ctx.mark_non_differentiable(mean, variance)
        return outputs, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradients: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        maps, alive, scale, mean, inverse = ctx.saved_tensors
        gradients = gradients.contiguous(memory_format=torch.channels_last)
        known = {"inputs": maps, "gradients": gradients, "alive": alive}
        total, products = (sums.sum(0) for sums in _summed(ctx.code.sum_gradients, **known, mean=mean.float()))
        share = -scale / (maps.numel() // maps.shape[1])
        slope = share * inverse.square() * products
        offset = share * total - slope * mean
        of_maps, of_added = torch.empty_like(maps), torch.empty_like(maps) if ctx.adds else None
        vectors = {"scale": scale, "slope": slope.float(), "offset": offset.float()}
        _run(ctx.code.propagate, **known, **vectors, of_inputs=of_maps, of_added=of_added)
        return of_maps, of_added, (products * inverse).to(ctx.dtype), total.to(ctx.dtype), None, None


def _summed(routine: Any, **tensors: Tensor | None) -> list[Tensor]:
    """Have a routine fill both of its sums; gives them for each chunk, in double. [N, C] each"""
    sizes = _sizes(tensors["inputs"])
    sums = torch.empty(2, sizes["chunks"], sizes["channels"]).unbind(0)
    _run(routine, **tensors, sums=sums[0], products=sums[1])
    return [part.double() for part in sums]


def _rows_of_chunks(maps: Tensor) -> Tensor:
    """Count the rows of each chunk, as batchnorm.c cuts them. [N, 1], double"""
    sizes = _sizes(maps)
    ends = torch.arange(sizes["chunks"] + 1) * sizes["rows"] // sizes["chunks"]
    return ends.diff().double()[:, None]


def _run(routine: Any, **tensors: Tensor | None) -> None:
    sizes = _sizes(tensors["inputs"])
    pointers = {name: None if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()}
    compile.in_threads(routine, _Job(**pointers, **sizes), most=sizes["chunks"])


def _sizes(maps: Tensor | None) -> dict[str, int]:
    assert maps is not None
    rows = maps.numel() // maps.shape[1]
    return {"rows": rows, "channels": maps.shape[1], "chunks": min(rows, -(-maps.numel() // CHUNK))}
