"""Networks that turn examples into vectors, one by itself or several that share a space.

Shapes: N examples, D width of a vector, B examples of a batch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining import handoff
from pretraining.backbones.base import Backbone
from pretraining.backbones.layers import LAST, chosen_layers
from pretraining.data.files import say
from pretraining.data.unlabelled import Reading, listed, told_together
from pretraining.embedding.settings import Source, Wanted
from pretraining.engine.precision import choose_precision
from pretraining.errors import HandoffError, RunError
from pretraining.modality import Tower


class Embedder:
    """A network with the preprocessing of what it reads. `card` says where it is from (handoff.json).

    `shared` is the map into the space that several networks share, for one of such.
    """

    def __init__(
        self,
        tower: Tower,
        reading: Reading,
        source: Source,
        card: Mapping[str, Any],
        shared: nn.Linear | None = None,
    ) -> None:
        self.preprocess, self.reading, self.source, self.card = tower.preprocess, reading, source, card
        self.device = source.place
        convolves = tower.backbone.convolves
        self.precision = choose_precision(source.precision, self.device.type, convolves=convolves)  # type: ignore[arg-type]
        self._autocast = self.precision == "bf16"
        self.backbone = self._ready(tower.backbone)
        self.shared = None if shared is None else shared.to(self.device)
        self._pooled: dict[str | None, Backbone] = {None: self.backbone}

    def __repr__(self) -> str:
        layers = len(self.backbone.layer_widths)
        width = self.backbone.dim if self.shared is None else self.shared.out_features
        what = f"{type(self.backbone).__name__} of {layers - 1} layers, vectors of {width}"
        reads = f"reads {self.backbone.modality} ({self.preprocess.describe()})"
        space = "" if self.shared is None else ", in the space that it shares"
        return f"<{self.source.reference}: {what}{space}; {reads}; {self.precision}>"

    def width(self, wanted: Wanted) -> int:
        """Tell how wide the vectors are."""
        widths = self.backbone.layer_widths
        if self.shared is not None:
            return self.shared.out_features
        return sum(widths[number] for number in wanted.numbers(self.backbone))

    def embed(
        self,
        items: Iterable[Any],
        *,
        layer: str | int | Sequence[int] = LAST,
        pooling: str | None = None,
        batch_size: int = 64,
        normalize: bool = False,
    ) -> np.ndarray:
        """Turn examples into vectors, in their order. float32 [N, D]

        Texts are `str`; images PIL images, uint8 arrays or paths; recordings paths or (samples, rate). See `Wanted`.
        """
        wanted = Wanted(layer, pooling, batch_size, normalize)
        held, first = listed(items), 0
        found = np.empty((len(held), self.width(wanted)), np.float32)
        none: dict[str, Any] = {}
        values = ((none, self.reading.take(item, f"item {n}", self.preprocess)) for n, item in enumerate(held))
        for _, vectors in self.pieces(values, wanted):
            found[first : first + len(vectors)] = vectors
            first += len(vectors)
        return found

    def read(self, path: Path) -> Iterator[tuple[dict[str, Any], Any]]:
        """Read examples from a file or directory, one by one: what tells which each is, and its value."""
        return self.reading.read(path, self.preprocess)

    def pieces(
        self, examples: Iterator[tuple[dict[str, Any], Any]], wanted: Wanted
    ) -> Iterator[tuple[list[dict[str, Any]], np.ndarray]]:
        """Embed examples piece by piece, in their order: what was told of each, and their vectors [n, D].

        A piece is as much as may be in memory; inside of it the longest come first, so that a batch pads little.
        """
        network = self._network(wanted)
        first = 0
        with told_together():
            while piece := [pair for _, pair in zip(range(self.reading.ahead), examples, strict=False)]:
                names = [_name(shown, first + place) for place, (shown, _) in enumerate(piece)]
                yield (
                    [shown for shown, _ in piece],
                    self._vectors([value for _, value in piece], names, network, wanted),
                )
                first += len(piece)

    def _network(self, wanted: Wanted) -> Backbone:
        """Take the network, pooled as is wanted; a choice that it has not is an error."""
        numbers = wanted.numbers(self.backbone)
        if wanted.pooling == "pooler" and numbers != [len(self.backbone.layer_widths) - 1]:
            raise RunError(
                f"got pooling=pooler and layer={wanted.layer}: a pooler reads the last layer, leave layer= out"
            )
        if self.shared is not None and (wanted.layer != LAST or wanted.pooling is not None):
            asked = f"layer={wanted.layer} and pooling={wanted.pooling}"
            cure = "leave them out, or take the network's own vectors (tower= without a shared space)"
            raise RunError(f"got {asked} for vectors in the space that networks share: {cure}")
        if wanted.pooling not in self._pooled:
            if wanted.pooling == "pooler" and self.backbone.kwargs.get("pooling") != "pooler":
                told = f"{self.source.reference} has other vectors than its pooler's"
                say(f"{told}: what trained it may not have used that, and left it as it was drawn")
            self._pooled[wanted.pooling] = self._ready(handoff.repooled(self.backbone, str(wanted.pooling)))
        return self._pooled[wanted.pooling]

    def _ready(self, backbone: Backbone) -> Backbone:
        """Put a network where it computes, as evaluation does."""
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        if self.device.type == "cpu" and backbone.take_shortcuts(dtype):
            self._autocast = False
        return backbone.eval().to(self.device)

    @torch.inference_mode()
    def _vectors(self, values: Sequence[Any], names: Sequence[str], network: Backbone, wanted: Wanted) -> np.ndarray:
        encoded = self.reading.encode(values, names, self.preprocess, network)
        order, numbers = np.argsort(-encoded.lengths, kind="stable"), wanted.numbers(network)
        found = np.empty((len(values), self.width(wanted)), np.float32)
        exact = functools.partial(torch.autocast, self.device.type, enabled=False)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):  # casts weights once
            for start in range(0, len(order), wanted.batch_size):
                rows = order[start : start + wanted.batch_size]
                with exact():
                    inputs = {name: part.to(self.device) for name, part in encoded.stack(rows).items()}
                chosen, _ = chosen_layers(network, numbers, inputs)
                with exact():
                    found[rows] = self._finished(torch.cat([layer.pooled.float() for layer in chosen], -1), wanted)
        return found

    def _finished(self, vectors: Tensor, wanted: Wanted) -> np.ndarray:
        """Bring pooled vectors [B, D] into the shared space, or to length 1, where that is wanted."""
        if self.shared is not None:
            vectors = F.normalize(self.shared(vectors), dim=-1)
        return (F.normalize(vectors, dim=-1) if wanted.normalize else vectors).cpu().numpy()


class JointEmbedder:
    """Networks that share a space: pairs of examples become vectors of length 1, whose products are their cosines."""

    def __init__(self, towers: Mapping[str, Embedder]) -> None:
        self.towers = dict(towers)
        self.card = next(iter(self.towers.values())).card

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {tower!r}" for name, tower in self.towers.items())

    @property
    def backbone(self) -> dict[str, Backbone]:
        """The networks by their names."""
        return {name: tower.backbone for name, tower in self.towers.items()}

    @property
    def preprocess(self) -> dict[str, Any]:
        """What prepares their inputs, by their names."""
        return {name: tower.preprocess for name, tower in self.towers.items()}

    def tower(self, name: str) -> Embedder:
        """Take one network, whose vectors are in the shared space."""
        if name not in self.towers:
            raise HandoffError(f"there is no tower {name!r}: choose {' or '.join(self.towers)}")
        return self.towers[name]

    def embed(self, items: Iterable[Sequence[Any]], *, batch_size: int = 64) -> dict[str, np.ndarray]:
        """Turn pairs, a sequence with an example for each network in their order, into vectors: [N, D] by name."""
        pairs, names = listed(items), list(self.towers)
        for number, pair in enumerate(pairs):
            if not isinstance(pair, (tuple, list)) or len(pair) != len(names):
                what = f"item {number} is {type(pair).__name__}, and these networks read pairs"
                raise RunError(f"{what}: give ({', '.join(names)}), or take one of them with tower(NAME)")
        sides: list[list[Any]] = [[pair[place] for pair in pairs] for place in range(len(names))]
        return {
            name: self.towers[name].embed(side, batch_size=batch_size) for name, side in zip(names, sides, strict=True)
        }


def _name(shown: Mapping[str, Any], number: int) -> str:
    """Say which example an error is about."""
    told = [str(shown[part]) for part in ("file", "id") if part in shown]
    return ", ".join(told) if told else f"item {number}"
