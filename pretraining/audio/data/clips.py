"""One recording each: decoded by libsndfile (wav, flac, ogg, opus, mp3), mixed to one channel, resampled by soxr.

Shapes: N samples, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from pretraining.errors import reason_of

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")
Mono = Literal["mean", "first", "refuse"]
RATES = (1000, 1_000_000)  # samples per second that a recording may have
LOUDEST = 16.0  # 24 dB above full scale: what is louder was never scaled to [-1, 1]
BLOCK = 2**18  # samples that are read at once
UNKNOWN_SIZE = 0x7FFFF000  # what a program that writes into a pipe claims at least
LACKING = "is not installed: pip install 'pretraining[speech]' (data=spoken_letters needs nothing)"


class Clip(Protocol):
    """A recording that is not yet in memory."""

    @property
    def name(self) -> str:
        """What errors call it."""
        ...

    def samples(self, rate: int) -> np.ndarray:
        """Read it at `rate` samples per second; a ValueError names what is wrong with it. int16 [N]"""
        ...


@dataclass(frozen=True)
class EncodedClip:
    """A recording as a file has it. `mono` says what becomes of several channels; `file`: which one a table names."""

    name: str
    read: Callable[[], bytes]
    mono: Mono = "mean"
    file: Path | None = None

    def samples(self, rate: int) -> np.ndarray:
        """Decode, check, mix and resample."""
        samples, own = self.as_written()
        return as_int16(resampled(samples, own, rate), self.name)

    def as_written(self) -> tuple[np.ndarray, int]:
        """Decode, check and mix: float32 [N] at its own rate, which is returned, too."""
        channels, own = decode(self.read(), self.name)
        return mixed(channels, self.mono, self.name), own


def decode(content: bytes, name: str) -> tuple[np.ndarray, int]:
    """Decode a file's content: float32 [N, C], and its sample rate. What is damaged or holds nothing is an error."""
    try:
        import soundfile
    except ImportError as error:
        raise ValueError(f"{name} is to be decoded, but soundfile {LACKING}") from error
    cut = missing_bytes(content)
    if cut:
        raise ValueError(f"{name} is cut short: {cut} bytes of its sound are missing; fetch it again or remove it")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate, announced = file.samplerate, file.frames
            samples = np.concatenate([np.zeros((0, file.channels), np.float32), *_blocks(file)])
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise ValueError(f"{name} is not a readable recording ({reason_of(error)}): repair or remove it") from error
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"{name} claims {rate} samples per second, not {RATES[0]} to {RATES[1]}: repair or remove it")
    if len(samples) < announced:
        what = f"{name} is cut short: {len(samples)} of {announced} samples could be decoded"
        raise ValueError(f"{what}; fetch it again or remove it")
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} holds values that are no numbers (NaN or infinite): repair or remove it")
    if len(samples) and (peak := np.abs(samples).max()) > LOUDEST:
        what = f"{name} holds values up to {peak:.0f}, where a recording's are in [-1, 1]"
        raise ValueError(f"{what}: divide them by their scale (32768, if they were 16 bits), or remove it")
    return samples, rate


def _blocks(file: Any) -> Iterator[np.ndarray]:
    """Read little by little: a damaged header may announce more samples than there is memory for."""
    while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
        yield block


def missing_bytes(content: bytes) -> int:
    """Count what a wav file lacks of the sound that it announces; libsndfile takes a cut file for a shorter one."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return 0
    place = 12
    while place + 8 <= len(content):
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        if content[place : place + 4] == b"data":
            return 0 if size >= UNKNOWN_SIZE else max(0, place + 8 + size - len(content))
        place += 8 + size + size % 2
    return 0


def mixed(samples: np.ndarray, mono: Mono, name: str) -> np.ndarray:
    """Make one channel of several [N, C]: their mean, or the first. float32 [N]"""
    if mono not in ("mean", "first", "refuse"):
        raise ValueError(f"got data.mono={mono}: choose mean, first or refuse")
    if samples.shape[1] == 1 or mono == "first":
        return samples[:, 0]
    if mono == "refuse":
        raise ValueError(f"{name} has {samples.shape[1]} channels: set data.mono=mean or first, or remove it")
    return samples.mean(1)


def resampled(samples: np.ndarray, own: int, rate: int) -> np.ndarray:
    """Bring samples [N] from their own rate to `rate`."""
    if own == rate:
        return samples
    try:
        import soxr
    except ImportError as error:
        raise ValueError(f"a recording of {own} Hz is to be resampled to {rate} Hz, but soxr {LACKING}") from error
    return soxr.resample(samples, own, rate, quality="HQ")


def as_int16(samples: np.ndarray, name: str) -> np.ndarray:
    """Round samples in [-1, 1] to 16 bits; nothing, or nothing that can be heard, is an error. int16 [N]"""
    if not len(samples):
        raise ValueError(f"{name} is empty: remove it")
    rounded = np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16)
    if not rounded.any():
        raise ValueError(f"{name} is silent throughout: remove it")
    return rounded
