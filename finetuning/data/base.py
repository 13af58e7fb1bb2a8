"""Labelled data of any modality: its splits and how a run reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from finetuning.data.splits import Examples, Split, Splits
from finetuning.inputs.base import EncodedSplit
from pretraining.data.batches import Batches, EqualBatches
from pretraining.errors import RunError
from pretraining.modality import Modality
from pretraining.settings import paths_as_texts


@dataclass(kw_only=True)
class LabelledData(ABC):
    """Labelled examples in three splits, and how many go into a batch. The fields of a subclass are its settings."""

    modality: ClassVar[Modality]
    split: Split = field(default_factory=Split)
    batch_size: int = 16
    eval_batch_size: int
    workers: int = 0
    varying_steps: ClassVar[bool] = False  # whether steps have as many rows as their lengths allow, not `batch_size`
    missing: str | None = None  # rows without a text or label are an error; drop: left out

    def __post_init__(self) -> None:
        vars(self).update({name: paths_as_texts(value) for name, value in vars(self).items()})

    def batches(self, split: EncodedSplit) -> Batches:
        """Cut a training split that is ready for the backbone into steps."""
        return EqualBatches(split, self.batch_size)

    @abstractmethod
    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Read the splits that are there, and the names of integer classes where the data knows them."""

    def refuse_names(self) -> None:
        """Refuse names of splits where the data has its own."""
        named = {split: name for split, name in self.split.named.items() if name is not None}
        if named:
            split, name = next(iter(named.items()))
            raise RunError(f"got data.split.{split}={name}, but this data comes with its three splits: give null")

    def refuse_missing(self) -> None:
        """Refuse to drop rows, where a row without annotation means that there is nothing in the image."""
        if self.missing is not None:
            raise RunError(f"got data.missing={self.missing}, but images without annotation are examples: give null")

    def splits(self, *, learns: bool = True) -> Splits:
        """Read the splits; bad input is an error, before any model is built.

        Those that are missing are carved where something `learns`; else what there is stays whole, see `Split`.
        """
        return (self.split.complete if learns else self.split.as_given)(*self.found())
