"""Units of what a network says: k-means over a layer's vectors, HuBERT's second iteration.

Shapes: T frames of a row, D width of the layer, K units.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from pretraining import handoff
from pretraining.audio.codebook import LAYER, RowUnits, fingerprint, load_codebook
from pretraining.audio.geometry import field_and_hop
from pretraining.audio.modality import AUDIO
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.audio.units import UnitRecipe, means_of
from pretraining.cache import build_once, key, replace_file

if TYPE_CHECKING:
    from pretraining.audio.backbones.speech_encoder import SpeechEncoder
    from pretraining.audio.data.base import AudioData

FORMAT = 1  # raised when the same recipe and data would give other units
MOST = 1 << 16  # units


@dataclass(kw_only=True)
class LayerUnits(UnitRecipe):
    """The means of k-means over what `layer` of a hand-off says of a frame (Hsu et al. 2021, "HuBERT", section IV-B).

    Layer 0 is what the first one reads. All rows of the training and the validation split are named once, and their
    units kept in the data's cache: `python -m pretraining.data.prepare` does it ahead of training.
    """

    handoff: str
    layer: int = 6
    kind: Any = field(default=LAYER, init=False)
    units: int = 500

    def make(self, found: np.ndarray) -> RowUnits:  # type: ignore[override]
        """Run k-means."""
        return RowUnits(means_of(found, self.units), *field_and_hop(self._network.kernels, self._network.strides))

    def fit(self, data: AudioData) -> AudioPreprocess:
        """Name the rows, or read what was named before."""
        known = handoff.read(self.handoff, modality=AUDIO)
        self._tower, self._network = known.tower, cast("SpeechEncoder", known.backbone)
        self._check()
        plain = AudioPreprocess(sample_rate=self.sample_rate, normalise=self.normalise)
        own = {"units": self.units, "sample_seconds": self.sample_seconds, "layer": self.layer}
        rows = {"data": data.fingerprint(), "validation": data.identity("validation")}
        parts = {**own, **rows, "network": known.digest or self.handoff, "format": FORMAT}
        directory = build_once(data.cache_dir / "units" / key(parts), lambda partial: self._name(data, plain, partial))
        codebook, digests = load_codebook(directory), np.load(directory / "digests.npy")
        assert isinstance(codebook, RowUnits)
        named = {
            "names": np.memmap(directory / "names.bin", np.uint16, "r"),
            "offsets": np.load(directory / "offsets.npy"),
            "rows": {digest.tobytes(): row for row, digest in enumerate(digests)},
        }
        whole = RowUnits(codebook.codes, codebook.window, codebook.hop, **named)
        return self.learnt(AudioPreprocess(**plain.kwargs, codebook=whole))

    def _check(self) -> None:
        last, theirs = len(self._network.layer_widths) - 1, self._tower.preprocess.sample_rate
        if not 0 <= self.layer <= last:
            what = f"got preprocess.layer={self.layer}, but the network of {self.handoff} has the layers 0 to {last}"
            raise ValueError(f"{what}: give one of these")
        if theirs != self.sample_rate:
            what = f"got preprocess.sample_rate={self.sample_rate}, but the network of {self.handoff} reads {theirs}"
            raise ValueError(f"{what} samples per second: set it to {theirs}")
        if self.units > MOST:
            raise ValueError(f"got preprocess.units={self.units}: give at most {MOST}")

    @torch.no_grad()
    def features(self, samples: np.ndarray, plain: AudioPreprocess) -> np.ndarray:
        """Compute a row's frames at the layer, as the network's own preparation has the row. float32 [T, D]"""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        wave = torch.from_numpy(self._tower.preprocess(samples))[None].to(device)
        found = self._network.to(device).eval().hidden_layers(waves=wave)[self.layer]
        return found.positions[0].float().cpu().numpy()

    def _name(self, data: AudioData, plain: AudioPreprocess, directory: Path) -> None:
        """Make the codes, and name every row by the nearest one at each frame."""
        codebook = self.make(self._sampled(data, plain))
        lengths, digests = list[int](), list[bytes]()
        with replace_file(directory / "names.bin", "wb") as file:
            for split in ("train", "validation"):
                source = data.source(split, plain)
                for row in range(source.count(0)):
                    (samples,) = source.read(0, np.array([row])).each()
                    units = codebook.nearest(self.features(samples, plain))[0].astype(np.uint16)
                    file.write(units.tobytes())
                    lengths.append(len(units))
                    digests.append(fingerprint(samples))
        np.save(directory / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        np.save(directory / "digests.npy", np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1))
        codebook.save(directory)
