"""The classical features of a recording, in a backbone's place: what a linear model on them reaches is the reference.

Shapes: B rows, N samples, T spectral frames, D = 2 * 39.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pretraining.audio.modality import AUDIO
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.audio.spectrum import HOP, WINDOW, mfcc
from pretraining.backbones.base import Backbone, Features
from pretraining.modality import Tower

COEFFICIENTS = 39


class MfccStatistics(Backbone):
    """Mean and deviation over time of MFCC and their differences; there is nothing to learn in it.

    `handoff=mfcc:RATE mode=linear_probe` fits a linear model to them, for any task on whole recordings.
    """

    modality = AUDIO
    rate: Tensor

    def __init__(self, *, sample_rate: int) -> None:
        super().__init__()
        self.kwargs, self.dim = {"sample_rate": sample_rate}, 2 * COEFFICIENTS
        self.kernels, self.strides = [round(WINDOW * sample_rate)], [round(HOP * sample_rate)]
        self.register_buffer("rate", torch.tensor(sample_rate))

    def forward(self, waves: Tensor, lengths: Tensor | None = None) -> Features:
        """Compute the coefficients of waves [B, N], of which each row's first `lengths` count, and their statistics."""
        rows = waves.detach().cpu().numpy()
        counts = [rows.shape[1]] * len(rows) if lengths is None else lengths.tolist()
        found = [mfcc(row[:count], self.kwargs["sample_rate"]) for row, count in zip(rows, counts, strict=True)]
        positions = np.zeros((len(rows), max(map(len, found)), COEFFICIENTS), np.float32)
        for row, frames in enumerate(found):
            positions[row, : len(frames)] = frames
        pooled = np.stack([np.concatenate([frames.mean(0), frames.std(0)]) for frames in found]).astype(np.float32)
        valid = np.arange(positions.shape[1]) < np.array(list(map(len, found)))[:, None]
        made, of_row, there = (torch.from_numpy(each).to(waves.device) for each in (positions, pooled, valid))
        return Features(made, of_row, valid=there)

    def blocks(self) -> list[nn.Module]:
        """List nothing: there are no weights."""
        return []

    def export(self, directory: Path) -> None:
        """Write the sample rate as model.safetensors: a hand-off must have one."""
        from safetensors.torch import save_file

        save_file({"rate": self.rate.cpu()}, directory / "model.safetensors")

    def load(self, directory: Path) -> None:
        """Read what `export` wrote."""
        from safetensors.torch import load_file

        self.load_state_dict(load_file(directory / "model.safetensors"), strict=True)

    def usage(self) -> str:
        """Write the lines that compute it."""
        return f"from pretraining.audio.spectrum import mfcc\n\nframes = mfcc(wave, {self.kwargs['sample_rate']})"


def read_checkpoint(name: str) -> Tower:
    """Make the features for recordings of a sample rate: `handoff=mfcc:8000`."""
    if not name.isdigit():
        raise ValueError(f"{name!r} is no sample rate: give one, such as mfcc:16000")
    preprocess = AudioPreprocess(sample_rate=int(name), normalise=True)
    return Tower(MfccStatistics(sample_rate=preprocess.sample_rate), preprocess)
