"""The weights that a finetuning keeps."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from finetuning.metrics.bootstrap import Numbers
from pretraining.errors import RunError


@dataclasses.dataclass
class Best:
    """The weights with the highest selection metric on validation so far."""

    value: float = float("-inf")
    step: int = -1
    weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    values: Numbers = dataclasses.field(default_factory=dict)  # everything measured with them
    evaluations_since: int = 0


def selected(select: str, values: Numbers) -> float:
    """Read the metric `select` of what was measured on validation, so that more is better."""
    name = f"validation/{select.removeprefix('-')}"
    if name not in values:
        known = ", ".join(key.removeprefix("validation/") for key in values)
        raise RunError(f"got task.select={select}, which this task does not measure: choose one of {known}")
    return -values[name] if select.startswith("-") else values[name]
