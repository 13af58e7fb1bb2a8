"""Two networks side by side, of any two modalities."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from pretraining.backbones.base import Backbone, Features
from pretraining.pairs.modality import PAIRS
from pretraining.pairs.preprocess import chosen


class DualEncoder(Backbone):
    """Two backbones, which share nothing.

    `towers` says how to make each one, by the name of its side; `arguments`, of the sides that the data have, are what
    its modality must tell it, and `preprocess` is for those that ask for what prepares their inputs.
    `locked` names those that stay as they are: no gradient, no dropout, no running statistics (LiT, Zhai et al. 2022).
    """

    modality = PAIRS
    towers: Any  # a dictionary of backbones, which the type checker takes for any modules

    def __init__(
        self,
        *,
        towers: Mapping[str, Callable[..., Backbone]],
        arguments: Mapping[str, Mapping[str, Any]] | None = None,
        preprocess: Mapping[str, Any] | None = None,
        locked: Sequence[str] = (),
    ) -> None:
        super().__init__()
        told = arguments or {}
        if told:
            towers = chosen(towers, told, "backbone.towers")
        if len(towers) != 2:
            raise ValueError(f"backbone.towers has {', '.join(towers) or 'none'}: give two")
        unknown = set(locked) - set(towers)
        if unknown or len(locked) == len(towers):
            what = f"backbone.locked={list(locked)}: name one of the towers {', '.join(towers)}"
            raise ValueError(f"{what}, or none: at least one must learn")
        self.towers = nn.ModuleDict()
        for name, make in towers.items():
            asked = {"preprocess"} & {*inspect.signature(make).parameters}
            fed = {key: preprocess[name] for key in asked} if preprocess is not None else {}
            self.towers[name] = make(**told.get(name, {}), **fed)
        self.locked = tuple(locked)
        for name in self.locked:
            self.towers[name].requires_grad_(False).eval()  # a new module is in training until it is told

    @property
    def kwargs(self) -> dict[str, Any]:  # type: ignore[override]
        """Say how to make two of the same architecture."""
        towers = {name: functools.partial(tower.__class__, **tower.kwargs) for name, tower in self.towers.items()}
        return {"towers": towers, "locked": self.locked}

    @property
    def dim(self) -> int:  # type: ignore[override]
        """The width of both pooled vectors together."""
        return sum(tower.dim for tower in self.towers.values())

    @property
    def convolves(self) -> bool:
        """Whether one of them does, unchecked."""
        return any(tower.convolves for tower in self.towers.values())

    def forward(self, **inputs: Mapping[str, Tensor]) -> Any:
        """Compute the `Features` of each side, by its name."""
        return {name: self._features(name, inputs[name]) for name in self.towers}

    def _features(self, name: str, inputs: Mapping[str, Tensor]) -> Features:
        with torch.set_grad_enabled(torch.is_grad_enabled() and name not in self.locked):
            return self.towers[name](**inputs)

    def train(self, mode: bool = True) -> DualEncoder:
        """Enter training or evaluation; what is locked stays in evaluation."""
        super().train(mode)
        for name in self.locked:
            self.towers[name].eval()
        return self

    def blocks(self) -> list[nn.Module]:
        """List the parts of both."""
        return [block for tower in self.towers.values() for block in tower.blocks()]

    def set_compute(self, *, compiled: bool, activation_checkpointing: bool, sharded: bool) -> None:
        """See `Backbone.set_compute`."""
        for tower in self.towers.values():
            tower.set_compute(compiled=compiled, activation_checkpointing=activation_checkpointing, sharded=sharded)

    def take_no_shortcut(self) -> None:
        """See `Backbone.take_no_shortcut`."""
        for tower in self.towers.values():
            tower.take_no_shortcut()

    def export(self, directory: Path) -> NoReturn:
        """Refuse: each of the two is exported by itself."""
        raise TypeError("a dual encoder is handed over as two towers: export `towers`")

    load = export

    def usage(self) -> str:
        """Show how each one is loaded."""
        return "\n".join(tower.usage().replace("DIR", f"DIR/{name}") for name, tower in self.towers.items())
