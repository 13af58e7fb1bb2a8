"""Recordings, prepared as the hand-off says.

Shapes: B rows, N samples of the longest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from finetuning.data.splits import Examples
from finetuning.inputs.base import EncodedSplit, Features, Inputs, Picked
from finetuning.inputs.text import arrays, tokenized
from pretraining.audio.backbones.speech_encoder import SpeechEncoder
from pretraining.audio.collate import padded_waves
from pretraining.audio.data.clips import Clip
from pretraining.audio.geometry import frames_of
from pretraining.audio.masking import span_mask
from pretraining.audio.modality import AUDIO
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.audio.spectrum import mfcc
from pretraining.audio.unlabelled import Cutting, ReadRecordings, recordings
from pretraining.backbones.base import Backbone
from pretraining.data.batches import STREAM
from pretraining.data.columns import own_id
from pretraining.data.unlabelled import Unlabelled
from pretraining.engine.batch import Batch
from pretraining.errors import RunError
from pretraining.random import Keys
from pretraining.text.tokenizer import TextPreprocess


@dataclass(kw_only=True)
class SpanMasks:
    """What training hides of what the stem makes (Baevski et al. 2020, appendix B; Park et al. 2019, "SpecAugment").

    Spans of `span` frames, `share` of a recording before they overlap, and of `channel_span` channels, `channel_share`
    of them; 0 hides nothing. The vector that stands for hidden frames is that of pretraining, and stays as it is.
    """

    share: float = 0.0
    span: int = 10
    channel_share: float = 0.0
    channel_span: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or not 0 <= self.channel_share < 1 or min(self.span, self.channel_span) < 1:
            what = f"got task.inputs.masks.share={self.share}, span={self.span}, channel_share={self.channel_share}"
            told = "give shares of at least 0 and below 1, and spans of at least 1"
            raise RunError(f"{what} and channel_span={self.channel_span}: {told}")

    @property
    def hide(self) -> bool:
        """Whether anything is hidden."""
        return self.share > 0 or self.channel_share > 0

    def draw(self, frames: np.ndarray, channels: int, keys: Keys) -> dict[str, torch.Tensor]:
        """Draw a backbone's arguments for rows of so many `frames` [B]: bool [B, T] and [B, channels]."""
        found = {}
        if self.share:
            found["mask"] = span_mask(frames, keys, share=self.share, span=self.span)
        if self.channel_share:
            wide = np.full_like(frames, channels)
            share, span = self.channel_share, self.channel_span
            found["channel_mask"] = span_mask(wide, keys, share=share, span=span, slot="channel mask")
        return {name: torch.from_numpy(mask) for name, mask in found.items()}


BAD = " (or set data.on_bad=skip where the data has it)"
CLASSICAL_RATE = 16_000  # samples per second that classical features are computed at


def _mfcc_statistics(clip: Clip) -> np.ndarray:
    frames = mfcc(clip.samples(CLASSICAL_RATE).astype(np.float64) / 32768.0, CLASSICAL_RATE)
    return np.concatenate([frames.mean(0), frames.std(0)])


@dataclass(kw_only=True, eq=False)
class Waves(EncodedSplit):
    """Recordings in memory, int16 at the rate of the preprocessing; `frames` is how many the backbone makes of each.

    `masks` hide some of them in training, of `channels` channels.
    """

    samples: list[np.ndarray]
    frames: np.ndarray  # int64 [rows]
    preprocess: AudioPreprocess
    masks: SpanMasks | None = None
    channels: int = 0

    def collate(self, picked: Picked, keys: Keys) -> Batch:
        """Stack rows, and draw what is hidden of those of training."""
        batch = super().collate(picked, keys)
        if self.masks is not None and keys.stream == STREAM:
            batch["inputs"] |= self.masks.draw(self.frames[picked.rows], self.channels, keys)
        return batch

    def stack(self, rows: np.ndarray) -> Batch:
        """Prepare rows and pad them to [B, N]."""
        waves = padded_waves([self.preprocess(self.samples[row]) for row in rows])
        return {"inputs": waves, "frames": torch.from_numpy(self.frames[rows])}

    def lengths(self) -> np.ndarray:
        """Count each row's seconds."""
        return np.array([len(row) for row in self.samples]) / self.preprocess.sample_rate


@dataclass(kw_only=True)
class AudioInputs(Inputs):
    """Recordings of at most `max_seconds`; `longer` ones are cut at their end and counted, or refused by name.

    `masks`: what training hides of them.
    """

    modality = AUDIO
    columns = ("audio",)
    transformers_classes = {"AutoModelForSequenceClassification": "AutoModelForAudioClassification"}  # noqa: RUF012
    passed_through = ("projector",)
    max_seconds: float = 30.0
    longer: Literal["cut", "refuse"] = "refuse"
    masks: SpanMasks | None = field(default_factory=SpanMasks)

    def __post_init__(self) -> None:
        if self.longer not in ("cut", "refuse") or not self.max_seconds > 0:
            what = f"got task.inputs.longer={self.longer} and task.inputs.max_seconds={self.max_seconds}"
            raise RunError(f"{what}: choose cut or refuse, and seconds above 0")

    def encode(  # type: ignore[override]
        self, examples: Examples, targets: list[np.ndarray], preprocess: AudioPreprocess, backbone: SpeechEncoder
    ) -> Waves:
        """Decode all recordings; one that cannot be read, or of which the backbone makes no frame, is an error."""
        if self.masks is not None and self.masks.hide and not getattr(backbone, "hides", False):
            what = "got task.inputs.masks, but the hand-off has no vector for hidden frames"
            raise RunError(f"{what}: set their shares to 0, or take a speech encoder that was pretrained with one")
        rule = Cutting(self.max_seconds, self.longer, "task.inputs.max_seconds", BAD)
        samples = rule.read(examples.column("audio"), preprocess.sample_rate, backbone)
        frames = frames_of(np.array(list(map(len, samples)), np.int64), backbone.kernels, backbone.strides)
        shown = {"samples": samples, "frames": frames, "preprocess": preprocess}
        return Waves(examples, targets, **shown, masks=self.masks, channels=backbone.dim)

    def classical(self, train: Examples) -> Features:
        """Take mean and deviation over time of each recording's MFCC and their differences."""
        return Features(
            "MFCC", lambda examples: np.stack([_mfcc_statistics(clip) for clip in examples.column("audio")])
        )

    def read(
        self, path: Path | Sequence[Any], named: Mapping[str, Any], preprocess: AudioPreprocess
    ) -> Iterator[Unlabelled]:
        """Take one recording, or all in a directory and those below it, in the order of their names."""
        column, mono = named.get("audio", "audio"), named.get("mono", "mean")
        if isinstance(path, Path):
            for shown, clip in recordings(path, mono):
                yield Unlabelled(shown, {"audio": clip})
            return
        reading = ReadRecordings(mono=mono)
        for number, item in enumerate(path):
            given = item[column] if isinstance(item, Mapping) and column in item else item
            yield Unlabelled(
                {"id": own_id(item, number)}, {"audio": reading.take(given, f"input {number}", preprocess)}
            )

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


@dataclass(kw_only=True)
class SpokenSourceInputs(AudioInputs):
    """Recordings with what is to be written after each, of at most `max_target_tokens` tokens in training."""

    max_target_tokens: int = 64

    def tokenise(self, texts: list[str], preprocess: TextPreprocess) -> list[np.ndarray]:
        """Turn what is to be written into tokens, special ones included; too long ones are cut and counted."""
        limit, key = self.max_target_tokens, "max_target_tokens"
        return arrays(tokenized(preprocess, max_tokens=limit, key=key, text_target=texts)["input_ids"])
