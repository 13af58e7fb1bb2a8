"""What an objective remembers of earlier steps: equal on all ranks, moved once per optimizer step, in each checkpoint.

An objective notes what each micro-batch of a step adds, and updates in `after_step`. Nothing that is not finite gets
in, so a step that is skipped for its gradient leaves no trace.

Shapes: N rows of a micro-batch, D width, Q rows of the queue.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pretraining.distributed.collectives import all_reduce_sum, gather_with_gradient


@dataclass(frozen=True, kw_only=True)
class QueueContrast:
    """Against how many earlier keys, at which temperature, and whether both views ask."""

    queue: int = 1024
    temperature: float = 0.2
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"objective.contrast.temperature must be above 0, got {self.temperature}")


class Queue(nn.Module):
    """The latest `size` rows, oldest first (He et al. 2020, "Momentum contrast"); at first random unit vectors."""

    rows: Tensor

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a queue holds at least one row, got {size}")
        try:
            rows = torch.randn(size, dim)
        except RuntimeError as error:  # torch's word for memory that is not there
            told = f"a queue of {size:,} rows of {dim} numbers takes {4e-9 * size * dim:,.0f} GB, more than there is"
            raise ValueError(f"{told}: lower its size") from error
        self.register_buffer("rows", nn.functional.normalize(rows, dim=1))
        self._noted: list[Tensor] = []

    @torch.no_grad()
    def note(self, rows: Tensor) -> None:
        """Hold rows [N, D] of a micro-batch back for `update`; as many on each rank."""
        self._noted.append(rows.detach())

    @torch.no_grad()
    def update(self) -> None:
        """Take in what all ranks noted in this step, in the order in which one process would have seen it."""
        fresh = torch.cat([gather_with_gradient(rows) for rows in self._noted]).to(self.rows.dtype)
        self._noted = []
        moved = torch.cat([self.rows, fresh])[-len(self.rows) :]
        self.rows.copy_(torch.where(fresh.isfinite().all(), moved, self.rows))


class Centre(nn.Module):
    """A moving average of the mean row, `momentum` of it kept (Caron et al. 2021, equation 4); at first zero."""

    value: Tensor

    def __init__(self, dim: int, momentum: float) -> None:
        super().__init__()
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"a centre's momentum must lie within 0 to 1, got {momentum}")
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(dim))
        self._noted: list[Tensor] = []

    @torch.no_grad()
    def note(self, rows: Tensor, weights: Tensor | None = None) -> None:
        """Hold the sum of rows [N, D] of a micro-batch, times `weights` [N], back for `update`."""
        weights = rows.new_ones(len(rows)) if weights is None else weights.to(rows.dtype)
        self._noted.append(torch.cat([weights @ rows, weights.sum()[None]]))

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the (weighted) mean of all rows that all ranks noted in this step."""
        total = all_reduce_sum(torch.stack(self._noted).sum(0)).to(self.value.dtype)
        self._noted = []
        mean, held = total[:-1] / total[-1], self.value
        self.value.copy_(torch.where(mean.isfinite().all(), held.lerp(mean, 1.0 - self.momentum), held))
