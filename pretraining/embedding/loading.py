"""A hand-off, or a checkpoint of a home library, read to embed with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pretraining import handoff
from pretraining.backbones.transformers_loading import modalities_of
from pretraining.data.unlabelled import Reading
from pretraining.embedding.model import Embedder, JointEmbedder
from pretraining.embedding.settings import Source
from pretraining.engine.precision import Precision
from pretraining.errors import HandoffError, RunError, reason_of
from pretraining.handoff import Handoff
from pretraining.modality import Tower, named, wings


def load(
    reference: str | Path,
    tower: str | None = None,
    trust: Sequence[str] = (),
    *,
    side: str | None = None,
    seed: int = 0,
    precision: Precision = "fp32",
    device: str | None = None,
    **inputs: Any,
) -> Any:
    """Read a pretrained network, to embed with: an `Embedder`, or a `JointEmbedder` of networks that share a space.

    `reference` is a hand-off's directory, hf:NAME, torchvision:NAME, or random:REFERENCE (weights drawn from `seed`).
    Of several networks `tower` takes one with vectors of its own, `side` one with those in the space that they share.
    `trust` names packages whose classes a hand-off may ask for. `precision`: fp32, bf16, or auto, which is bf16 where
    this machine multiplies faster in it. `device`: cpu, or cuda, which is taken where there is one. `inputs` are
    settings of how examples are read, such as max_tokens of texts.
    """
    source = Source(str(reference), tower, side, trust, seed, precision, device)
    given = _read(source)
    maps = _shared(given) if len(given.towers) > 1 else {}
    if side is not None and side not in maps:
        what = f"got side={side} for {reference}"
        raise HandoffError(
            f"{what}: choose {' or '.join(maps)}" if maps else f"{what}, which has one network: leave it out"
        )
    chosen = {name: part for name, part in given.towers.items() if side in (None, name)}
    if len(chosen) > 1 and inputs:
        raise RunError(f"got {', '.join(inputs)} for several networks: take one with side={' or '.join(chosen)}")
    made = {
        name: Embedder(part, _reading(part, inputs), source, given.card, maps.get(name))
        for name, part in chosen.items()
    }
    return JointEmbedder(made) if len(made) > 1 else next(iter(made.values()))


def _read(source: Source) -> Handoff:
    """Read the networks of a hand-off, or of a home library's checkpoint, of whatever modality."""
    reference, tower = source.reference, source.tower
    asked: dict[str, Any] = {"seed": source.seed, "trust": source.trust}
    plain = reference.removeprefix("random:")
    scheme, colon, name = plain.partition(":")
    if not colon or Path(plain).exists():
        return handoff.read(reference, tower=tower, **asked)
    kinds = [kind for kind in wings() if scheme in kind.readers]
    if not kinds:
        known = ", ".join(sorted({f"{each}:NAME" for kind in wings() for each in kind.readers}))
        raise HandoffError(f"handoff={reference}: {scheme}: is not read; give a directory, {known} or random:REFERENCE")
    if len(kinds) > 1:
        try:
            told = modalities_of(name)
        except Exception as error:  # of the library, in files that may hold anything
            what = f"handoff={reference} cannot be read: {reason_of(error)}"
            raise HandoffError(f"{what}. Give a name or directory that the library knows") from error
        kinds = [kind for kind in kinds if kind.name in told] or kinds[:1]
    wanted = [kind for kind in kinds if tower in (None, kind.name)]
    if not wanted:
        raise HandoffError(f"handoff={reference} has no tower {tower!r}: choose {' or '.join(map(str, kinds))}")
    found = [handoff.read(reference, modality=kind, **asked) for kind in wanted]
    return dataclasses.replace(found[0], towers={name: part for each in found for name, part in each.towers.items()})


def _shared(given: Handoff) -> Mapping[str, nn.Linear]:
    """Find the maps into the space that several networks share; without one they are no whole."""
    for kind in wings():
        maps = {} if kind.shares is None else named(kind.shares)(given)
        if maps:
            return maps
    told = given.path or given.reference
    raise HandoffError(f"{told} holds {', '.join(given.towers)}, which share no space: choose one with tower=")


def _reading(tower: Tower, settings: Mapping[str, Any]) -> Reading:
    """Make what reads a network's examples; a setting that it has not is an error."""
    kind = tower.backbone.modality
    if kind.reads is None:
        what = f"{type(kind).__name__} does not say how {kind} is read without labels"
        raise HandoffError(f"{what}: name a `Reading` in its `reads`")
    made: Any = named(kind.reads)
    known = [field.name for field in dataclasses.fields(made)]
    odd = next((name for name in settings if name not in known), None)
    if odd is not None:
        raise RunError(f"got inputs.{odd}, but {kind} is read with {', '.join(f'inputs.{name}' for name in known)}")
    return made(**settings)
