"""What a pretraining objective is: a backbone, heads, and a loss that is a sum of counted terms.

Shapes: B examples.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from pretraining.backbones.base import Backbone
from pretraining.distributed import rank, shard
from pretraining.optim import Optimizer
from pretraining.random import seed_everything_at
from pretraining.step import Batch, Loss, StepModule
from pretraining.watchdog import mark

__all__ = ["Batch", "CoupledObjective", "Loss", "Objective"]


class Objective(StepModule):
    """A pretraining objective. A subclass writes its heads in `__init__`, `loss(batch)` and `counts(batch)`."""

    modality: ClassVar[str]
    coupled: ClassVar[bool] = False  # whether an example's loss depends on the other examples of its batch

    def __init__(self, *, backbone: Backbone, optimizer: Optimizer) -> None:
        super().__init__(optimizer=optimizer)
        if backbone.modality != self.modality:
            raise ValueError(
                f"{type(self).__name__} learns from {self.modality}, but the backbone {type(backbone).__name__} reads "
                f"{backbone.modality}: choose another objective= or backbone="
            )
        self.backbone = backbone

    def configure_model(self) -> None:
        """Share the weights out over the ranks where the strategy asks for it (called by Lightning)."""
        if self.device_mesh is not None:
            shard(self, self.backbone.blocks(), self.device_mesh["data_parallel"])

    def heads(self) -> dict[str, Tensor]:
        """Give the pretraining heads' weights: everything that is not the backbone's."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("backbone.")}

    def step_flops(self, shape: Sequence[float], *, batch_size: int, micro_batches: int = 1) -> float:
        """Count the floating-point operations of training on one example: forward, and twice that for backward.

        `batch_size` examples make a step, in so many `micro_batches` per rank.
        """
        return 3.0 * self.forward_flops(shape)

    def forward_flops(self, shape: Sequence[float]) -> float:
        """Count one example's forward pass, heads included; `shape` as `Backbone.forward_flops` takes it."""
        return self.backbone.forward_flops(shape)


class CoupledObjective(Objective):
    """An objective whose loss compares the examples of a whole step with each other (contrastive losses).

    With several micro-batches the gradient is still that of the whole step, through cached representations (Gao et al. 2021,
    "Scaling deep contrastive learning batch size under memory limited setup"): represent all without gradient, differentiate the loss by
    the representations, then represent each micro-batch again and push that derivative through it. Batch normalisation sees
    micro-batches.
    """

    coupled = True

    @abstractmethod
    def represent(self, batch: Batch) -> Tensor:
        """Compute what the loss compares. [B, ...]"""

    @abstractmethod
    def coupled_loss(self, representations: Tensor, batches: list[Batch]) -> Loss:
        """Compute the loss of this rank's examples against those of all ranks. `representations` [B over all micro-batches, ...]."""

    def step_flops(self, shape: Sequence[float], *, batch_size: int, micro_batches: int = 1) -> float:
        """Count also what is compared, and the second forward pass where micro-batches are represented twice."""
        passes = 3.0 if micro_batches == 1 else 4.0
        return passes * self.forward_flops(shape) + 3.0 * self.comparison_flops(batch_size)

    def comparison_flops(self, batch_size: int) -> float:
        """Count one example's share of `coupled_loss` among `batch_size` examples."""
        return 0.0

    def loss(self, batch: Batch) -> Loss:
        """Compute the loss of one micro-batch by itself."""
        return self.coupled_loss(self.represent(batch), [batch])

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

    def _represent_again(self, batch: Batch, number: int) -> Tensor:
        """Represent under the same dropout each time."""
        mark("forward and backward")
        seed_everything_at(self.settings.seed, self.global_step, rank(), number)
        with self.phase("forward"):
            return self(self.represent, batch)  # type: ignore[no-any-return]


@contextlib.contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Normalise by the batch inside the block, but leave running statistics alone: they are updated once per micro-batch."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    tracked = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, before in zip(norms, tracked, strict=True):
            norm.track_running_stats = before
