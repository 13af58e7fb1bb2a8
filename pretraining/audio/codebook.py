"""Units: numbers for short stretches of sound, which masked prediction takes for words.

Shapes: N samples, T spectral frames, D features, E width of a code, K codes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from pretraining.audio.spectrum import HOP, WINDOW, log_mel, mfcc

Kind = Literal["mfcc", "log_mel"]
LAYER = "layer"  # the kind of `RowUnits`
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
        return self.nearest(features(wave, rate, self.kind))[0]

    def nearest(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Name the units of features [T, D], and how far, squared, their codes are. int64 [T], float64 [T]"""
        found = (found - self.mean) / self.deviation
        return nearest_codes(found if self.projection is None else unit_length(found @ self.projection), self.codes)

    def units_of(self, samples: np.ndarray, prepare: Callable[[np.ndarray], np.ndarray], rate: int) -> np.ndarray:
        """Name the units of a row as it was read. int64 [T]"""
        return self.units(prepare(samples), rate)

    def grid(self, rate: int) -> tuple[int, int]:
        """Count the samples that a unit is of, and those from one unit to the next."""
        return round(WINDOW * rate), round(HOP * rate)

    def save(self, directory: Path) -> None:
        """Write it as safetensors."""
        from safetensors.numpy import save_file

        arrays = {"mean": self.mean, "deviation": self.deviation, "codes": self.codes}
        arrays |= {} if self.projection is None else {"projection": self.projection}
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(whole, directory / FILE, metadata={"kind": self.kind})


@dataclass(frozen=True)
class RowUnits:
    """Units of rows that were named ahead of time, by the `codes` [K, D] nearest to what a network's layer says.

    A row is known by its samples. A unit is of `window` samples and comes every `hop`: the network's frames.
    """

    codes: np.ndarray
    window: int
    hop: int
    names: np.ndarray | None = None  # uint16: of all rows, one after the other
    offsets: np.ndarray | None = None  # int64 [R + 1]
    rows: Mapping[bytes, int] = field(default_factory=dict)  # by their fingerprints

    def units_of(self, samples: np.ndarray, prepare: Callable[[np.ndarray], np.ndarray], rate: int) -> np.ndarray:
        """Look up the units of a row. int64 [T]"""
        row = self.rows.get(fingerprint(samples))
        if row is None or self.names is None or self.offsets is None:
            what = f"a row of {len(samples) / rate:.2f} s has no units, which were named for the rows of other data"
            raise ValueError(f"{what}: train with preprocess=layer_units on these, which names them")
        return self.names[self.offsets[row] : self.offsets[row + 1]].astype(np.int64)

    def nearest(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Name the units of a layer's vectors [T, D], and how far, squared, their codes are. int64 [T], float32 [T]"""
        return nearest_codes(found, self.codes.astype(np.float32))

    def grid(self, rate: int) -> tuple[int, int]:
        """Count the samples that a unit is of, and those from one unit to the next."""
        return self.window, self.hop

    def save(self, directory: Path) -> None:
        """Write the codes; the names of rows stay where the data are."""
        from safetensors.numpy import save_file

        arrays = {"codes": np.ascontiguousarray(self.codes), "grid": np.array([self.window, self.hop])}
        save_file(arrays, directory / FILE, metadata={"kind": LAYER})


def load_codebook(directory: Path) -> Codebook | RowUnits | None:
    """Read what `save` wrote; None where there is nothing."""
    from safetensors import safe_open

    if not (directory / FILE).is_file():
        return None
    with safe_open(directory / FILE, "numpy") as file:
        kind, arrays = file.metadata()["kind"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if kind == LAYER:
        window, hop = arrays["grid"].tolist()
        return RowUnits(arrays["codes"], window, hop)
    return Codebook(kind, **arrays)


def fingerprint(samples: np.ndarray) -> bytes:
    """Tell a row from others by its samples."""
    return hashlib.blake2b(samples.tobytes(), digest_size=16).digest()


def nearest_codes(found: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest of `codes` to each vector, and its squared distance. [T] each"""
    # |x - c|^2 without |x|^2, which no comparison needs.
    away = np.square(codes).sum(1) - 2.0 * found @ codes.T
    units = away.argmin(1)
    return units, np.maximum(np.square(found).sum(1) + away[np.arange(len(units)), units], 0.0)


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Scale each row to length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def at_frames(
    units: np.ndarray, count: int, frames: tuple[int, int], grid: tuple[int, int], start: int = 0
) -> np.ndarray:
    """Take the unit whose middle lies nearest to that of each of `count` encoder frames. [count]

    `frames` and `grid` are the samples that a frame (a unit) is of, and those from one to the next: at 16 kHz HuBERT's
    frames take every second unit of MFCC. The first frame begins at sample `start` of what the units are of.
    """
    (field, hop), (window, step) = frames, grid
    middles = start + np.arange(count) * hop + field / 2
    nearest = np.floor((middles - window / 2) / step + 0.5).astype(np.int64)
    return units[np.clip(nearest, 0, len(units) - 1)]
