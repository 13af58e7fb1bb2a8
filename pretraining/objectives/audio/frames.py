"""What objectives that predict hidden frames share: their batches, and what becomes of a stem's output.

Shapes: B rows, T frames, M hidden frames of the row that has most, C channels, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pretraining.audio.backbones.speech_encoder import SpeechEncoder
from pretraining.audio.codebook import at_frames
from pretraining.audio.collate import StackWaves
from pretraining.audio.data.base import AudioExamples
from pretraining.audio.geometry import field_and_hop
from pretraining.audio.masking import span_mask
from pretraining.backbones.base import Backbone
from pretraining.engine.batch import Batch
from pretraining.random import Keys


@dataclass(kw_only=True, eq=False)
class MaskFrames(StackWaves):
    """The collate of masked prediction: hides spans of `span` frames, `share` of them before overlap.

    `places` [B, M] are the hidden frames of each row, filled up with 0, and `hidden` [B] says how many there are. Where
    the preprocessing has units, `codes` [B, M] are those of the hidden frames.
    """

    share: float = 0.65
    span: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1 or self.span < 1:
            what = f"got collate.share={self.share} and collate.span={self.span}"
            raise ValueError(f"{what}: give a share above 0 and at most 1, and spans of at least 1 frame")

    def __call__(self, examples: AudioExamples, keys: Keys) -> Batch:
        """Stack rows and hide frames."""
        batch = super().__call__(examples, keys)
        frames = batch["frames"].numpy()
        mask = span_mask(frames, keys, share=self.share, span=self.span)
        hidden = mask.sum(1)
        places = np.argsort(~mask, 1, kind="stable")[:, : hidden.max()]
        real = np.arange(places.shape[1]) < hidden[:, None]
        places[~real] = 0
        batch["inputs"]["mask"] = torch.from_numpy(mask)
        batch |= {"places": torch.from_numpy(places), "hidden": torch.from_numpy(hidden)}
        if self.preprocess.codebook is not None:
            batch["codes"] = torch.from_numpy(np.take_along_axis(self._codes(examples, keys, frames), places, 1))
        return batch

    def _codes(self, examples: AudioExamples, keys: Keys, frames: np.ndarray) -> np.ndarray:
        """Name the unit of each frame of the backbone, as the whole row has them. int64 [B, T]"""
        assert self.preprocess.codebook is not None
        own, grid = (
            field_and_hop(self.kernels, self.strides),
            self.preprocess.codebook.grid(self.preprocess.sample_rate),
        )
        codes = np.zeros((len(frames), frames.max()), np.int64)
        for row, (samples, count, start) in enumerate(zip(examples.each(), frames, examples.starts(keys), strict=True)):
            codes[row, :count] = at_frames(self.preprocess.units(samples), count, own, grid, start)
        return codes


class Stemmed(NamedTuple):
    """What the stem made of a batch."""

    normed: Tensor  # [B, T, C]
    valid: Tensor | None  # bool [B, T]
    penalty: Tensor  # [B]: sum over a row's frames of the mean square of what the stem made


def speech_encoder(backbone: Backbone) -> SpeechEncoder:
    """Take a backbone whose frames can be hidden; others are an error."""
    if not isinstance(backbone, SpeechEncoder):
        what = f"got a {type(backbone).__name__}, whose frames cannot be hidden"
        raise ValueError(f"{what}: choose backbone=wav2vec2_tiny, or another speech encoder")
    return backbone


def stemmed(backbone: SpeechEncoder, batch: Batch, gradient: float) -> Stemmed:
    """Run the stem; `gradient` scales what flows back into it (0.1 for wav2vec 2.0's base model)."""
    inputs = batch["inputs"]
    frames, valid = backbone.stem(inputs["waves"], inputs.get("lengths"))
    if frames.shape[1] != inputs["mask"].shape[1]:
        what = f"the collate hides frames of {inputs['mask'].shape[1]}, but the backbone made {frames.shape[1]}"
        raise ValueError(f"{what}: collate.kernels and collate.strides must be those of its stem")
    if gradient != 1.0:
        frames = frames * gradient + frames.detach() * (1.0 - gradient)
    squares = at_least_single(frames).square().mean(2)
    penalty = (squares if valid is None else squares * valid).sum(1)
    return Stemmed(backbone.normed(frames), valid, penalty)


def at_places(frames: Tensor, places: Tensor) -> Tensor:
    """Take each row's frames at `places` [B, M] out of [B, T, D]. [B, M, D]"""
    return frames.gather(1, places[..., None].expand(-1, -1, frames.shape[2]))


def present(batch: Batch) -> Tensor:
    """Tell which of a batch's `places` are hidden frames, and which fill up. bool [B, M]"""
    count = batch["places"].shape[1]
    return torch.arange(count, device=batch["places"].device) < batch["hidden"][:, None]


def at_least_single(tensor: Tensor) -> Tensor:
    """Bring to single precision what is below it."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
