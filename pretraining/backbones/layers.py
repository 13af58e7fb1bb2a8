"""Which of a backbone's layers are read: layer 0 is what the first one reads, -1 is the last one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pretraining.backbones.base import Backbone, Features
from pretraining.errors import RunError

LAST, ALL = "last", "all"


def numbers_of(backbone: Backbone, wanted: str | Sequence[int], key: str = "mode.layers") -> list[int]:
    """Number the layers of a list of numbers, of `last` or of `all`; what the backbone has not is an error."""
    count = len(backbone.layer_widths)
    if wanted == LAST:
        return [count - 1]
    if wanted == ALL:
        return list(range(count))
    listed: Any = wanted  # which is no word by now
    numbers: list[int] = [number + count if number < 0 else number for number in listed]
    if not numbers or not all(0 <= number < count for number in numbers):
        what = f"got {key}={list(wanted)}, but {type(backbone).__name__} has the layers 0 to {count - 1}"
        raise RunError(f"{what}: give some of these (-1 is the last)")
    return numbers


def chosen_layers(
    backbone: Backbone, numbers: Sequence[int], inputs: Mapping[str, Any]
) -> tuple[list[Features], Features]:
    """Run the backbone and take layers by their numbers, and the last one."""
    if list(numbers) == [len(backbone.layer_widths) - 1]:
        last = backbone(**inputs)
        return [last], last
    every = backbone.hidden_layers(**inputs)
    return [every[number] for number in numbers], every[-1]
