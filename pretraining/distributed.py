"""Collectives with the gradient that one process would have computed. Without a process group each is the identity.

Gradients follow one convention: the objective is the SUM over ranks of what each rank computes, and a collective's backward gives
every rank the derivative of that sum.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def is_distributed() -> bool:
    """Tell whether a process group of more than one rank is up."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """Count the ranks."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Give this process's rank."""
    return dist.get_rank() if is_distributed() else 0


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum `tensor` over ranks in place, outside of autograd."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return all_reduce_sum(tensor.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient.clone())


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = len(tensor)
        gathered = tensor.new_empty(world_size() * len(tensor), *tensor.shape[1:])
        dist.all_gather_into_tensor(gathered, tensor.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        share = gradient.new_empty(ctx.rows, *gradient.shape[1:])
        dist.reduce_scatter_tensor(share, gradient.contiguous())
        return share


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Concatenate the ranks' tensors in rank order. [B, ...] -> [ranks * B, ...]; B must be the same on each rank."""
    return _Gather.apply(tensor) if is_distributed() else tensor


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the examples of all ranks, on CPU and GPU.

    Each rank contributes the sum, the square sum and the count of its elements; in float64, because the square of a mean that is
    large against its spread would cancel. Evaluation, and training in one process, is torch's own.
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
        variance, mean = torch.var_mean(input.double() if input.device.type == "cpu" else input.float(), axes, correction=0)
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


def convert_batchnorm(module: nn.Module) -> nn.Module:
    """Replace each batch normalisation inside `module` by `SyncBatchNorm`, keeping weights, statistics and their names."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, SyncBatchNorm):
        synced = SyncBatchNorm(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
        synced.load_state_dict(module.state_dict())
        synced.to(module.weight.dtype if module.affine else torch.get_default_dtype())
        synced.train(module.training)
        return synced.to(module.weight.device) if module.affine else synced
    for name, child in module.named_children():
        setattr(module, name, convert_batchnorm(child))
    return module
