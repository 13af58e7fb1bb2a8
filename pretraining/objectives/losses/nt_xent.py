"""NT-Xent (Chen et al. 2020): each view is told from all other views of the step, over all ranks, in memory that does
not grow with the square of the batch.

Shapes: B images of a rank, V views, D width of the projection, R ranks; N = B * V anchors, M = R * N candidates, T
anchors of a tile.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pretraining.distributed.collectives import gather_with_gradient, is_distributed, rank, world_size

TILE = 1 << 24  # similarities that are held at once; a batch of 2,048 images with two views is one tile


def nt_xent(
    views: Tensor,
    temperature: float,
    *,
    labels: Tensor | None = None,
    decoupled: bool = False,
    across_ranks: bool = True,
    others_stand_for: float = 1.0,
    tile: int = TILE,
) -> Tensor:
    """Sum over anchors of -log(softmax over all other views), averaged over the anchor's positives.

    `views` [B, V, D] of unit length. Positives are the other views of the same image, or with `labels` [B] of the same
    class (Khosla et al. 2020, L_out). `decoupled` leaves positives out of the denominator (Yeh et al. 2022). Other
    views are those of all ranks if `across_ranks`. At most `tile` similarities, but one anchor's, are held at a time.

    In the denominator each view of another image counts `others_stand_for` times. (N - 1) / (n - 1) makes n images an
    estimate of the loss among N, exact where all are equally alike.
    """
    if across_ranks:
        refuse_unequal(views)
    gathered = gather_with_gradient if across_ranks else lambda tensor: tensor
    anchors = views.flatten(0, 1)
    candidates, first = gathered(anchors), rank() * len(anchors) if across_ranks else 0
    if decoupled and len(candidates) == views.shape[1]:
        raise ValueError("the decoupled loss of a single image has no negatives: give at least 2 images per step")
    place = torch.arange(len(candidates), device=anchors.device)
    groups = place // views.shape[1] if labels is None else gathered(labels.repeat_interleave(views.shape[1]))
    with torch.autocast(anchors.device.type, enabled=False):
        rows = max(1, tile // len(candidates))
        weight = (views.shape[1], math.log(others_stand_for)) if others_stand_for != 1.0 else None
        return _Contrast.apply(anchors, candidates, groups, first, temperature, decoupled, rows, weight)


class _Contrast(torch.autograd.Function):
    """The loss and its gradient in one pass over the tiles: that of a sum is known up to a factor before backward."""

    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        candidates: Tensor,
        groups: Tensor,
        first: int,
        temperature: float,
        decoupled: bool,
        rows: int,
        weight: tuple[int, float] | None,
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        total = anchors.new_zeros(())
        by_anchor, by_candidate = torch.empty_like(anchors), torch.zeros_like(candidates)
        for start in range(0, len(anchors), rows):
            tile = anchors[start : start + rows]
            own = torch.arange(start, start + len(tile), device=anchors.device) + first
            loss, slope = _tile(tile @ candidates.T / temperature, groups, own, decoupled, wanted, weight)
            total += loss
            if wanted:
                by_anchor[start : start + rows] = slope @ candidates / temperature
                # In place, but not by `addmm_`, which torch's counter of operations does not see.
                torch.addmm(by_candidate, slope.T, tile, alpha=1.0 / temperature, out=by_candidate)
        ctx.save_for_backward(*((by_anchor, by_candidate) if wanted else ()))
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        by_anchor, by_candidate = ctx.saved_tensors
        return gradient * by_anchor, gradient * by_candidate, None, None, None, None, None, None


def _tile(
    logits: Tensor, groups: Tensor, own: Tensor, decoupled: bool, slope: bool, weight: tuple[int, float] | None
) -> tuple[Tensor, Tensor]:
    """Compute the loss of anchors at places `own` [T], and its derivative by `logits` [T, M], which are overwritten.

    `weight`: the views of an image, and the logarithm of how often those of others count in the denominator.
    """
    positive = groups[own][:, None] == groups
    positive[torch.arange(len(own), device=own.device), own] = False
    share = positive.sum(1, keepdim=True).to(logits.dtype).reciprocal()
    agreement = torch.where(positive, logits, 0.0).sum(1, keepdim=True) * share
    if weight is not None:
        image = torch.arange(logits.shape[1], device=own.device) // weight[0]
        logits.add_((own[:, None] // weight[0] != image).to(logits.dtype), alpha=weight[1])
    if decoupled:
        logits.masked_fill_(positive, -torch.inf)
    logits[torch.arange(len(own), device=own.device), own] = -torch.inf
    against = logits.logsumexp(1, keepdim=True)
    if slope:
        logits.sub_(against).exp_().sub_(positive * share)
    return (against - agreement).sum(), logits


def refuse_unequal(views: Tensor) -> None:
    """Refuse ranks that hold different numbers of images: gathering theirs would mix them up, or never end."""
    if not is_distributed():
        return
    mine = torch.full((1,), len(views), device=views.device, dtype=torch.int64)
    held = mine.new_empty(world_size())
    dist.all_gather_into_tensor(held, mine)
    told = "ranks contrast {} images: each must hold as many as others, so choose a batch size that they share evenly"
    if views.device.type == "cpu":
        if (held != mine).any():
            raise ValueError(told.format(held.tolist()))
    else:  # reading the numbers would make the host wait in each step
        torch._assert_async((held == mine).all(), told.format("different numbers of"))
