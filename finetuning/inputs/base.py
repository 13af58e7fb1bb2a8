"""How labelled examples become batches: splits made ready for a backbone, whose rows a loader reads and collates.

Shapes: B rows, N things to predict (one per row, or one per word).
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from finetuning.data.splits import Examples
from pretraining.backbones.base import Backbone
from pretraining.data.unlabelled import Unlabelled
from pretraining.engine.batch import Batch
from pretraining.errors import RunError
from pretraining.modality import Modality
from pretraining.random import Keys


class Features(NamedTuple):
    """What a classical model reads of examples, a row each [N, V], and what that is called."""

    name: str
    of: Callable[[Examples], Any]


class Picked(NamedTuple):
    """Which rows a batch takes: all that a worker needs, since the encoded split itself collates."""

    rows: np.ndarray


@dataclass(eq=False)
class EncodedSplit(ABC):
    """A split made ready. `targets` holds, per row, an array of what the head is to predict there."""

    examples: Examples
    targets: list[np.ndarray]

    def count(self, epoch: int) -> int:
        """Count the rows; every epoch has the same."""
        return len(self.targets)

    @functools.cached_property
    def order(self) -> np.ndarray:
        """The order in which a loader walks the rows: the longest first, so that batches pad little. [rows]"""
        return np.argsort(-self.lengths(), kind="stable")

    def read(self, epoch: int, rows: np.ndarray) -> Picked:
        """Name the rows to collate, for places in `order`."""
        return Picked(self.order[rows])

    def collate(self, picked: Picked, keys: Keys) -> Batch:
        """Stack rows, with the `targets` of all of them one after the other [N, ...] and `targets_per_row` [B]."""
        targets = [self.targets[row] for row in picked.rows]
        return {
            **self.stack(picked.rows),
            "targets": torch.from_numpy(np.concatenate(targets)),
            "targets_per_row": torch.tensor([len(target) for target in targets]),
        }

    @abstractmethod
    def stack(self, rows: np.ndarray) -> Batch:
        """Stack the rows' `inputs`; `target_positions` [N], in all their positions, where the head reads such."""

    def lengths(self) -> np.ndarray:
        """Tell how long each row is in its modality's unit, so that batches may hold like with like. [rows]"""
        return np.zeros(len(self.targets), np.int64)


class CachedVectors(EncodedSplit):
    """What the head reads of each row of another encoded split, `source`: a frozen backbone computes it once."""

    def __init__(self, source: EncodedSplit, vectors: Tensor) -> None:
        super().__init__(source.examples, source.targets)
        self.source = source
        self.flat = vectors  # [N, D]
        self.order = source.order
        self.starts = np.concatenate([[0], np.cumsum([len(target) for target in source.targets])])

    def stack(self, rows: np.ndarray) -> Batch:
        """Take the rows' `vectors`. [N, D]"""
        places = np.concatenate([np.arange(self.starts[row], self.starts[row + 1]) for row in rows])
        return {"vectors": self.flat[torch.from_numpy(places)]}

    def columns(self, chosen: slice) -> CachedVectors:
        """Take a part of each vector."""
        return CachedVectors(self.source, self.flat[:, chosen])

    def lengths(self) -> np.ndarray:
        """Tell how long each row is."""
        return self.source.lengths()

    def all_targets(self) -> np.ndarray:
        """List every target, in the order of the vectors. [N, ...]"""
        return np.concatenate(self.targets)


@dataclass(kw_only=True)
class Inputs(ABC):
    """How a task's examples reach the backbone. The fields of a subclass are its settings."""

    modality: ClassVar[Modality]
    columns: ClassVar[tuple[str, ...]]  # of the examples, beside "label"
    transformers_classes: ClassVar[Mapping[str, str]] = {}  # what a task's class is called for this modality
    passed_through: ClassVar[tuple[str, ...]] = ()  # linear layers of transformers' heads that ours have not

    @abstractmethod
    def encode(self, examples: Examples, targets: list[Any], preprocess: Any, backbone: Backbone) -> EncodedSplit:
        """Make examples ready; `targets` says what is to be predicted of each. What cannot be read is an error here."""

    def on_device(self, inputs: dict[str, Tensor], preprocess: Any) -> dict[str, Tensor]:
        """Finish the backbone's arguments on its device."""
        return inputs

    @abstractmethod
    def read(self, path: Path | Sequence[Any], named: Mapping[str, Any], preprocess: Any) -> Iterator[Unlabelled]:
        """Read unlabelled examples from a file or a directory, one by one, or take a list of them, as scripts have it.

        `named` are the run's data settings, which name the columns of its tables.
        """

    def as_learnt(self, examples: Examples, names: list[str] | None, labels: Mapping[str, Any]) -> Examples:
        """Label other data's examples as the task does, whose `labels` are given; `names` are those data's classes.

        Numbers of classes that have names in both are others in each.
        """
        values = labels.get("values")
        if names is None or values is None or labels["names"] == list(map(str, values)):
            return examples
        known = dict(zip(labels["names"], values, strict=True))
        lost = sorted({names[number] for number in _flat(examples.column("label"))} - known.keys())
        if lost:
            raise unknown_classes(lost, known)
        changed = {number: known.get(name) for number, name in enumerate(names)}
        column = [_changed(label, changed) for label in examples.columns["label"]]
        return examples._replace(columns=examples.columns | {"label": column})

    def classical(self, train: Examples) -> Features | None:
        """Make what a linear model without a network reads of examples, fitted to `train`; None: there is none."""
        return None

    def made_up_rows(self, preprocess: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Make two rows up, one of them shorter: as the backbone's arguments, and as transformers names them."""
        raise RunError(f"transformers has no class that reads {self.modality} as this package does")

    def head_sizes(self, backbone: Backbone) -> dict[str, Any]:
        """Name what transformers' configuration must say of the layers that are `passed_through`."""
        return {}

    def save_for_transformers(self, directory: Path, preprocess: Any, backbone: Backbone) -> None:
        """Write what a pipeline of transformers prepares its inputs with."""
        raise RunError(f"transformers has no class that reads {self.modality} as this package does")


def unknown_classes(lost: Sequence[str], known: Collection[str]) -> RunError:
    """Refuse other data with the classes `lost`, which are not `known` from training."""
    had = ", ".join(list(known)[:8]) + (" ..." if len(known) > 8 else "")
    what = f"got the classes {', '.join(lost)}, which training did not have (it had {had})"
    return RunError(f"{what}: give others, or finetune with these")


def _flat(labels: Iterable[Any]) -> Iterator[int]:
    for label in labels:
        yield from label if isinstance(label, list) else [label]


def _changed(label: Any, numbers: Mapping[int, Any]) -> Any:
    return [numbers[part] for part in label] if isinstance(label, list) else numbers[label]
