"""Units: numbers for short stretches of sound, which masked prediction takes for words.

Shapes: N samples, T spectral frames, D features, E width of a code, K codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pretraining.audio.spectrum import HOP, WINDOW, log_mel, mfcc

Kind = Literal["mfcc", "log_mel"]
FILE = "units.safetensors"
MEL_BINS, STACKED = 40, 4  # of BEST-RQ's features: log-mel energies of so many frames, side by side


def features(wave: np.ndarray, rate: int, kind: Kind) -> np.ndarray:
    """Compute what units are told by: MFCC with differences, or stacked log-mel energies. float64 [T, D]"""
    if kind == "mfcc":
        return mfcc(wave, rate)
    energies = log_mel(wave, rate, MEL_BINS)
    if not len(energies):
        return np.zeros((0, MEL_BINS * STACKED))
    ahead = np.minimum(np.arange(len(energies))[:, None] + np.arange(STACKED), len(energies) - 1)
    return energies[ahead].reshape(len(energies), -1)


@dataclass(frozen=True)
class Codebook:
    """The nearest of K `codes` [K, E] to a frame's features: standardised, projected and scaled to length 1 if asked.

    `projection` [D, E] is that of BEST-RQ; without one E is D.
    """

    kind: Kind
    mean: np.ndarray  # [D]
    deviation: np.ndarray  # [D]
    codes: np.ndarray
    projection: np.ndarray | None = None

    def units(self, wave: np.ndarray, rate: int) -> np.ndarray:
        """Name the unit of each spectral frame of a wave [N]. int64 [T]"""
        found = (features(wave, rate, self.kind) - self.mean) / self.deviation
        if self.projection is not None:
            found = unit_length(found @ self.projection)
        # |x - c|^2 without |x|^2, which no comparison needs.
        return (np.square(self.codes).sum(1) - 2.0 * found @ self.codes.T).argmin(1)

    def save(self, directory: Path) -> None:
        """Write it as safetensors."""
        from safetensors.numpy import save_file

        arrays = {"mean": self.mean, "deviation": self.deviation, "codes": self.codes}
        arrays |= {} if self.projection is None else {"projection": self.projection}
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(whole, directory / FILE, metadata={"kind": self.kind})

    @classmethod
    def load(cls, directory: Path) -> Codebook | None:
        """Read what `save` wrote; None where there is nothing."""
        from safetensors import safe_open

        if not (directory / FILE).is_file():
            return None
        with safe_open(directory / FILE, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls(file.metadata()["kind"], **arrays)


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Scale each row to length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def at_frames(units: np.ndarray, count: int, field: int, hop: int, rate: int) -> np.ndarray:
    """Take the unit whose spectral frame lies nearest to the middle of each of `count` encoder frames. [count]

    An encoder frame sees `field` samples and comes every `hop`: at 16 kHz HuBERT's takes every second unit.
    """
    middles = np.arange(count) * hop + field / 2
    nearest = np.floor((middles - round(WINDOW * rate) / 2) / round(HOP * rate) + 0.5).astype(np.int64)
    return units[np.clip(nearest, 0, len(units) - 1)]
