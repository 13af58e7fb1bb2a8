"""The vectors of a frozen backbone, computed once and read many times."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from finetuning.inputs.base import EncodedSplit
from pretraining.engine.batch import Batch


class CachedVectors(EncodedSplit):
    """What the head reads of each row of another encoded split, `source`."""

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

    def all_targets(self) -> np.ndarray:
        """List every target, in the order of the vectors. [N, ...]"""
        return np.concatenate(self.targets)
