"""Numbers that move over a run: functions of (step, total), so a resumed run goes on with them exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Shape = Literal["cosine", "linear", "exponential"]


def ramp_at(step: int, steps: int, *, first: float, last: float, shape: Shape = "cosine") -> float:
    """Compute a number that goes from `first` at step 0 to `last` at `steps` and after it.

    On half a cosine (Grill et al. 2020, section 3.2), in a straight line, or by the same factor each step.
    """
    done = min(step / steps, 1.0) if steps > 0 else 1.0
    if shape == "exponential":
        return first * (last / first) ** done
    return last - (last - first) * (0.5 * (1.0 + math.cos(math.pi * done)) if shape == "cosine" else 1.0 - done)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """From `first` to `last` over `steps` optimizer steps (null: the whole run), then constant."""

    first: float
    last: float
    steps: int | None = None
    shape: Shape = "cosine"

    def __post_init__(self) -> None:
        if self.shape not in ("cosine", "linear", "exponential") or (self.steps or 0) < 0:
            told = f"got shape={self.shape} over {self.steps} steps"
            raise ValueError(f"a schedule is cosine, linear or exponential, over null or at least 0 steps: {told}")
        if self.shape == "exponential" and not min(self.first, self.last) > 0:
            raise ValueError(f"an exponential schedule stays above 0: got first={self.first} and last={self.last}")

    def __call__(self, step: int, total: int) -> float:
        """Compute the number at optimizer step `step` of a run of `total`."""
        steps = total if self.steps is None else self.steps
        return ramp_at(step, steps, first=self.first, last=self.last, shape=self.shape)
