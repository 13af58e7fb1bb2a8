"""What one optimizer step is made of: batches, counted terms, settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

Batch = dict[str, Any]


class Term(NamedTuple):
    """One summand of an objective, or one metric: the SUM over a micro-batch's predictions, and how many those are."""

    total: Tensor  # []
    count: Tensor  # type: ignore[assignment]  # []
    weight: float = 1.0  # of the term's global mean in the objective


class Loss(NamedTuple):
    """What `loss(batch)` returns: terms to minimise and metrics to log, each normalised by its own global count."""

    terms: dict[str, Term]
    metrics: dict[str, Term] = {}  # noqa: RUF012


class Step(NamedTuple):
    """This rank's share of one optimizer step, as the loader serves it."""

    number: int  # optimizer steps before this one
    micro_batches: list[Batch]
    examples: int  # on this rank
    units: float  # of the modality, on this rank: tokens without padding, images, seconds of audio, ...


@dataclass
class StepSettings:
    """What a run adds to a module. `ema`: decay of the averaged weights, which are then evaluated and handed over.

    `clip_each`: `clip_norm` is each gradient tensor's own longest, not that of all together.
    `batch_size`: examples of a training step, which losses that compare them are evaluated at.
    """

    seed: int = 0
    max_steps: int = 1
    clip_norm: float | None = None
    ema: float | None = None
    on_nonfinite: Literal["stop", "skip"] = "stop"
    max_skipped: int = 10
    batch_size: int | None = None
    clip_each: bool = False
    replay: Path | None = None  # directory that gets the batch of a step whose gradient is not finite
