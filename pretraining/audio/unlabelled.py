"""Recordings without labels: read from files, or held by Python code, and made waves of a network's sample rate.

Shapes: N samples.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from pretraining.audio.collate import padded_waves
from pretraining.audio.data.clips import Clip, EncodedClip, Mono, mixed, resampled
from pretraining.audio.data.layouts import audio_files
from pretraining.audio.data.recordings import decoded
from pretraining.audio.geometry import frames_of
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.data.unlabelled import Encoded, Reading, tell_cut
from pretraining.errors import RunError


def recordings(path: Path, mono: Mono) -> Iterator[tuple[dict[str, Any], EncodedClip]]:
    """Take one recording, or all in a directory and those below it, in the order of their names."""
    if not path.is_file() and not path.is_dir():
        raise RunError(f"got input={path} for a run on recordings: give a file or a directory that exists")
    for number, file in enumerate([path] if path.is_file() else audio_files(path)):
        name = file.name if file == path else str(file.relative_to(path))
        yield {"id": number, "file": name}, EncodedClip(str(file), functools.partial(Path.read_bytes, file), mono)


class Cutting(NamedTuple):
    """What becomes of recordings of more than `max_seconds`, the setting `key`; `bad` is a cure for unreadable ones."""

    max_seconds: float
    longer: Literal["cut", "refuse"]
    key: str
    bad: str = ""

    def read(self, clips: Sequence[Clip], rate: int, backbone: Any) -> list[np.ndarray]:
        """Decode all; one that cannot be read, or of which the backbone makes no frame, is an error. [N] each"""
        samples, cut, longest = [], 0, round(self.max_seconds * rate)
        for clip, found in zip(clips, decoded(clips, rate), strict=True):
            if isinstance(found, ValueError):
                raise RunError(f"{found}{self.bad}") from found
            if len(found) > longest and self.longer == "refuse":
                what = f"{clip.name} has {len(found) / rate:.1f} s, more than {self.key}={self.max_seconds}"
                raise RunError(f"{what}: cut it into pieces with labels of their own, or raise it")
            if frames_of(min(len(found), longest), backbone.kernels, backbone.strides) < 1:
                what = f"{clip.name} has {len(found) / rate:.3f} s, of which this backbone makes no frame"
                raise RunError(f"{what}: remove it")
            cut += len(found) > longest
            samples.append(found[:longest])
        tell_cut(cut, len(samples), f"recordings have more than {self.key}={self.max_seconds}")
        return samples


@dataclass(frozen=True)
class HeldClip:
    """A recording in memory: samples of one channel in [-1, 1], float32 [N], at their own rate."""

    name: str
    held: np.ndarray
    own: int

    def samples(self, rate: int) -> np.ndarray:
        """Resample; nothing is rounded to 16 bits. float32 [N]"""
        return resampled(self.held, self.own, rate)


@dataclass(kw_only=True)
class ReadRecordings(Reading):
    """Recordings of at most `max_seconds`; longer ones are cut at their end, and counted aloud.

    `mono` says what becomes of several channels: mean, first or refuse.
    """

    ahead: ClassVar[int] = 64
    max_seconds: float = 60.0
    mono: Mono = "mean"

    def read(self, path: Path, preprocess: AudioPreprocess) -> Iterator[tuple[dict[str, Any], EncodedClip]]:
        """Take one recording, or all below a directory."""
        return recordings(path, self.mono)

    def take(self, item: Any, name: str, preprocess: AudioPreprocess) -> Clip:
        """Take a recording's path or content, (samples, rate), or {"array", "sampling_rate"} as `datasets` has them."""
        if isinstance(item, (str, os.PathLike)):
            return EncodedClip(str(item), functools.partial(_content, Path(item).expanduser(), name), self.mono)
        if isinstance(item, bytes):
            return EncodedClip(name, functools.partial(bytes, item), self.mono)
        if isinstance(item, Mapping) and {"array", "sampling_rate"} <= set(item):
            item = item["array"], item["sampling_rate"]
        if not isinstance(item, tuple) or len(item) != 2:
            what = f"{name} is {type(item).__name__}, and this network reads recordings"
            raise RunError(f"{what}: give a path, or (samples, samples per second)")
        samples, rate = np.asarray(item[0]), item[1]
        whole = isinstance(rate, (int, np.integer)) and not isinstance(rate, bool) and rate > 0
        if samples.ndim not in (1, 2) or not (samples.dtype == np.int16 or samples.dtype.kind == "f") or not whole:
            told = repr(rate) if np.isscalar(rate) else type(rate).__name__
            what = f"{name} has samples {samples.dtype} {list(samples.shape)} at the rate {told}"
            raise RunError(f"{what}: give real numbers in [-1, 1] or int16, [N] or [N, channels], and a whole rate")
        if not len(samples) or (samples.dtype.kind == "f" and not np.isfinite(samples).all()):
            what = "no samples" if not len(samples) else "values that are no numbers (NaN or infinite)"
            raise RunError(f"{name} holds {what}: leave it out")
        if samples.ndim == 2 and len(samples) < samples.shape[1]:  # as torchaudio has them
            what = f"{name} has samples [{len(samples)}, {samples.shape[1]}], which is more channels than samples"
            raise RunError(f"{what}: give [N] or [N, channels], such as samples.T")
        wave = samples.astype(np.float32) / (32768.0 if samples.dtype == np.int16 else 1.0)
        return HeldClip(name, wave if wave.ndim == 1 else mixed(wave, self.mono, name), int(rate))

    def encode(
        self, values: Sequence[Clip], names: Sequence[str], preprocess: AudioPreprocess, backbone: Any
    ) -> Encoded:
        """Decode at the rate of the preprocessing."""
        rate = preprocess.sample_rate
        samples = Cutting(self.max_seconds, "cut", "inputs.max_seconds").read(values, rate, backbone)
        seconds = np.array([len(row) for row in samples]) / rate
        return Encoded(seconds, lambda rows: padded_waves([preprocess(samples[row]) for row in rows]))


def _content(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} names the file {path}, which cannot be read: give one that exists") from error
