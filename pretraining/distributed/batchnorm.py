"""Batch normalisation over the examples of all ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pretraining.distributed.collectives import _AllReduceSum, is_distributed
from pretraining.errors import RunError


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the examples of all ranks, on CPU and GPU.

    Each rank contributes the sum, the square sum and the count of its elements; in float64, because the square of a
    mean that is large against its spread would cancel. Evaluation, and training in one process, is torch's own.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected an input of at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `input` [B, C, ...] per channel."""
        if not (self.training and is_distributed()):
            return super().forward(input)
        self._check_input_dim(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        precise = input.double() if input.device.type == "cpu" else input.float()
        variance, mean = torch.var_mean(precise, axes, correction=0)
        variance, mean = variance.double(), mean.double()
        elements = float(input.numel() // input.size(1))
        count = torch.full_like(mean[:1], elements)
        packed = torch.cat([mean * elements, (variance + mean * mean) * elements, count])
        total, square, count = _AllReduceSum.apply(packed).split([len(mean), len(mean), 1])
        mean = total / count
        variance = square / count - mean * mean
        if self.track_running_stats:
            self._update_running(mean.detach(), variance.detach() * count.detach() / (count.detach() - 1))
        shape = [1, -1] + [1] * (input.dim() - 2)
        scale = (variance + self.eps).rsqrt()
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return input * scale.to(input.dtype).view(shape) + shift.to(input.dtype).view(shape)

    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class SyncBatchNormAct(SyncBatchNorm):
    """The same in front of an activation, as timm's networks have it in one module."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `input` [B, C, ...] and activate."""
        return self.act(self.drop(super().forward(input)))


def convert_batchnorm(module: nn.Module) -> nn.Module:
    """Make each batch normalisation of `module` a `SyncBatchNorm`, in place, of the same weights and statistics.

    One that computes more than that is an error, unless it is known what.
    """
    for part in module.modules():
        if not isinstance(part, nn.modules.batchnorm._BatchNorm) or isinstance(part, SyncBatchNorm):
            continue
        plain = type(part).forward in (nn.modules.batchnorm._BatchNorm.forward, nn.SyncBatchNorm.forward)
        if not plain and not (hasattr(part, "drop") and hasattr(part, "act")):
            told = f"got a network with {type(part).__name__}, which is not known over several processes"
            raise RunError(f"{told}: set trainer.devices=1, or take another backbone")
        part.__class__ = SyncBatchNorm if plain else SyncBatchNormAct
    return module
