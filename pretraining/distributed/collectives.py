"""Collectives with the gradient that one process would have computed. Without a process group each is the identity.

Gradients follow one convention: the objective is the SUM over ranks of what each rank computes, and a collective's
backward gives every rank the derivative of that sum.
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
    """Read this process's rank in its group."""
    return dist.get_rank() if is_distributed() else 0


def leave_group() -> None:
    """Leave the process group, on all ranks, if there is one: its threads can kill an interpreter that ends with it."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum `tensor` over ranks in place, outside of autograd."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def all_reduce_max(tensor: Tensor) -> Tensor:
    """Take the largest of each entry over ranks in place, outside of autograd."""
    if is_distributed():
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def is_sharded(tensor: Tensor) -> bool:
    """Tell whether this is one rank's share of a tensor (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor from all ranks, which must all call this; any other is returned as it is."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """Take this rank's share of a sharded tensor, in the same memory; any other is returned as it is."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def placed_like(tensor: Tensor, other: Tensor) -> Tensor:
    """Put a whole tensor where `other` is: on its device, and sharded like it."""
    tensor = tensor.to(other.device)
    if not is_sharded(other):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, other.device_mesh, other.placements)  # type: ignore[attr-defined]


def shard(module: nn.Module, layers: list[nn.Module], mesh: Any) -> None:
    """Share the weights of `module` out over the ranks of `mesh`, in place (FSDP2); they gather layer by layer.

    The ranks must hold equal weights before. Afterwards weights are whole only inside the `forward` of their layer or
    of `module`.
    """
    from torch.distributed.fsdp import fully_shard

    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()  # shares are cut from flat memory: no channels_last
    for layer in layers:
        if not isinstance(layer, nn.ModuleList):  # a mere list of parts is never called, so nothing would gather it
            fully_shard(layer, mesh=mesh)
    # By default the root stays whole after a forward without backward (an evaluation): nobody would find its shares.
    fully_shard(module, mesh=mesh, reshard_after_forward=True)


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


@torch.no_grad()
def gather_rows(tensor: Tensor) -> Tensor:
    """Concatenate the ranks' rows in rank order, however many each has. Outside of autograd."""
    if not is_distributed():
        return tensor
    counts = gather_with_gradient(torch.tensor([len(tensor)], device=tensor.device)).tolist()
    padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = gather_with_gradient(padded).unflatten(0, (len(counts), -1))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def gather_objects(part: Any) -> list[Any]:
    """List what each rank holds (anything that can be pickled), in rank order."""
    parts: list[Any] = [part] * world_size()
    if is_distributed():
        dist.all_gather_object(parts, part)
    return parts
