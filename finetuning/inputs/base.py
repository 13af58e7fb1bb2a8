"""Splits made ready for a backbone: rows that a loader reads by number and collates into batches.

Shapes: B examples, T tokens, N things to predict (one per example, or one per word), D width.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch

from finetuning.data.splits import Examples
from pretraining.engine.batch import Batch
from pretraining.random import Keys


class Picked(NamedTuple):
    """Which rows a batch takes: all that a worker needs, since the encoded split itself collates."""

    rows: np.ndarray


class Encoded(ABC):
    """An encoded split. `targets` holds, per row, an array of what the head is to predict there."""

    def __init__(self, examples: Examples, targets: list[np.ndarray]) -> None:
        self.examples, self.targets = examples, targets

    def count(self, epoch: int) -> int:
        """Count the rows; every epoch has the same."""
        return len(self.targets)

    @functools.cached_property
    def order(self) -> np.ndarray:
        """Give the order in which a loader walks the rows: the longest first, so that batches pad little. [rows]"""
        return np.argsort(-self.lengths(), kind="stable")

    def read(self, epoch: int, rows: np.ndarray) -> Picked:
        """Name the rows to collate, for places in `order`."""
        return Picked(self.order[rows])

    def collate(self, picked: Picked, keys: Keys) -> Batch:
        """Stack rows: inputs, `targets` of all rows one after the other [N, ...], and `units` [B]: how many each row has."""
        targets = [self.targets[row] for row in picked.rows]
        return {
            **self.inputs(picked.rows),
            "targets": torch.from_numpy(np.concatenate(targets)),
            "units": torch.tensor([len(target) for target in targets]),
        }

    @abstractmethod
    def inputs(self, rows: np.ndarray) -> dict[str, Any]:
        """Stack the rows' inputs."""

    def lengths(self) -> np.ndarray:
        """Tell how expensive each row is, so that evaluation may batch like with like. [rows]"""
        return np.zeros(len(self.targets), np.int64)
