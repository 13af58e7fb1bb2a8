"""Networks that were trained before as towers of a dual encoder, with the preprocessing that they were trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pretraining import handoff
from pretraining.audio.modality import AUDIO
from pretraining.backbones.base import Backbone
from pretraining.data.files import say
from pretraining.errors import HandoffError
from pretraining.image.modality import IMAGE
from pretraining.modality import Preprocess, Tower
from pretraining.pairs.dual_encoder import DualEncoder
from pretraining.pairs.preprocess import PairPreprocess
from pretraining.text.modality import TEXT


def read_tower(reference: str, tower: str | None) -> Tower:
    """Read a network: of a hand-off's directory, `hf:NAME` or `torchvision:NAME`.

    Of hf: the text network of a checkpoint, unless `tower` says image or audio.
    """
    scheme = reference.partition(":")[0]
    kinds = [kind for kind in (TEXT, IMAGE, AUDIO) if scheme in kind.readers]
    modality = next((kind for kind in kinds if kind.name == tower), kinds[0] if kinds else None)
    return handoff.read(reference, modality=modality, tower=tower).tower


def backbone_of(*, handoff: str, preprocess: Preprocess, tower: str | None = None, **told: Any) -> Backbone:
    """Take a hand-off's network as it is; what a modality would tell a fresh one (`told`) it knows already.

    `preprocess` is what its inputs will be prepared by. Any other than its own is refused: tokens would be other words,
    and pictures of another size or scale than those that it was trained on.
    """
    given = read_tower(handoff, tower)
    kind = given.backbone.modality
    if preprocess.modality is not kind:
        what = f"{handoff}, tower={tower} has a network for {kind}, and this side's data are {preprocess.modality}"
        raise ValueError(f"{what}: give one for such data, with tower= where there are several")
    odd = next((name for name in told if name not in kind.backbone_arguments(preprocess)), None)
    if odd is not None:
        what = f"{handoff} is a network as it was trained, which backbone.towers.{kind}.{odd}={told[odd]} cannot change"
        raise ValueError(f"{what}: add ~backbone.towers.{kind}.{odd}")
    if given.preprocess.digest != preprocess.digest:
        side = f"preprocess.sides.{kind}"
        what = f"{handoff} was trained with {_difference(given.preprocess, preprocess, side)}"
        alone = "" if tower is None else f" {side}.tower={tower}"
        raise ValueError(f"{what}: add preprocess@{side}=_handoff {side}.handoff={handoff}{alone}")
    return given.backbone


def _difference(own: Preprocess, other: Preprocess, side: str) -> str:
    """Say in what a network's preprocessing differs from the one of its side."""
    theirs = other.kwargs
    differ = [name for name, value in own.kwargs.items() if value != theirs.get(name)]
    if not differ:
        return f"other tokens or units ({own.describe()}) than {side} has ({other.describe()})"
    trained, has = (", ".join(f"{name}={part.get(name)}" for name in differ) for part in (own.kwargs, theirs))
    return f"{trained}, but {side} has {has}"


@dataclass(kw_only=True)
class PreprocessOf:
    """Takes a hand-off's preprocessing as it is; what the data set of pictures of its own (`size`, ...) is how they are
    decoded, and else not used. Recordings are read at its `sample_rate` or not at all.
    """

    handoff: str
    tower: str | None = None
    size: int | None = None
    channels: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    vocab_size: int | None = None
    sample_rate: int | None = None

    def fit(self, data: Any) -> Preprocess:
        """Read it, and say so where pictures are decoded at fewer pixels than it has."""
        found = read_tower(self.handoff, self.tower).preprocess
        rate = getattr(found, "sample_rate", self.sample_rate)
        if self.sample_rate not in (None, rate):
            told = f"{self.handoff} reads recordings at {rate} samples per second, and the data are read at"
            raise ValueError(f"{told} {self.sample_rate}: set preprocess.sides.audio.sample_rate={rate}")
        if self.size is not None and self.size < getattr(found, "size", self.size):
            told = f"preprocess.sides.image.size={self.size} is enlarged to the {found.size} that {self.handoff} reads"
            say(f"{told}: where the pictures have more, give preprocess.sides.image.size={found.size}")
        return found


def joined(towers: Mapping[str, Tower]) -> Tower:
    """Put both networks of a hand-off side by side again."""
    if len(towers) != 2:
        raise HandoffError(f"the hand-off holds {', '.join(towers)} alone: give one of pairs, which has two networks")

    def of(name: str) -> Any:
        return lambda: towers[name].backbone

    backbone = DualEncoder(towers={name: of(name) for name in towers})
    return Tower(backbone, PairPreprocess(sides={name: tower.preprocess for name, tower in towers.items()}))
