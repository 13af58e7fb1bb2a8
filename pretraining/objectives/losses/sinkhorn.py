"""Assignments of examples to prototypes that use all prototypes alike (Caron et al. 2020, "SwAV", section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pretraining.distributed.collectives import all_reduce_max, all_reduce_sum


@dataclass(frozen=True, kw_only=True)
class Codes:
    """How scores become codes: `epsilon` and `iterations` of Sinkhorn-Knopp; `temperature` is the prediction's.

    Prototypes rest for `freeze_steps` first steps. With fewer images per step than prototypes, the latest `queue` of
    them join in from step `queue_from` on (once there are so many).
    """

    prototypes: int = 128
    temperature: float = 0.1
    epsilon: float = 0.05
    iterations: int = 3
    freeze_steps: int = 0
    queue: int = 0
    queue_from: int = 0

    def __post_init__(self) -> None:
        if not min(self.temperature, self.epsilon) > 0:
            told = f"got {self.temperature} and {self.epsilon}"
            raise ValueError(f"objective.codes.temperature and objective.codes.epsilon must be above 0, {told}")


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int = 3, *, across_ranks: bool = True) -> Tensor:
    """Turn scores [N, K] of N examples for K prototypes into assignments [N, K] whose rows sum to 1.

    exp(scores / epsilon) is scaled `iterations` times, so that the prototypes get equal shares of all ranks' examples
    (each rank may hold another number of them), then so that each example gives 1 in all. In logarithms, so that no
    scores overflow; the largest, which is subtracted, is that of all examples: with one for each the outcome after few
    iterations would be another.
    """
    plan = scores.to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
    for _ in range(iterations):
        most = plan.amax(0) if len(plan) else plan.new_full(plan.shape[1:], -torch.inf)
        most = all_reduce_max(most) if across_ranks else most
        total = (plan - most).exp().sum(0)
        total = all_reduce_sum(total) if across_ranks else total
        plan = plan - (most + total.log())
        plan = plan - plan.logsumexp(1, keepdim=True)
    return plan.exp()
