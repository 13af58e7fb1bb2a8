"""What the core asks of a modality, and all that it asks.

Text, images and each further kind of data answer in a wing of their own.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from pretraining.backbones.base import Backbone
from pretraining.cache import key
from pretraining.data.source import Source
from pretraining.errors import HandoffError


class Preprocess(ABC):
    """What turns raw examples into what a backbone reads (tokens, pixels of a size and scale), also in the hand-off."""

    modality: ClassVar[Modality]
    recipe: Mapping[str, Any] | None = None  # the configuration of what learnt it from data; None: its own says all
    trained_with: Mapping[str, Any] = MappingProxyType({})  # of a hand-off: the settings of the collate in training

    @property
    @abstractmethod
    def kwargs(self) -> dict[str, Any]:
        """Plain arguments of `load`."""

    @property
    def digest(self) -> str:
        """Identify what it makes of an example."""
        return key({"class": type(self).__qualname__, **self.kwargs})

    def fit(self, data: Any) -> Any:
        """Learn from the training data what there is to learn."""
        return self

    def describe(self) -> str:
        """Say in a few words what a backbone reads."""
        return type(self).__name__

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write what `kwargs` does not say."""

    @classmethod
    @abstractmethod
    def load(cls, directory: Path | str, **kwargs: Any) -> Any:
        """Read what `save` wrote."""


class Tower(NamedTuple):
    """One network of a hand-off, with the preprocessing of what it reads."""

    backbone: Backbone
    preprocess: Any  # a `Preprocess`


class Function(NamedTuple):
    """A network as a function of plain tensors, for runtimes that know nothing else."""

    network: nn.Module  # its arguments are those of `example`; returns `Features`
    example: Callable[[int, int], dict[str, Tensor]]  # made-up inputs: so many rows, of such a length
    lengths: Sequence[int]  # at which it is compared; where there is one, it takes no other
    axes: Mapping[str, Sequence[str]]  # what varies, by input: the names of its first axes
    save: Callable[[Path], None]  # writes what makes inputs of raw examples, as transformers reads it


class Row(NamedTuple):
    """An average training row: what budgets, throughput and reports count of it, and what it costs."""

    units: float  # of the modality: tokens, images, seconds of audio
    flops: float | None = None  # of the forward pass of everything that is computed from it; None: to be measured


def named(target: str) -> Any:
    """Find what "module.name" names; so a wing names what lies above it."""
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def wings() -> list[Modality]:
    """Find the modalities of this package: what its folders with a module `modality` make of their class."""
    import pretraining

    places = [Path(place) for place in pretraining.__path__]
    names = sorted({file.parent.name for place in places for file in place.glob("*/modality.py")})
    modules = [importlib.import_module(f"pretraining.{name}.modality") for name in names]
    return [kind for module in modules for kind in vars(module).values() if isinstance(kind, Modality)]


COMPUTES = ("loss", "represent", "coupled_loss", "on_device", "backward_step")  # what a formula is of


def formula_of(objective: Any) -> Callable[[Any], float] | None:
    """Find the objective's formula `forward_flops(row)`; None if its class computes other things than who wrote it."""

    def place(name: str) -> int:
        """Count the classes between the objective's own and the one that defines `name`."""
        kinds = type(objective).__mro__
        return next((number for number, kind in enumerate(kinds) if name in vars(kind)), len(kinds))

    formula: Callable[[Any], float] | None = getattr(objective, "forward_flops", None)
    return formula if place("forward_flops") <= min(map(place, COMPUTES)) else None


class Modality(ABC):
    """A kind of data. A wing derives one class from this and makes one object of it, which its data, preprocessing,
    backbones, objectives and finetuning inputs name as their `modality`.
    """

    name: ClassVar[str]
    unit: ClassVar[str]  # what is counted of a row, in the plural
    probes: ClassVar[str | None] = None  # the option of probe= that tells how it goes on untouched validation examples
    # Readers of home libraries' checkpoints: {scheme: "module.function"} for `handoff=scheme:NAME`, of NAME to a Tower.
    readers: ClassVar[Mapping[str, str]] = {}
    # Forms of other libraries: {name: "module.function"} for `to=name` of pretraining.export. A function fills an empty
    # directory, function(handoff, directory); keyword-only arguments are options of its form, as words.
    writers: ClassVar[Mapping[str, str]] = {}
    joins: ClassVar[str | None] = (
        None  # "module.function" that makes one Tower of those in `towers`; None: there is one
    )
    # "module.class", a `pretraining.data.unlabelled.Reading`: how examples without labels are read to be embedded.
    reads: ClassVar[str | None] = None
    # "module.function" that finds, of a hand-off of several networks, the maps into the space that their vectors share.
    shares: ClassVar[str | None] = None

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def source(self, data: Any, split: str, preprocess: Any, collate: Any, *, seed: int) -> Source:
        """Open a split as rows. `seed` decides the training rows; those of other splits are the same for each run."""

    @abstractmethod
    def backbone_arguments(self, preprocess: Any) -> dict[str, Any]:
        """Name what a backbone must be told about its inputs."""

    def average_row(self, objective: Any, source: Source, collate: Any, preprocess: Any) -> Row:
        """Describe an average training row."""
        return Row(units=1.0)

    def flops_as_laid_out(self, objective: Any, batch: Mapping[str, Any], row: Row) -> float:
        """Apply the objective's formula to one of the rows of a batch, padding included: by default an average row."""
        assert row.flops is not None
        return row.flops

    def facts(self, train: Source, validation: Source, collate: Any, preprocess: Any) -> dict[str, float]:
        """Measure what results are read against, such as the loss of a model that knows frequencies alone."""
        return {}

    def clean_inputs(self, batch: Mapping[str, Any], preprocess: Any) -> dict[str, Tensor]:
        """Make the backbone's arguments for a collated batch, without augmentation."""
        return batch["inputs"]

    @abstractmethod
    def show(self, collate: Any, batch: Mapping[str, Any], count: int, path: Path) -> list[str]:
        """Describe up to `count` examples of a finished batch; a picture or sound goes to `path` with its suffix."""

    def function(self, tower: Tower) -> Function:
        """Make the plain function that a network is, without what makes it fast here."""
        raise HandoffError(f"a network of {self} has no form that other runtimes know")

    def towers(self, backbone: Backbone, preprocess: Any) -> dict[str, Tower]:
        """Name the networks that a hand-off holds."""
        return {self.name: Tower(backbone, preprocess)}

    def whole(self, towers: Mapping[str, Tower]) -> Tower:
        """Make one of what `towers` named: the network that an objective trains, and the preprocessing of its rows."""
        if self.joins is not None:
            return named(self.joins)(towers)
        if len(towers) != 1:
            raise HandoffError(f"the hand-off holds {', '.join(towers)}, but {self} has one network: give another")
        return next(iter(towers.values()))
