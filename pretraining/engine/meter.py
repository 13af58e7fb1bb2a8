"""Running sums of terms, read once per log interval."""

from __future__ import annotations

import torch
from torch import Tensor

from pretraining.distributed.collectives import all_reduce_sum, rank
from pretraining.engine.batch import Loss


class Meter:
    """Running sums of terms on the device, read once per log interval."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}  # name -> [total, count], float64
        self.weights: dict[str, float] = {}

    def add(self, loss: Loss, share: float = 1.0) -> None:
        """Add a micro-batch; `share` 0 leaves a repeated one out."""
        for name, term in {**loss.terms, **loss.metrics}.items():
            total = term.total.detach().double()
            pair = torch.stack([total, term.count.detach().double().to(total.device)]) * share
            self.sums[name] = self.sums[name] + pair if name in self.sums else pair
        self.weights = {name: term.weight for name, term in loss.terms.items()}

    def fold(self) -> None:
        """Move the ranks' sums to rank 0, so that a checkpoint of rank 0 holds all of them."""
        for name, pair in self.sums.items():
            total = all_reduce_sum(pair.clone())
            self.sums[name] = total if rank() == 0 else torch.zeros_like(total)

    def read(self, prefix: str) -> dict[str, float]:
        """Compute each mean over all ranks since the last read, and `loss`, their weighted sum; then start again.

        What counted nothing is the sum that it is, as in the gradient of a step (`global_counts`).
        """
        if not self.sums:
            return {}
        names = list(self.sums)
        table = all_reduce_sum(torch.stack([self.sums[name] for name in names]))
        means = {name: total / (count or 1.0) for name, (total, count) in zip(names, table.tolist(), strict=True)}
        loss = sum(weight * means[name] for name, weight in self.weights.items())
        self.sums = {}
        return {f"{prefix}/loss": loss, **{f"{prefix}/{name}": mean for name, mean in means.items()}}
