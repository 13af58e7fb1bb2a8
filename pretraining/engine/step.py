"""One optimizer step with exact normalisation: what objectives and finetuning tasks have in common.

The gradient of a step is that of  sum_t weight_t * (sum of term t over the step) / (count of term t over the step),
where "the step" is every example of every micro-batch on every rank. The counts are known before the first backward, so
no split of the examples over micro-batches or ranks changes the gradient.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from pretraining.backbones.base import Backbone
from pretraining.distributed.collectives import all_reduce_sum, placed_like, rank, whole, world_size
from pretraining.engine.batch import Batch, Loss, Step, StepSettings
from pretraining.engine.meter import Meter
from pretraining.engine.nonfinite import Guard
from pretraining.engine.timing import PhaseTimer
from pretraining.engine.watchdog import heartbeat
from pretraining.errors import RunError
from pretraining.optim.optimizers import Optimizer, ParameterGroup, clip_by_norm, split_by_decay
from pretraining.random import seed_everything_at


class StepModule(pl.LightningModule, ABC):
    """A model whose loss is a sum of counted terms. It logs nothing, reads no config, asks for no trainer's options.

    A subclass writes `loss` and `counts`, and `on_device` where a batch is made on the device (views of images).
    """

    def __init__(self, *, optimizer: Optimizer) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.optimizer = optimizer
        self.settings = StepSettings()
        self.meter = Meter()
        self.gradient_norm: Tensor | None = None
        self.guard, self.timer = Guard(), PhaseTimer()
        self.measured: dict[str, float] = {}  # the latest evaluation
        self._average: dict[str, Tensor] | None = None
        self.compared = False  # whether `counts` and `loss` have been found to count the same

    @abstractmethod
    def loss(self, batch: Batch) -> Loss:
        """Compute the terms of one micro-batch."""

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count each term's predictions from the labels, without a forward pass; as many as `loss` counts."""

    def forward(self, compute: Callable[..., Any], *inputs: Any) -> Any:
        """Call a method of this module from inside its forward pass: only there sharded weights are whole."""
        return compute(*inputs)

    def on_device(self, batch: Batch) -> Batch:
        """Finish a batch after its transfer, without gradient. A pure function of the batch and its keys."""
        return batch

    def after_step(self, number: int) -> None:
        """Update what follows the weights, such as a teacher, after optimizer step `number`; the same on each rank."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """Group the trainable parameters for the optimizer."""
        return split_by_decay(self.named_parameters())

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule (called by Lightning)."""
        optimizer, schedule = self.optimizer.build(self.parameter_groups(), self.settings.max_steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    # -- one step ------------------------------------------------------------------------------------------------------

    def training_step(self, step: Step, _: int) -> None:
        """Take one optimizer step over this rank's micro-batches (called by Lightning)."""
        if step.number != self.global_step:
            raise RuntimeError(f"the loader served step {step.number} to a model that has taken {self.global_step}")
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        for part in self.modules():
            if isinstance(part, Backbone):
                part.begin_step(self.settings.seed, step.number)
        self.backward_step(step.micro_batches, self.global_counts(step.micro_batches))
        with self.phase("optimizer"):
            settings, plain = self.settings, optimizer.optimizer  # type: ignore[union-attr]
            self.gradient_norm = clip_by_norm(self.parameters(), settings.clip_norm, each=settings.clip_each)
            self.guard.check(step, self.gradient_norm, plain, self.parameters(), settings)  # type: ignore[arg-type]
            self.optimizer.set_decay(plain, step.number, settings.max_steps)  # type: ignore[arg-type]
            optimizer.step()  # type: ignore[union-attr]
            optimizer.zero_grad(set_to_none=True)  # type: ignore[union-attr]
            schedule.step()  # type: ignore[union-attr, call-arg]
            self._update_average()
            self.after_step(step.number)
        self.guard.flush(self.settings, leave=1)

    def global_counts(self, batches: list[Batch]) -> dict[str, Tensor]:
        """Sum each term's count over micro-batches and ranks in one reduction; at least 1, so an empty term is 0."""
        each = [self.counts(batch) for batch in batches]
        names = list(each[0])
        summed = torch.stack([torch.stack([counts[name].double() for counts in each]).sum() for name in names])
        return dict(zip(names, all_reduce_sum(summed).clamp(min=1.0), strict=True))

    def backward_step(self, batches: list[Batch], counts: dict[str, Tensor]) -> None:
        """Accumulate the gradient of the whole step; ranks exchange it in the last backward only."""
        for number, batch in enumerate(batches):
            heartbeat("forward and backward")
            with self.exchange_gradients(number == len(batches) - 1):
                prepared = self.prepare(batch, number)
                with self.phase("forward"):
                    loss = self(self.loss, prepared)
                if not self.compared:
                    self.compared = True
                    self.compare_counts(self.counts(batch), loss)
                with self.phase("backward"):
                    self.manual_backward(self.objective(loss, counts))
            self.meter.add(loss)

    def compare_counts(self, counts: dict[str, Tensor], loss: Loss) -> None:
        """Compare what `counts` says of a batch with what `loss` counted of it; the former divides the gradient."""
        for name, term in loss.terms.items():
            if name not in counts:
                told = f"{type(self).__name__}.loss returns the term {name!r}, of which counts() says nothing"
                raise RunError(f"{told}: it has {', '.join(counts)}")
            said, found = float(counts[name]), float(term.count)
            if not math.isclose(said, found, rel_tol=1e-4, abs_tol=1e-6):
                told = f"{type(self).__name__}.counts says {said:g} of the term {name!r}, and loss counts {found:g}"
                raise RunError(f"{told}: the gradient would be off by that much; let both count the same")

    def objective(self, loss: Loss, counts: dict[str, Tensor]) -> Tensor:
        """Compute this micro-batch's share of the step's objective, times the ranks: data-parallel backends average."""
        shares = [term.weight * term.total / counts[name].to(term.total.dtype) for name, term in loss.terms.items()]
        return torch.stack(shares).sum() * world_size()

    def prepare(self, batch: Batch, number: int) -> Batch:
        """Seed the model's own draws (dropout) by step, rank and micro-batch, and finish the batch on the device."""
        seed_everything_at(self.settings.seed, self.global_step, rank(), number)
        return self.finished(batch)

    @torch.no_grad()
    def finished(self, batch: Batch) -> Batch:
        """Apply `on_device` in single precision, whatever the model computes in."""
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            with torch.autocast(self.device.type, enabled=False), self.phase("augment"):
                return self.on_device(batch)
        finally:
            torch.set_default_dtype(default)

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Count the time inside as that of a training step's phase."""
        return self.timer(name, self.device) if self.training else contextlib.nullcontext()

    def exchange_gradients(self, wanted: bool) -> contextlib.AbstractContextManager[Any]:
        """Let the strategy exchange gradients in the backward inside, or hold them back."""
        strategy = getattr(self._trainer, "strategy", None)
        if wanted or world_size() == 1 or not hasattr(strategy, "block_backward_sync"):
            return contextlib.nullcontext()
        assert strategy is not None
        return strategy.block_backward_sync()

    # -- evaluation ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, loader: Any, prefix: str = "validation") -> dict[str, float]:
        """Compute every term and metric over an `EvalLoader`, with the averaged weights where there are any."""
        meter, training = Meter(), self.training
        self.eval()
        with self.averaged():
            for loss, share in self.evaluated(loader):
                meter.add(loss, share)
        self.train(training)
        heartbeat("between steps")
        return meter.read(prefix)

    def evaluated(self, loader: Any) -> Iterator[tuple[Loss, float]]:
        """Compute the loss of each batch, and pass its share on."""
        for batch, share in loader:
            finished = self.moved(batch)
            with self.forward_context():
                loss = self(self.loss, finished)
            yield loss, share

    def moved(self, batch: Batch) -> Batch:
        """Finish a batch of the validation split on the device."""
        heartbeat("validation")
        return self.finished(self.transfer_batch_to_device(batch, self.device, 0))

    def forward_context(self) -> contextlib.AbstractContextManager[Any]:
        """Compute inside in the trainer's precision."""
        return contextlib.nullcontext() if self._trainer is None else self.trainer.precision_plugin.forward_context()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Copy to the device (called by Lightning), without waiting where the batch is in pinned memory."""
        with self.phase("copy"):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)

    # -- averaged weights ----------------------------------------------------------------------------------------------

    def _trainable(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def _update_average(self) -> None:
        """Move the average towards the weights; part of the step, so that a checkpoint after it always holds it."""
        if self.settings.ema is None:
            return
        weights = self._trainable()
        if self._average is None:
            self._average = {name: weight.clone() for name, weight in weights.items()}
        torch._foreach_lerp_(list(self._average.values()), list(weights.values()), 1.0 - self.settings.ema)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights in place inside the block; without averaging, change nothing."""
        self.guard.flush(self.settings)
        weights = self._trainable() if self._average is not None else {}
        kept = {name: weight.clone() for name, weight in weights.items()}
        for name, weight in weights.items():
            weight.copy_(self._average[name])  # type: ignore[index]
        try:
            yield
        finally:
            for name, weight in weights.items():
                weight.copy_(kept[name])

    # -- what a checkpoint holds beside weights ------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the meter's sums, the skipped steps and the averaged weights (called by Lightning on every rank)."""
        self.guard.flush(self.settings)
        self.meter.fold()
        checkpoint["meter"] = {"sums": dict(self.meter.sums), "weights": dict(self.meter.weights)}
        checkpoint["skipped"] = self.guard.skipped
        checkpoint["average"] = self._average and {name: whole(weight) for name, weight in self._average.items()}
        checkpoint["measured"] = dict(self.measured)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` added (called by Lightning)."""
        self.guard.skipped, self.measured = checkpoint["skipped"], dict(checkpoint["measured"])
        if checkpoint["average"] is not None:
            weights = self._trainable()
            self._average = {name: placed_like(weight, weights[name]) for name, weight in checkpoint["average"].items()}
        sums = {name: pair.to(self.device) for name, pair in checkpoint["meter"]["sums"].items()}
        self.meter.sums = sums if rank() == 0 else {name: torch.zeros_like(pair) for name, pair in sums.items()}
        self.meter.weights = dict(checkpoint["meter"]["weights"])
