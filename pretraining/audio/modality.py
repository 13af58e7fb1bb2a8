"""What the core asks of audio."""

from __future__ import annotations

import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretraining.data.source import Source
from pretraining.modality import Function, Modality, Row, Tower

SECONDS = (0.4, 0.61, 1.0, 1.7)  # at which a network is compared with its copies for other runtimes
FACT_ROWS = 256  # whose units are counted


class Audio(Modality):
    """Recordings as waves of one sample rate, cut into rows of at most so many seconds."""

    name = "audio"
    unit = "audio_seconds"
    reads = "pretraining.audio.unlabelled.ReadRecordings"
    readers = {  # noqa: RUF012
        "hf": "pretraining.audio.backbones.speech_encoder.read_checkpoint",
        "mfcc": "pretraining.audio.backbones.mfcc_statistics.read_checkpoint",
    }

    writers = {  # noqa: RUF012
        "transformers": "pretraining.audio.transformers_form.write_transformers",
        "onnx": "pretraining.onnx_form.write_onnx",
    }

    def source(self, data: Any, split: str, preprocess: Any, collate: Any, *, seed: int) -> Source:
        """Open a split at the sample rate of the preprocessing."""
        return data.source(split, preprocess)

    def backbone_arguments(self, preprocess: Any) -> dict[str, Any]:
        """Name the sample rate."""
        return {"sample_rate": preprocess.sample_rate}

    def average_row(self, objective: Any, source: Any, collate: Any, preprocess: Any) -> Row:
        """Count seconds; a row that is too short for the backbone is an error."""
        collate.check(source)
        return Row(units=source.mean_seconds)

    def facts(self, train: Any, validation: Any, collate: Any, preprocess: Any) -> dict[str, float]:
        """Measure the loss of a model that knows the frequencies of units alone, where there are units."""
        if preprocess.codebook is None:
            return {}
        rows = np.arange(min(validation.count(0), FACT_ROWS))
        units = [preprocess.units(samples) for samples in validation.read(0, rows).each()]
        counts = np.bincount(np.concatenate(units))
        shares = counts[counts > 0] / counts.sum()
        return {"validation/unit_entropy": float(-(shares * np.log(shares)).sum())}

    def clean_inputs(self, batch: Mapping[str, Any], preprocess: Any) -> dict[str, Tensor]:
        """Leave out what hides frames."""
        return {name: value for name, value in batch["inputs"].items() if name != "mask"}

    def function(self, tower: Tower) -> Function:
        """Take prepared waves, and where each one ends if the network lets padding change nothing."""
        backbone, rate = tower.backbone, tower.preprocess.sample_rate
        padded = getattr(backbone, "takes_padding", False)

        def example(rows: int, samples: int) -> dict[str, Tensor]:
            waves = torch.randn(rows, samples, generator=torch.Generator().manual_seed(0))
            ends = {"lengths": samples - torch.arange(rows) * (samples // 20)} if padded else {}
            return {"waves": waves, **ends}

        axes = {"waves": ("batch", "samples"), **({"lengths": ("batch",)} if padded else {})}
        lengths = [round(rate * seconds) for seconds in SECONDS]
        return Function(backbone, example, lengths, axes, tower.preprocess.save)

    def show(self, collate: Any, batch: Mapping[str, Any], count: int, path: Path) -> list[str]:
        """Describe rows, and write what can be heard of them, one after the other."""
        lines, parts, rate = [], [], collate.preprocess.sample_rate
        waves, frames = batch["inputs"]["waves"], batch.get("frames")
        lengths = batch["inputs"].get("lengths")
        for row in range(min(count, len(waves))):
            heard = waves[row] if lengths is None else waves[row, : lengths[row]]
            hidden = int(batch["inputs"]["mask"][row].sum()) if "mask" in batch["inputs"] else 0
            told = "" if frames is None else f", {int(frames[row])} frames, {hidden} of them hidden"
            lines.append(f"example {row + 1}   {len(heard) / rate:.2f} s{told}")
            parts.append(heard.float().cpu().numpy())
        sound = path.with_suffix(".wav")
        write_wav(sound, np.concatenate(parts), rate)
        return [*lines, f"sound       {sound}"]


def write_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    """Write samples of any scale as 16-bit mono, the loudest at full scale."""
    loudest = max(float(np.abs(samples).max(initial=0.0)), 1e-9)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(samples / loudest * 32767).astype("<i2").tobytes())


AUDIO = Audio()
