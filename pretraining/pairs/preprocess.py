"""The preprocessing of both sides of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pretraining.cache import key
from pretraining.pairs.modality import PAIRS


@dataclass(kw_only=True, eq=False)
class PairPreprocess:
    """A preprocessing, or what learns one from data, for each side by its name. A hand-off holds them one by one."""

    modality = PAIRS
    sides: Mapping[str, Any]

    def fit(self, data: Any) -> PairPreprocess:
        """Let each side learn from the training pairs what there is to learn."""
        return PairPreprocess(sides={name: part.fit(data) for name, part in self.sides.items()})

    @property
    def digest(self) -> str:
        """Identify what the sides make of a pair."""
        return key({name: part.digest for name, part in self.sides.items()})

    def describe(self) -> str:
        """Say in a few words what each network reads."""
        return "; ".join(f"{name}: {part.describe()}" for name, part in self.sides.items())
