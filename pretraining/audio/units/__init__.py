"""How a codebook comes about: by k-means over the training data, or at random.

    python -m pretraining.audio.units data=NAME [preprocess=speech_units | random_speech_units | layer_units]

makes one ahead of training, which then finds it in the data's cache, and prints how good its units are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pretraining.audio.codebook import Codebook, Kind, features, load_codebook, unit_length
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.cache import build_once, key
from pretraining.random import permuted
from pretraining.runs.described import described

if TYPE_CHECKING:
    from pretraining.audio.data.base import AudioData

FORMAT = 1  # raised when the same recipe and data would give another codebook


@dataclass(kw_only=True)
class UnitRecipe(ABC):
    """`units` codes, made from the features of `sample_seconds` of training data and kept in the data's cache."""

    sample_rate: int = 16000
    normalise: bool = True
    units: int
    sample_seconds: float = 36000

    @abstractmethod
    def make(self, found: np.ndarray) -> Codebook:
        """Make a codebook from features of a sample. [frames, D]"""

    kind: Kind = field(init=False)

    def __post_init__(self) -> None:
        if self.units < 2 or not self.sample_seconds > 0:
            what = f"got preprocess.units={self.units} and preprocess.sample_seconds={self.sample_seconds}"
            raise ValueError(f"{what}: give at least 2 units, and seconds above 0")

    def fit(self, data: AudioData) -> AudioPreprocess:
        """Make the codebook, or read what was made before from the same data."""
        plain = AudioPreprocess(sample_rate=self.sample_rate, normalise=self.normalise)
        parts = {"recipe": type(self).__name__, **vars(self), "data": data.fingerprint(), "format": FORMAT}
        directory = build_once(
            data.cache_dir / "units" / key(parts), lambda partial: self.make(self._sampled(data, plain)).save(partial)
        )
        return self.learnt(AudioPreprocess(**plain.kwargs, codebook=load_codebook(directory)))

    def learnt(self, preprocess: AudioPreprocess) -> AudioPreprocess:
        """Note in what was made that it comes from here."""
        preprocess.recipe = described(self)
        return preprocess

    def features(self, samples: np.ndarray, plain: AudioPreprocess) -> np.ndarray:
        """Compute what units of a row are told by. [frames, D]"""
        return features(plain(samples), self.sample_rate, self.kind)

    def _sampled(self, data: AudioData, plain: AudioPreprocess) -> np.ndarray:
        """Compute the features of rows drawn from the training split. [frames, D]"""
        source, seconds, found = data.source("train", plain), 0.0, []
        rows = permuted(np.arange(source.count(0)), source.count(0), seed=0, epoch=0, stream="units")
        for row in rows:
            (samples,) = source.read(0, np.array([row])).each()
            found.append(self.features(samples, plain))
            seconds += len(samples) / self.sample_rate
            if seconds >= self.sample_seconds:
                break
        frames = np.concatenate(found)
        if len(frames) < self.units:
            what = f"got {len(frames)} frames of training data for preprocess.units={self.units}"
            raise ValueError(f"{what}: give more data, or fewer units")
        return frames


@dataclass(kw_only=True)
class KMeansUnits(UnitRecipe):
    """The means of k-means over MFCC (Hsu et al. 2021, "HuBERT", section IV-B), which are not standardised there."""

    kind: Kind = field(default="mfcc", init=False)
    units: int = 100

    def make(self, found: np.ndarray) -> Codebook:
        """Run mini-batch k-means, with the settings of HuBERT's script."""
        return Codebook(self.kind, np.zeros(found.shape[1]), np.ones(found.shape[1]), means_of(found, self.units))


def means_of(found: np.ndarray, count: int) -> np.ndarray:
    """Run mini-batch k-means over features [frames, D], with the settings of HuBERT's script. [count, D]"""
    from sklearn.cluster import MiniBatchKMeans

    settings = {"batch_size": 10_000, "max_iter": 100, "n_init": 5, "tol": 0.0, "max_no_improvement": 100}
    return MiniBatchKMeans(count, random_state=0, **settings).fit(found).cluster_centers_


@dataclass(kw_only=True)
class RandomUnits(UnitRecipe):
    """BEST-RQ (Chiu et al. 2022, section 3): the nearest of random codes to a random projection; nothing is learnt.

    Codes have `width` numbers; `seed` draws codes and projection.
    """

    width: int = 16
    seed: int = 0
    kind: Kind = field(default="log_mel", init=False)
    sample_seconds: float = 600
    units: int = 8192

    def make(self, found: np.ndarray) -> Codebook:
        """Draw codes and projection; features are standardised, or all frames would be near one code."""
        random = np.random.default_rng(self.seed)
        limit = np.sqrt(6.0 / (found.shape[1] + self.width))  # Glorot & Bengio 2010
        projection = random.uniform(-limit, limit, (found.shape[1], self.width))
        codes = unit_length(random.normal(size=(self.units, self.width)))
        return Codebook(self.kind, found.mean(0), np.maximum(found.std(0), 1e-6), codes, projection)
