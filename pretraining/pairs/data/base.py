"""Pairs in splits, and how a run reads them.

Shapes: B pairs, C captions that an example of the first side has at most, K false captions that one has at most.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from pretraining.data.base import Data
from pretraining.data.source import Source
from pretraining.pairs.modality import PAIRS
from pretraining.text.data.base import capped


class PairExamples(NamedTuple):
    """Raw pairs. Which captions are equal the network decides that reads them; such belong to all that name one."""

    sides: dict[str, Any]  # of each, the raw examples of its wing; of the second one the caption in each pair
    example: np.ndarray  # int64 [B]: the number of the pair's other side, which those with its other captions share
    captions: np.ndarray  # of str [B, C]: all captions of the pair's other side; "" where there are fewer
    labels: np.ndarray | None = None  # int64 [B]: the class of the pair's other side; -1 where it has none
    false: np.ndarray | None = None  # of str [B, K]: captions that are wrong of it, made to be hard; "" for fewer


class ClassTexts(NamedTuple):
    """Classes in words, which a source of pairs may have as its `class_texts`."""

    names: tuple[str, ...]
    examples: Any  # raw ones of the second side, as many for each class, one class after the other


@dataclass(kw_only=True, eq=False)
class PairData(Data):
    """Pairs in the splits train, validation and test."""

    modality = PAIRS
    sides: ClassVar[tuple[str, str] | None] = None  # what it has of what is configured; None: all of that
    eval_batch_size: int = 256
    batch_size: int = 256

    @abstractmethod
    def open(self, split: str) -> Source:
        """Open a split as rows."""

    @abstractmethod
    def texts(self, split: str) -> Iterator[str]:
        """Read the captions of a split, or enough of them to learn their words."""

    def sample(self, split: str, max_bytes: int) -> Iterator[str]:
        """Read captions until they make `max_bytes`: what a tokenizer learns from."""
        return capped(self.texts(split), max_bytes)

    def source(self, split: str) -> Source:
        """Open a split as rows; a training split that does not fill one batch is an error."""
        opened = self.open(split)
        self.refuse_too_few(split, opened.count(0), "pairs")
        return opened


def naming(sources: Sequence[Path]) -> Callable[[Path], str]:
    """Make what names a file by its path as seen from where the tables or shards of a split lie, wherever that is: by
    one name, whatever table names it and how, and no two by the same.
    """
    root = os.path.commonpath([source.parent.absolute() for source in sources])
    return lambda file: Path(os.path.relpath(file, root)).as_posix()


def table_of(captions: Sequence[Sequence[str]], width: int) -> np.ndarray:
    """List the captions of each example. Of str [B, width], "" where there are fewer."""
    table = np.full((len(captions), width), "", object)
    for row, texts in enumerate(captions):
        table[row, : len(texts)] = texts
    return table
