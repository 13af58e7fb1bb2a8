"""Objectives whose loss compares the examples of a whole step with each other."""

from __future__ import annotations

import contextlib
import itertools
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pretraining.distributed.collectives import rank
from pretraining.engine.batch import Batch, Loss
from pretraining.engine.watchdog import heartbeat
from pretraining.objectives.base import Objective
from pretraining.random import seed_everything_at


class CoupledObjective(Objective):
    """An objective whose loss compares the examples of a whole step with each other (contrastive losses).

    With several micro-batches the gradient is still that of the whole step, through cached representations (Gao et al.
    2021, "Scaling deep contrastive learning batch size under memory limited setup"): represent all without gradient,
    differentiate the loss by the representations, then represent each micro-batch again and push that derivative
    through it. Batch normalisation sees micro-batches.

    More examples are harder to tell apart: a contrastive loss grows with the logarithm of their number. So evaluation
    compares as many as a training step does, or else its loss would lie below training's, or above as if it overfitted.
    """

    coupled = True

    @abstractmethod
    def represent(self, batch: Batch) -> Tensor:
        """Compute what the loss compares. [B, ...]"""

    @abstractmethod
    def coupled_loss(self, representations: Tensor, batches: list[Batch]) -> Loss:
        """Compute this rank's loss against all ranks' examples. `representations` [B over all micro-batches, ...]"""

    def loss(self, batch: Batch) -> Loss:
        """Compute the loss of one micro-batch by itself."""
        return self._joint_loss([batch])

    def backward_step(self, batches: list[Batch], counts: dict[str, Tensor]) -> None:
        """Accumulate the gradient of the whole step, exactly, however many micro-batches hold it."""
        if len(batches) == 1:
            return super().backward_step(batches, counts)
        batches = [self.prepare(batch, number) for number, batch in enumerate(batches)]
        with torch.no_grad(), frozen_statistics(self):
            cached = [self._represent_again(batch, number) for number, batch in enumerate(batches)]
        leaf = torch.cat(cached).requires_grad_()
        with self.phase("forward"):
            loss = self.coupled_loss(leaf, batches)
        with self.phase("backward"):
            (derivative,) = torch.autograd.grad(self.objective(loss, counts), leaf)
        parts = derivative.split([len(part) for part in cached])
        for number, (batch, part) in enumerate(zip(batches, parts, strict=True)):
            with self.exchange_gradients(number == len(batches) - 1):
                again = self._represent_again(batch, number)
                with self.phase("backward"):
                    self.manual_backward((again * part).sum())
        self.meter.add(loss)

    def evaluated(self, loader: Any) -> Iterator[tuple[Loss, float]]:
        """Compute the loss of each batch of an `EvalLoader` as a whole, from the pieces that it comes in."""
        served = iter(loader)
        while pieces := list(itertools.islice(served, loader.pieces)):
            batches = [self.moved(batch) for batch, _ in pieces]
            with self.forward_context():
                loss = self(self._joint_loss, batches)
            yield loss, pieces[0][1]

    def _joint_loss(self, batches: list[Batch]) -> Loss:
        return self.coupled_loss(torch.cat([self.represent(batch) for batch in batches]), batches)

    def _represent_again(self, batch: Batch, number: int) -> Tensor:
        """Represent under the same dropout each time."""
        heartbeat("forward and backward")
        seed_everything_at(self.settings.seed, self.global_step, rank(), number)
        with self.phase("forward"):
            return self(self.represent, batch)  # type: ignore[no-any-return]


@contextlib.contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Normalise by the batch inside the block, but leave running statistics: they are updated once per micro-batch."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    tracked = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, before in zip(norms, tracked, strict=True):
            norm.track_running_stats = before
