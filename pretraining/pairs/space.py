"""The space that both networks of a hand-off of pairs share, for those who use what was learnt: no objective is needed.

Shapes: B examples, D width of the space.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining import handoff
from pretraining.data.unlabelled import tell_cut
from pretraining.errors import HandoffError
from pretraining.handoff import Handoff, explained
from pretraining.modality import Tower
from pretraining.pairs.checkpoints import SIDES, heads_of, holds_pair
from pretraining.text.raw import RawTexts, TokeniseTexts
from pretraining.text.tokenizer import longest_text

BATCH = 256  # texts that are read at once
HEADS = "heads.safetensors"


@dataclass(frozen=True)
class Space:
    """How one side's pooled vectors get into the space, what reads the other side, and how logits follow."""

    projection: nn.Linear
    other: Tower
    other_projection: nn.Linear
    other_tokens: int  # that a text of the other side has at most
    scale: float  # of the cosines
    shift: float

    @classmethod
    def read(cls, given: Handoff, *, trust: Sequence[str] = ()) -> Space:
        """Read what is left beside the only tower in `given`; a hand-off without a second one is refused.

        Beside a tower that was drawn anew the other one and the projections are drawn, too.
        """
        with explained(f"{given.path or given.reference}: what lies beside its networks cannot be read"):
            return cls._read(given, trust)

    @classmethod
    def _read(cls, given: Handoff, trust: Sequence[str]) -> Space:
        (name,) = given.towers
        others, weights = _beside(given, name)
        needed = [f"projections.{side}.weight" for side in (name, *others)] + ["logit_scale"]
        if len(others) != 1 or not all(part in weights for part in needed):
            told = given.path or given.reference
            cure = "give one of objective=clip or siglip, or transformers' CLIP or SigLIP, with tower=image"
            raise HandoffError(f"{told} holds no second network in the same space: {cure}")
        fresh = given.card["origin"].get("objective") == "random"
        asked: dict[str, Any] = {"seed": given.card["origin"]["seed"]} if fresh else {}
        kind = None if given.path else SIDES[others[0]][0]
        second: Any = handoff.read(given.reference, modality=kind, tower=others[0], trust=trust, **asked)
        widths = {name: given.backbone.dim, others[0]: second.backbone.dim}
        _check_shapes(given.path or given.reference, weights, widths)
        own, other = (_projection(weights, side, fresh) for side in widths)
        scale, shift = (float(weights.get(part, torch.zeros(1))) for part in ("logit_scale", "logit_bias"))
        limit: Any = longest_text(second.preprocess, second.backbone)
        space = cls(own, second.tower, other, limit, math.exp(scale), shift)
        space._collate()  # a limit that leaves no room for text is refused here
        return space

    def _collate(self) -> TokeniseTexts:
        return TokeniseTexts(preprocess=self.other.preprocess, max_tokens=self.other_tokens)

    def identify(self, texts: Sequence[str]) -> list[int]:
        """Number texts of the other side: those by one number that its network reads alike."""
        collate, starts = self._collate(), range(0, len(texts), BATCH)
        parts = (collate(RawTexts.of(texts[start : start + BATCH])) for start in starts)
        return [number for part in parts for number in collate.identify(part)]

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Bring texts of the other side into the space. [B, D], of unit length"""
        collate = self._collate()
        told = f"captions have more than the hand-off's max_tokens={self.other_tokens} tokens"
        tell_cut(int(collate.cut(RawTexts.of(texts)).sum()), len(texts), told)
        backbone, parts = self.other.backbone.eval(), []
        for start in range(0, len(texts), BATCH):
            inputs = collate(RawTexts.of(texts[start : start + BATCH]))["inputs"]
            parts.append(F.normalize(self.other_projection(backbone(**inputs).pooled), dim=-1))
        return torch.cat(parts)

    def classes(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """Make a vector of each class: the mean of its texts' vectors, of unit length before and after. [B, D]"""
        vectors = self.texts([text for own in texts for text in own]).split([len(own) for own in texts])
        return F.normalize(torch.stack([own.mean(0) for own in vectors]), dim=-1)


def projections(given: Handoff) -> dict[str, nn.Linear]:
    """Read what brings each network's pooled vectors into the space; nothing where there is no such space.

    Of networks that were drawn anew they are drawn, too, from the same seed.
    """
    weights = _weights(given, given.towers)
    if not all(f"projections.{side}.weight" in weights for side in given.towers):
        return {}
    _check_shapes(
        given.path or given.reference, weights, {side: given.towers[side].backbone.dim for side in given.towers}
    )
    origin = given.card["origin"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(origin.get("seed") or 0)
        return {side: _projection(weights, side, origin.get("objective") == "random") for side in given.towers}


def _beside(given: Handoff, name: str) -> tuple[list[str], Mapping[str, Tensor]]:
    """Name the other towers of a hand-off, and read the weights that are no tower's."""
    weights = _weights(given, [name])
    sides = given.card["towers"] if given.path else SIDES if weights else []
    return [other for other in sides if other != name], weights


def _weights(given: Handoff, names: Iterable[str]) -> Mapping[str, Tensor]:
    """Read the weights that are no tower's, of a directory or of transformers' CLIP or SigLIP."""
    if given.path:
        return load_file(Path(given.path) / HEADS) if HEADS in given.card["sha256"] else {}
    scheme, _, library = given.reference.removeprefix("random:").partition(":")
    return heads_of(library) if scheme == "hf" and set(names) <= set(SIDES) and holds_pair(library) else {}


def _check_shapes(place: str, weights: Mapping[str, Tensor], widths: Mapping[str, int]) -> None:
    """Refuse projections that do not fit the networks or each other, and scales that are no numbers."""
    shapes = {side: tuple(weights[f"projections.{side}.weight"].shape) for side in widths}
    fits = all(len(shape) == 2 and shape[1] == widths[side] for side, shape in shapes.items())
    numbers = [weights[part] for part in ("logit_scale", "logit_bias") if part in weights]
    numbers += [weights[part].float().exp() for part in ("logit_scale",) if part in weights]
    if not fits or len({shape[0] for shape in shapes.values()}) != 1:
        told = ", ".join(f"{side} {shape} for a network of width {widths[side]}" for side, shape in shapes.items())
        raise HandoffError(f"{place}/{HEADS} has projections that do not fit ({told}): write the hand-off again")
    if not all(part.numel() == 1 and bool(part.isfinite()) for part in numbers):
        raise HandoffError(f"{place}/{HEADS} has a scale or shift that is no number: write the hand-off again")
    odd = [name for name, part in weights.items() if not (part.is_floating_point() and bool(part.isfinite().all()))]
    if odd:
        raise HandoffError(f"{place}/{HEADS} has values in {min(odd)} that are no numbers: write the hand-off again")


def _projection(weights: Mapping[str, Tensor], side: str, fresh: bool) -> nn.Linear:
    weight, bias = (weights.get(f"projections.{side}.{part}") for part in ("weight", "bias"))
    assert weight is not None
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    if fresh:
        nn.init.normal_(layer.weight, std=weight.shape[1] ** -0.5)
    else:
        layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return layer.requires_grad_(False)
