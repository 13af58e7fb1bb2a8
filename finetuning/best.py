"""The weights that a finetuning keeps."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from finetuning.metrics.bootstrap import Numbers


@dataclasses.dataclass
class Best:
    """The weights with the highest selection metric on validation so far."""

    value: float = float("-inf")
    step: int = -1
    weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    values: Numbers = dataclasses.field(default_factory=dict)  # everything measured with them
    evaluations_since: int = 0
