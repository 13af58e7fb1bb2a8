"""Recordings, prepared as the hand-off says.

Shapes: B rows, N samples of the longest.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from finetuning.data.splits import Examples
from finetuning.inputs.base import EncodedSplit, Features, Inputs, Unlabelled
from pretraining.audio.backbones.speech_encoder import SpeechEncoder
from pretraining.audio.collate import padded_waves
from pretraining.audio.data.clips import Clip, EncodedClip
from pretraining.audio.data.files import audio_files
from pretraining.audio.data.recordings import decoded
from pretraining.audio.geometry import frames_of
from pretraining.audio.modality import AUDIO
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.audio.spectrum import mfcc
from pretraining.backbones.base import Backbone
from pretraining.engine.batch import Batch
from pretraining.errors import RunError

CLASSICAL_RATE = 16_000  # samples per second that classical features are computed at


def _mfcc_statistics(clip: Clip) -> np.ndarray:
    frames = mfcc(clip.samples(CLASSICAL_RATE).astype(np.float64) / 32768.0, CLASSICAL_RATE)
    return np.concatenate([frames.mean(0), frames.std(0)])


@dataclass(kw_only=True, eq=False)
class Waves(EncodedSplit):
    """Recordings in memory, int16 at the rate of the preprocessing; `frames` is how many the backbone makes of each."""

    samples: list[np.ndarray]
    frames: np.ndarray  # int64 [rows]
    preprocess: AudioPreprocess

    def stack(self, rows: np.ndarray) -> Batch:
        """Prepare rows and pad them to [B, N]."""
        waves = padded_waves([self.preprocess(self.samples[row]) for row in rows])
        return {"inputs": waves, "frames": torch.from_numpy(self.frames[rows])}

    def lengths(self) -> np.ndarray:
        """Count each row's samples."""
        return np.array([len(row) for row in self.samples])


@dataclass(kw_only=True)
class AudioInputs(Inputs):
    """Recordings of at most `max_seconds`; `longer` ones are cut at their end and counted, or refused by name."""

    modality = AUDIO
    columns = ("audio",)
    transformers_classes = {"AutoModelForSequenceClassification": "AutoModelForAudioClassification"}  # noqa: RUF012
    passed_through = ("projector",)
    max_seconds: float
    longer: Literal["cut", "refuse"]

    def __post_init__(self) -> None:
        if self.longer not in ("cut", "refuse") or not self.max_seconds > 0:
            what = f"got task.inputs.longer={self.longer} and task.inputs.max_seconds={self.max_seconds}"
            raise RunError(f"{what}: choose cut or refuse, and seconds above 0")

    def encode(  # type: ignore[override]
        self, examples: Examples, targets: list[np.ndarray], preprocess: AudioPreprocess, backbone: SpeechEncoder
    ) -> Waves:
        """Decode all recordings; one that cannot be read, or of which the backbone makes no frame, is an error."""
        clips: list[Clip] = examples.column("audio")
        rate, samples, cut = preprocess.sample_rate, [], 0
        longest = round(self.max_seconds * rate)
        for clip, found in zip(clips, decoded(clips, rate), strict=True):
            if isinstance(found, ValueError):
                raise RunError(str(found)) from found
            if len(found) > longest and self.longer == "refuse":
                what = (
                    f"{clip.name} has {len(found) / rate:.1f} s, more than task.inputs.max_seconds={self.max_seconds}"
                )
                raise RunError(f"{what}: cut it into pieces with labels of their own, or raise it")
            if frames_of(min(len(found), longest), backbone.kernels, backbone.strides) < 1:
                what = f"{clip.name} has {len(found) / rate:.3f} s, of which this backbone makes no frame"
                raise RunError(f"{what}: remove it")
            cut += len(found) > longest
            samples.append(found[:longest])
        if cut:
            have = f"{cut} of {len(samples)} recordings have more than task.inputs.max_seconds={self.max_seconds}"
            print(f"{have} and were cut", file=sys.stderr)
        frames = frames_of(np.array(list(map(len, samples)), np.int64), backbone.kernels, backbone.strides)
        return Waves(examples, targets, samples=samples, frames=frames, preprocess=preprocess)

    def classical(self, train: Examples) -> Features:
        """Take mean and deviation over time of each recording's MFCC and their differences."""
        return Features(
            "MFCC", lambda examples: np.stack([_mfcc_statistics(clip) for clip in examples.column("audio")])
        )

    def read(self, path: Path, named: Mapping[str, Any], preprocess: AudioPreprocess) -> Iterator[Unlabelled]:
        """Take one recording, or all in a directory and those below it, in the order of their names."""
        if not path.is_file() and not path.is_dir():
            raise RunError(f"got input={path} for a run on recordings: give a file or a directory that exists")
        mono = named.get("mono", "mean")
        for number, file in enumerate([path] if path.is_file() else audio_files(path)):
            name = file.name if file == path else str(file.relative_to(path))
            clip = EncodedClip(str(file), functools.partial(Path.read_bytes, file), mono)
            yield Unlabelled({"id": number, "file": name}, {"audio": clip})

    def made_up_rows(self, preprocess: AudioPreprocess) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Draw two rows of noise, without padding, which transformers' models let change a row (`SpeechEncoder`)."""
        waves = torch.randn(2, preprocess.sample_rate, generator=torch.Generator().manual_seed(0))
        return {"waves": waves}, {"input_values": waves}

    def head_sizes(self, backbone: Backbone) -> dict[str, Any]:
        """Keep the width before the layer of classes."""
        return {"classifier_proj_size": backbone.dim}

    def save_for_transformers(self, directory: Path, preprocess: AudioPreprocess, backbone: Backbone) -> None:
        """Write the feature extractor."""
        preprocess.save(directory)
