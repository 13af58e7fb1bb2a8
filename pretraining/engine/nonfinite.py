"""Steps whose gradient is not finite have no effect: the run stops, or skips a bounded number of them.

On a CPU the gradient's norm is read at once. On a GPU that would make the host wait for every step; there the optimizer
is told on the device to leave a step out (torch's fused optimizers take a flag for it), and the host reads the flag one
step later, or before anything is evaluated, saved or handed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pretraining.distributed.collectives import rank, world_size
from pretraining.engine.batch import Step, StepSettings
from pretraining.errors import NonFiniteError


class _Unread(NamedTuple):
    """A step that was taken before the host knows whether its gradient is finite."""

    step: Step
    bad: Tensor  # bool [], on its way to the host
    arrived: Any  # the event behind the copy; None on a CPU


class Guard:
    """Watches the gradient norms of a run."""

    deferred: bool | None = None  # None: on devices that compute beside the host, with optimizers that can skip a step

    def __init__(self) -> None:
        self.skipped = 0
        self._unread: list[_Unread] = []

    def check(
        self, step: Step, norm: Tensor, optimizer: Optimizer, parameters: Iterable[nn.Parameter], settings: StepSettings
    ) -> None:
        """Make the optimizer's next step have no effect unless `norm` is finite; raise `NonFiniteError` to stop."""
        able = all(group.get("fused") for group in optimizer.param_groups)
        if not able or not (norm.device.type == "cuda" if self.deferred is None else self.deferred):
            if not torch.isfinite(norm):
                self._refuse(step, settings)
                for parameter in parameters:
                    parameter.grad = None
            return
        bad = ~torch.isfinite(norm)
        optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        arrived = None
        if norm.device.type == "cuda":
            bad, arrived = bad.to("cpu", non_blocking=True), torch.cuda.Event()
            arrived.record()  # type: ignore[no-untyped-call]
        self._unread.append(_Unread(step, bad, arrived))

    def flush(self, settings: StepSettings, *, leave: int = 0) -> None:
        """Read the flags of checked steps, all but the latest `leave`."""
        while len(self._unread) > leave:
            step, bad, arrived = self._unread.pop(0)
            if arrived is not None:
                arrived.synchronize()
            if bad:
                self._refuse(step, settings)

    def _refuse(self, step: Step, settings: StepSettings) -> None:
        """Count a step that has no effect; stop, if that is wanted or there were too many."""
        self.skipped += 1
        saved = _save_for_replay(step, settings.replay)
        if settings.on_nonfinite == "stop" or self.skipped > settings.max_skipped:
            before = f" ({self.skipped - 1} steps were skipped before)" if self.skipped > 1 else ""
            cure = "lower optimizer.peak_lr or set trainer.clip_norm; trainer.on_nonfinite=skip leaves out single steps"
            raise NonFiniteError(f"the gradient of step {step.number} is not finite{before}{saved}: {cure}")


def _save_for_replay(step: Step, directory: Path | None) -> str:
    """Write this rank's share of a step, tensors and the (epoch, row) of each example; return words that say so."""
    examples = [pair for batch in step.micro_batches for pair in _examples(batch)]
    first = ", ".join([*map(str, examples[:8]), *(["..."] if len(examples) > 8 else [])])
    named = f"; examples (epoch, row) of rank {rank()}: {first}"
    if directory is None:
        return named
    path = directory / f"nonfinite-step-{step.number:07d}{f'-rank-{rank()}' if world_size() > 1 else ''}.pt"
    batches = [_tensors(batch) for batch in step.micro_batches]
    torch.save({"step": step.number, "examples": torch.tensor(examples), "micro_batches": batches}, path)
    return f"{named}; its batch is in {path}"


def _tensors(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the tensors of a batch, its backbone's inputs among them, to the CPU."""
    parts = {name: part for name, part in batch.items() if isinstance(part, (Tensor, Mapping))}
    return {name: part.cpu() if isinstance(part, Tensor) else _tensors(part) for name, part in parts.items()}


def _examples(batch: dict[str, Any]) -> list[tuple[int, int]]:
    """Name the examples of a batch by epoch and row, where it carries their keys."""
    keys = batch.get("keys")
    return [] if keys is None else list(zip(keys.epoch.tolist(), keys.index.tolist(), strict=True))
