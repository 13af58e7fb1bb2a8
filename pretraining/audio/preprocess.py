"""What a backbone expects of its recordings: sample rate and scale. It travels in the hand-off.

Shapes: N samples of a recording, T spectral frames of it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretraining.audio.codebook import Codebook, RowUnits, load_codebook
from pretraining.audio.modality import AUDIO
from pretraining.cache import key, replace_text
from pretraining.modality import Preprocess

VARIANCE_FLOOR = 1e-7  # as transformers' feature extractor has it
CONFIG = "preprocessor_config.json"  # transformers' name


@dataclass(kw_only=True, eq=False)
class AudioPreprocess(Preprocess):
    """Waves of `sample_rate`; with `normalise` each row gets mean 0 and variance 1, before any padding.

    `codebook` names frames by units: what objectives on units predict.
    """

    modality = AUDIO
    sample_rate: int = 16000
    normalise: bool = True
    codebook: Codebook | RowUnits | None = None

    def __post_init__(self) -> None:
        if not 1000 <= self.sample_rate <= 192_000:
            raise ValueError(f"got preprocess.sample_rate={self.sample_rate}: give samples per second, such as 16000")

    @property
    def kwargs(self) -> dict[str, Any]:
        """Plain arguments of `load`."""
        return {"sample_rate": self.sample_rate, "normalise": self.normalise}

    @property
    def digest(self) -> str:
        """Identify what it makes of a recording, units included."""
        codes = None if self.codebook is None else hashlib.sha256(self.codebook.codes.tobytes()).hexdigest()
        return key({"waves": super().digest, "codes": codes})

    def save(self, directory: Path) -> None:
        """Write transformers' description of the same preparation, and the codebook."""
        described = {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "sampling_rate": self.sample_rate,
            "do_normalize": self.normalise,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": True,
        }
        replace_text(directory / CONFIG, json.dumps(described, indent=2) + "\n")
        if self.codebook is not None:
            self.codebook.save(directory)

    @classmethod
    def load(cls, directory: Path | str, **kwargs: Any) -> AudioPreprocess:
        """Read what `save` wrote."""
        return cls(**kwargs, codebook=load_codebook(Path(directory)))

    @classmethod
    def of_transformers(cls, name: str) -> AudioPreprocess:
        """Take the preparation that a transformers checkpoint describes."""
        from transformers import AutoFeatureExtractor

        described = AutoFeatureExtractor.from_pretrained(name)
        return cls(sample_rate=described.sampling_rate, normalise=bool(described.do_normalize))

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Prepare one row: int16, or floats in [-1, 1] -> float32. [N]"""
        wave = samples.astype(np.float32) / 32768.0 if samples.dtype == np.int16 else samples.astype(np.float32)
        if not self.normalise:
            return wave
        mean = wave.mean(dtype=np.float64)
        variance = np.square(wave - mean, dtype=np.float64).mean()
        return ((wave - mean) / np.sqrt(variance + VARIANCE_FLOOR)).astype(np.float32)

    def units(self, samples: np.ndarray) -> np.ndarray:
        """Name the units of a row. int64 [T]"""
        assert self.codebook is not None
        return self.codebook.units_of(samples, self, self.sample_rate)
