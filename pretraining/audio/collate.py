"""Batches of recordings, padded to the longest.

Shapes: B rows, N samples of the longest, T frames of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pretraining.audio.data.base import AudioExamples
from pretraining.audio.geometry import check_geometry, frames_of
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.engine.batch import Batch
from pretraining.random import Keys

LEAST_FRAMES = 3  # of a row: one to hide, one to tell it from, one to see


@dataclass(kw_only=True, eq=False)
class Waves:
    """Prepares rows and stacks them."""

    preprocess: AudioPreprocess

    def __call__(self, examples: AudioExamples, keys: Keys) -> Batch:
        """Turn raw rows into tensors."""
        examples = examples.cropped(keys)
        rows = [self.preprocess(samples) for samples in examples.each()]
        return {"inputs": padded_waves(rows), "units": float(examples.lengths.sum()) / self.preprocess.sample_rate}


@dataclass(kw_only=True, eq=False)
class StackWaves(Waves):
    """Counts frames, too; `kernels` and `strides` are those of the backbone's stem."""

    kernels: Sequence[int]
    strides: Sequence[int]

    def __post_init__(self) -> None:
        if self.kernels is None or self.strides is None:
            raise ValueError("objectives on audio need a speech encoder: choose backbone=wav2vec2_tiny, for example")
        check_geometry(self.kernels, self.strides)

    def check(self, source: Any) -> None:
        """Refuse rows that are too short for an objective."""
        shortest = int((source.lengths if source.kept is None else source.kept).min())
        if frames_of(shortest, self.kernels, self.strides) < LEAST_FRAMES:
            what = f"the shortest row has {shortest / source.rate:.3f} s, fewer than {LEAST_FRAMES} frames"
            raise ValueError(f"{what} of this backbone: raise data.min_seconds")

    def __call__(self, examples: AudioExamples, keys: Keys) -> Batch:
        """Turn raw rows into tensors, with the `frames` of each. [B]"""
        examples = examples.cropped(keys)
        frames = frames_of(examples.lengths, self.kernels, self.strides)
        return super().__call__(examples, keys) | {"frames": torch.from_numpy(frames)}


def padded_waves(rows: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """Stack waves, with zeros behind them: float32 [B, N], and their lengths unless all are equal."""
    lengths = np.array([len(row) for row in rows], np.int64)
    waves = np.zeros((len(rows), lengths.max()), np.float32)
    for place, row in enumerate(rows):
        waves[place, : len(row)] = row
    inputs = {"waves": torch.from_numpy(waves)}
    return inputs if (lengths == lengths[0]).all() else inputs | {"lengths": torch.from_numpy(lengths)}
