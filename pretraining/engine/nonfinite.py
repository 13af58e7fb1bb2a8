"""Steps whose gradient is not a number have no effect, and are not forgotten: a run stops, or leaves out a bounded number of them.

On a CPU the gradient's norm is read at once. On a GPU that would make the host wait for every step; there the optimizer is told on the
device to leave a step out (torch's fused optimizers take a flag for it), and the host reads the flag one step later, or before anything
is evaluated, saved or handed over.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from pretraining.distributed.collectives import rank, world_size
from pretraining.errors import NonFiniteError

if TYPE_CHECKING:
    from pretraining.engine.batch import Step, StepSettings


class _Admitted(NamedTuple):
    """A step that was taken before anyone knew whether its gradient is a number."""

    step: Step
    spoilt: Tensor  # bool [], on its way to the host
    arrived: Any  # the event behind the copy; None on a CPU


class Guard:
    """Watches the gradient norms of a run."""

    deferred: bool | None = (
        None  # None: where the device makes it worthwhile and the optimizer can leave a step out by itself
    )

    def __init__(self) -> None:
        self.skipped = 0
        self._waiting: list[_Admitted] = []

    def admit(
        self,
        step: Step,
        norm: Tensor,
        optimizer: torch.optim.Optimizer,
        parameters: Iterable[nn.Parameter],
        settings: StepSettings,
    ) -> None:
        """See to it that the optimizer's next step has no effect unless `norm` is a number; raise `NonFiniteError` where it must stop."""
        able = all(group.get("fused") for group in optimizer.param_groups)
        if not able or not (norm.device.type == "cuda" if self.deferred is None else self.deferred):
            if not torch.isfinite(norm):
                self._refuse(step, settings)
                for parameter in parameters:
                    parameter.grad = None
            return
        spoilt = ~torch.isfinite(norm)
        optimizer.found_inf = spoilt.float()  # type: ignore[attr-defined]
        arrived = None
        if norm.device.type == "cuda":
            spoilt, arrived = spoilt.to("cpu", non_blocking=True), torch.cuda.Event()
            arrived.record()  # type: ignore[no-untyped-call]
        self._waiting.append(_Admitted(step, spoilt, arrived))

    def settle(self, settings: StepSettings, *, leave: int = 0) -> None:
        """Read the flags of admitted steps, all but the latest `leave`."""
        while len(self._waiting) > leave:
            step, spoilt, arrived = self._waiting.pop(0)
            if arrived is not None:
                arrived.synchronize()
            if spoilt:
                self._refuse(step, settings)

    def _refuse(self, step: Step, settings: StepSettings) -> None:
        """Count a step that has no effect; stop, if that is wanted or there were too many."""
        self.skipped += 1
        saved = _save_for_replay(step, settings.replay)
        if settings.on_nonfinite == "stop" or self.skipped > settings.max_skipped:
            raise NonFiniteError(
                f"the gradient of step {step.number} is not finite"
                + (f" ({self.skipped - 1} steps were skipped before)" if self.skipped > 1 else "")
                + f"{saved}: lower optimizer.peak_lr or set trainer.clip_norm; trainer.on_nonfinite=skip leaves out single steps"
            )


def _save_for_replay(step: Step, directory: Path | None) -> str:
    """Write this rank's share of a step, tensors only, with the (epoch, row) of each example; tell where, and which examples."""
    examples = [pair for batch in step.micro_batches for pair in _examples(batch)]
    named = f"; examples (epoch, row) of rank {rank()}: {', '.join(map(str, examples[:8]))}{', ...' if len(examples) > 8 else ''}"
    if directory is None:
        return named
    path = directory / f"nonfinite-step-{step.number:07d}{f'-rank-{rank()}' if world_size() > 1 else ''}.pt"
    batches = [{k: v.cpu() for k, v in batch.items() if isinstance(v, Tensor)} for batch in step.micro_batches]
    torch.save({"step": step.number, "examples": torch.tensor(examples), "micro_batches": batches}, path)
    return f"{named}; its batch is in {path}"


def _examples(batch: dict[str, Any]) -> list[tuple[int, int]]:
    """Name the examples of a batch by epoch and row, where it carries their keys."""
    keys = batch.get("keys")
    return [] if keys is None else list(zip(keys.epoch.tolist(), keys.index.tolist(), strict=True))
