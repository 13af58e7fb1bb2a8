"""Reading a hand-off strictly: nothing missing, altered, pickled, unknown or foreign gets through."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import torch

from pretraining.backbones.base import Backbone
from pretraining.cache import sha256
from pretraining.errors import HandoffError, RunError, reason_of
from pretraining.extensions import conf_folders
from pretraining.handoff.hub import pulled
from pretraining.handoff.write import VERSION, described_part, described_tower
from pretraining.modality import Modality, Preprocess, Tower, named
from pretraining.runs.renamed import current
from pretraining.settings import check

PICKLED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy"}
EACH = "*"
PART = {"_target_": str, "kwargs": dict}
CARD = {  # what must be in handoff.json, and of which type
    "towers": {EACH: {"modality": str, "directory": str, "backbone": PART, "preprocess": PART}},
    "origin": dict,
    "sha256": {EACH: str},
}


@dataclass
class Handoff:
    """What finetuning gets: the towers, the card (handoff.json) and where they came from."""

    towers: dict[str, Tower]
    card: dict[str, Any]
    path: str  # resolved; "" where there is no directory
    digest: str  # sha256 of handoff.json; "" where there is no directory
    reference: str = ""  # what it was read by
    packages: tuple[str, ...] = ("pretraining.",)  # whose classes it may ask for

    @property
    def objective(self) -> type | None:
        """The class that it was pretrained by; None where it does not say. One of other packages is an error."""
        described = self.card.get("recipe", {}).get("objective")
        if described is None:
            return None
        found = class_in(self.packages, described["_target_"])
        if found is None:
            raise refused(described["_target_"], "objective")
        return found

    @property
    def directory(self) -> Path | None:
        """The folder with the only tower's weights, which its home library reads; None where they were drawn."""
        if not self.path or self.reference.startswith("random:"):
            return None
        (name,) = self.towers
        return Path(self.path, self.card["towers"][name]["directory"])

    @property
    def tower(self) -> Tower:
        """The only tower; several are an error."""
        if len(self.towers) != 1:
            raise HandoffError(f"{self.path} holds {', '.join(self.towers)}: choose one with tower=")
        return next(iter(self.towers.values()))

    @property
    def backbone(self) -> Backbone:
        """The only tower's network."""
        return self.tower.backbone

    @property
    def preprocess(self) -> Any:
        """The only tower's preprocessing."""
        return self.tower.preprocess


def read(
    reference: str,
    *,
    modality: Modality | None = None,
    tower: str | None = None,
    seed: int = 0,
    trust: Sequence[str] = (),
) -> Handoff:
    """Read a hand-off; raise `HandoffError` for anything missing, altered, pickled, unknown or foreign.

    `reference` is a directory, `random:REFERENCE` (that architecture with weights drawn from `seed`), `hf:ORG/NAME` (a
    hand-off on the Hub), or `SCHEME:NAME` for a checkpoint of a home library of the `modality` (hf:, torchvision:).
    `tower`: the one wanted of several.
    `trust` names packages beside ours whose classes it may ask for.
    """
    packages = trusted_packages(modality, trust)
    if reference.startswith("random:"):
        known = read(reference.removeprefix("random:"), modality=modality, tower=tower, trust=trust)
        return _randomised(known, packages, seed, reference)
    scheme, colon, name = reference.partition(":")
    place: Path | None = Path(reference)
    if colon and not Path(reference).exists():
        place = pulled(name) if scheme == "hf" and not Path(name).exists() else None
    if place is None:
        return _from_library(scheme, name, modality, tower)
    directory, card = verified(place)
    towers = {}
    for key, described in _wanted(card, tower, directory).items():
        place = directory / described["directory"]
        with explained(f"{directory}/handoff.json describes a {key} tower that cannot be built"):
            backbone = _built(described["backbone"], packages)
        with explained(f"{place}: the weights do not fit the backbone that handoff.json describes"):
            backbone.load(place)
        with explained(f"{place}: the preprocessing that handoff.json describes cannot be read"):
            preprocess = _loaded(described["preprocess"], place, packages)
            preprocess.trained_with = _collate_of(card, key)
        towers[key] = Tower(backbone, preprocess)
    return Handoff(towers, card, str(directory), sha256(directory / "handoff.json"), reference, packages)


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn whatever building from a description meets into one line: one that was damaged may hold anything."""
    try:
        yield
    except HandoffError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, RunError) else f"{type(error).__name__}: "
        told = f"{what} ({kind}{reason_of(error)})"
        raise HandoffError(f"{told}: copy the hand-off again from its origin") from error


def verified(path: Path) -> tuple[Path, dict[str, Any]]:
    """Resolve links once, and check version, files and checksums before anything is built."""
    directory = path.resolve()
    if not (directory / "handoff.json").is_file():
        hint = ""
        if (directory / "handoff").exists():
            hint = " (it has checkpoints, not a hand-off: name its handoff/last)"
        elif (directory / "model" / "last").exists():
            hint = " (it is a finetuned run: name its model/last)"
        known = "pretraining (run_dir/handoff/last), hf:NAME_OR_DIR, torchvision:NAME, timm:NAME or random:DIR"
        raise HandoffError(f"handoff={path}: no handoff.json there{hint}. Give a directory written by {known}")
    try:
        card = json.loads((directory / "handoff.json").read_text("utf-8"))
        version, digests = card["version"], card["sha256"]
        if version not in (2, VERSION):
            what = f"{directory} has format version {version}, this release reads 2 and {VERSION}"
            raise HandoffError(f"{what}: use the release that wrote it")
        card = _upgraded(card) if version == 2 else card
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        what = f"{directory}/handoff.json is not readable ({type(error).__name__}: {reason_of(error)})"
        raise HandoffError(f"{what}: copy the hand-off again from its origin") from error
    if (odd := _odd_part(card, CARD)) is not None:
        raise HandoffError(f"{directory}/handoff.json has no whole {odd!r}: copy the hand-off again from its origin")
    _refuse_outside(directory, [*digests, *(described["directory"] for described in card["towers"].values())])
    pickled = [file.name for file in directory.rglob("*") if file.suffix.lower() in PICKLED]
    if pickled:
        what = f"{directory} holds {', '.join(sorted(pickled))}, which may be pickled code"
        raise HandoffError(f"{what}: remove it, weights are safetensors")
    for name, digest in digests.items():
        if not (directory / name).is_file():
            raise HandoffError(f"{directory} lacks {name}: copy the whole directory again")
        if sha256(directory / name) != digest:
            what = f"{directory}/{name} was altered (its sha256 differs from handoff.json)"
            raise HandoffError(f"{what}: copy it again from its origin")
    for described in card["towers"].values():
        if str(Path(described["directory"], "model.safetensors")) not in digests:
            raise HandoffError(f"{directory}/handoff.json does not list model.safetensors: write the hand-off again")
    return directory, card


def _collate_of(card: dict[str, Any], tower: str) -> dict[str, Any]:
    """Find the settings of the collate that made a tower's inputs in training."""
    collate = card.get("recipe", {}).get("collate", {})
    settings = dict(collate["sides"].get(tower, {}) if "sides" in collate else collate)
    most = settings.get("max_tokens")
    if most is not None and (type(most) is not int or most < 1):
        raise ValueError(f"its collate has max_tokens={most!r:.40}, which is no number of tokens")
    return settings


def _odd_part(tree: Any, form: Any, place: str = "") -> str | None:
    """Name the first part of a card that is not of the form that it must have; None where all are."""
    if not isinstance(form, dict):
        return None if isinstance(tree, form) else place
    if not isinstance(tree, dict) or (EACH in form and not tree):
        return place
    for name in tree if EACH in form else form:
        odd = _odd_part(tree.get(name), form[EACH if EACH in form else name], f"{place}.{name}".lstrip("."))
        if odd is not None:
            return odd
    return None


def _refuse_outside(directory: Path, places: list[str]) -> None:
    """Refuse a hand-off that would be read from elsewhere: by a path that leaves it, or through a link."""
    leaving = next((place for place in map(PurePath, places) if place.is_absolute() or ".." in place.parts), None)
    if leaving is not None:
        raise HandoffError(f"{directory}/handoff.json names {leaving}, outside of the hand-off: write it again")
    links = [path for path in directory.rglob("*") if path.is_symlink() and directory not in path.resolve().parents]
    if links:
        what = f"{directory} holds {links[0].name}, a link to {links[0].resolve()}"
        raise HandoffError(f"{what}: put the files themselves there (cp -rL)")


def _upgraded(card: dict[str, Any]) -> dict[str, Any]:
    """Bring a card of format version 2, which had one tower and the classes' former places, up to date."""
    tower = {"directory": ".", **{part: card[part] for part in ("modality", "backbone", "preprocess")}}
    fresh = {"towers": {card["modality"]: current(tower)}, "recipe": current(card.get("recipe", {}))}
    return {name: card[name] for name in ("origin", "sha256")} | fresh | {"version": VERSION}


def _wanted(card: dict[str, Any], tower: str | None, directory: Path) -> dict[str, Any]:
    if tower is None:
        return card["towers"]
    if tower not in card["towers"]:
        raise HandoffError(f"{directory} has no tower {tower!r}: choose tower={', '.join(card['towers'])}")
    return {tower: card["towers"][tower]}


def class_in(packages: tuple[str, ...], target: str) -> type | None:
    """Find a class that lies in one of `packages`, and was made there; None for any other."""
    if not target.startswith(packages):
        return None
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        what = f"the hand-off asks for {target!r}, which this release does not have"
        raise HandoffError(f"{what}: use the release that wrote it") from error
    return found if isinstance(found, type) and f"{found.__module__}.".startswith(packages) else None


def trusted_packages(modality: Modality | None, trust: Sequence[str] = ()) -> tuple[str, ...]:
    """List the packages whose classes a hand-off may ask for.

    They are ours, the modality's, whose code runs anyway, those installed to extend ours, and `trust`.
    """
    module = "pretraining" if modality is None else type(modality).__module__
    ours = ("pretraining", module.rpartition(".")[0] or module)
    return tuple(f"{name}." for name in (*ours, *conf_folders(), *trust))


def refused(target: str, kind: str) -> HandoffError:
    """Explain why a class is not built, and how one's own is."""
    what = f"the hand-off asks for {target!r}, which is no {kind} of this package: refused, it may run foreign code"
    return HandoffError(f"{what}. Where it is your own, add trust=[{target.partition('.')[0]}]")


def _class(described: dict[str, Any], kind: type, packages: tuple[str, ...]) -> Any:
    found = class_in(packages, described["_target_"])
    if found is None or not issubclass(found, kind):
        raise refused(described["_target_"], kind.__name__)
    check(described["kwargs"] | {"_target_": described["_target_"]}, kind.__name__.lower())
    return found


def _built(described: dict[str, Any], packages: tuple[str, ...]) -> Backbone:
    kind = _class(described, Backbone, packages)
    try:
        return kind(**described["kwargs"])
    except (TypeError, ValueError) as error:
        raise HandoffError(f"the hand-off describes a {kind.__name__} that cannot be: {error}") from error


def _loaded(described: dict[str, Any], directory: Path, packages: tuple[str, ...]) -> Preprocess:
    return _class(described, Preprocess, packages).load(directory, **described["kwargs"])


def _randomised(known: Handoff, packages: tuple[str, ...], seed: int, reference: str) -> Handoff:
    """Build the same architecture with fresh weights: what the pretrained ones must beat."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = {name: _built(described_part(old.backbone), packages) for name, old in known.towers.items()}
    towers = {name: Tower(backbone, known.towers[name].preprocess) for name, backbone in fresh.items()}
    origin = {"objective": "random", "seed": seed, "steps": 0, "like": known.card["origin"].get("objective")}
    return Handoff(towers, {**known.card, "origin": origin}, known.path, known.digest, reference, packages)


def _from_library(scheme: str, name: str, modality: Modality | None, wanted: str | None) -> Handoff:
    """Read a checkpoint of a home library, as the modality does: a tower of its name."""
    target = None if modality is None else modality.readers.get(scheme)
    if target is None:
        known = [] if modality is None else [f"{each}:NAME" for each in modality.readers]
        cure = f"give a directory written by pretraining{''.join(f', {each}' for each in known)} or random:DIR"
        raise HandoffError(f"handoff={scheme}:{name} is not read for {modality or 'this'}: {cure}")
    try:
        tower: Tower = named(target)(name)
    except Exception as error:  # of the library, in files that may hold anything
        what = f"handoff={scheme}:{name} cannot be read: {reason_of(error)}"
        raise HandoffError(f"{what}. Give a name or directory that the library knows") from error
    kind = tower.backbone.modality.name
    if wanted not in (None, kind):
        raise HandoffError(f"handoff={scheme}:{name} has no tower {wanted!r} for {kind}: set tower={kind}")
    card = {"version": VERSION, "towers": {kind: described_tower(tower, ".")}, "recipe": {}, "sha256": {}}
    return Handoff({kind: tower}, {**card, "origin": {"objective": f"{scheme}:{name}"}}, "", "", f"{scheme}:{name}")
