"""Splits made ready for a backbone: rows that a loader reads by number and collates into batches.

Shapes: B examples, T tokens, N things to predict (one per example, or one per word), D width.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from finetuning.data.splits import Examples
from pretraining.random import Keys
from pretraining.step import Batch


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


class Tokens(Encoded):
    """Token rows, padded to the longest of their batch. `units_at`: which tokens of a row the head reads (None: the pooled vector)."""

    def __init__(
        self,
        examples: Examples,
        targets: list[np.ndarray],
        *,
        ids: list[np.ndarray],
        pad_id: int,
        types: list[np.ndarray] | None = None,
        units_at: list[np.ndarray] | None = None,
    ) -> None:
        super().__init__(examples, targets)
        self.ids, self.types, self.pad_id, self.units_at = ids, types, pad_id, units_at

    def inputs(self, rows: np.ndarray) -> dict[str, Any]:
        """Pad `input_ids` and `documents` (1 where a token is, 0 where none) to [B, T]; places of units count into the flat [B * T]."""
        ids = [self.ids[row] for row in rows]
        width = -(-max(map(len, ids)) // 8) * 8
        documents = padded([np.ones_like(row) for row in ids], width, 0)
        batch: dict[str, Any] = {
            "input_ids": padded(ids, width, self.pad_id),
            "documents": documents,
            "tokens": int(documents.sum()),
        }
        if self.types is not None:
            batch["token_type_ids"] = padded([self.types[row] for row in rows], width, 0)
        if self.units_at is not None:
            flat = [number * width + self.units_at[row] for number, row in enumerate(rows)]
            batch["units_at"] = torch.from_numpy(np.concatenate(flat))
        return batch

    def lengths(self) -> np.ndarray:
        """Count each row's tokens."""
        return np.array([len(row) for row in self.ids])


class Images(Encoded):
    """Images as they were read, uint8 [C, H, W]."""

    def __init__(self, examples: Examples, targets: list[np.ndarray]) -> None:
        super().__init__(examples, targets)
        self.images = examples.columns["image"]

    def inputs(self, rows: np.ndarray) -> dict[str, Any]:
        """Stack to [B, C, H, W]."""
        return {"images": torch.from_numpy(np.stack([self.images[row] for row in self.examples.rows[rows]]))}


class Cached(Encoded):
    """Vectors that a frozen backbone computed, per row of another encoded split."""

    def __init__(self, source: Encoded, vectors: Tensor) -> None:
        super().__init__(source.examples, source.targets)
        self.source = source
        self.flat = vectors  # [N, D]
        self.order = source.order
        self.starts = np.concatenate([[0], np.cumsum([len(target) for target in source.targets])])

    def inputs(self, rows: np.ndarray) -> dict[str, Any]:
        """Take the rows' vectors. [N, D]"""
        places = np.concatenate([np.arange(self.starts[row], self.starts[row + 1]) for row in rows])
        return {"vectors": self.flat[torch.from_numpy(places)]}

    def all_targets(self) -> np.ndarray:
        """Give every target, in the order of the vectors. [N, ...]"""
        return np.concatenate(self.targets)


def padded(rows: list[np.ndarray], width: int, value: int) -> Tensor:
    """Stack rows of different lengths, filled up with `value` on the right. int64 [B, width]"""
    stacked = np.full((len(rows), width), value, np.int64)
    for number, row in enumerate(rows):
        stacked[number, : len(row)] = row
    return torch.from_numpy(stacked)
