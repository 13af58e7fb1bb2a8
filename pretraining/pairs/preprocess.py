"""The preprocessing of both sides of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pretraining.cache import key
from pretraining.pairs.modality import PAIRS


def chosen(there: Mapping[str, Any], wanted: Iterable[str], where: str = "preprocess.sides") -> dict[str, Any]:
    """Take what belongs to the `wanted` sides, in their order; what is configured for others is left out."""
    names = list(wanted)
    if not set(names) <= set(there):
        what = f"{where} are {', '.join(there)}, and the data's sides {', '.join(names)}"
        raise ValueError(f"{what}: give each of the latter one")
    return {name: there[name] for name in names}


@dataclass(kw_only=True, eq=False)
class PairPreprocess:
    """A preprocessing, or what learns one from data, for each side by its name. A hand-off holds them one by one."""

    modality = PAIRS
    sides: Mapping[str, Any]

    def fit(self, data: Any) -> PairPreprocess:
        """Let each side that the data have learn from the training pairs what there is to learn."""
        wanted = data.sides or tuple(self.sides)
        return PairPreprocess(sides={name: part.fit(data) for name, part in chosen(self.sides, wanted).items()})

    @property
    def digest(self) -> str:
        """Identify what the sides make of a pair."""
        return key({name: part.digest for name, part in self.sides.items()})

    def describe(self) -> str:
        """Say in a few words what each network reads."""
        return "; ".join(f"{name}: {part.describe()}" for name, part in self.sides.items())
