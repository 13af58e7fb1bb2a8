"""Recordings in splits, cut into rows of at most so many seconds, and how a run reads them.

Shapes: B rows of a batch, N samples of all of them, R recordings.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pretraining.audio.data.clips import Clip
from pretraining.audio.data.recordings import OnBad, Recordings, read_recordings
from pretraining.audio.modality import AUDIO
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.cache import key
from pretraining.data.base import Data


class AudioExamples(NamedTuple):
    """Raw rows, one after the other."""

    samples: np.ndarray  # int16 [N]
    lengths: np.ndarray  # int64 [B]

    def each(self) -> list[np.ndarray]:
        """Cut the samples into rows."""
        return np.split(self.samples, np.cumsum(self.lengths)[:-1])


class AudioSource:
    """A split as rows: pieces of recordings."""

    def __init__(self, recordings: Recordings, starts: np.ndarray, lengths: np.ndarray, rate: int) -> None:
        self.recordings, self.starts, self.lengths, self.rate = recordings, starts, lengths, rate

    @property
    def mean_seconds(self) -> float:
        """The mean length of a row."""
        return float(self.lengths.mean()) / self.rate

    def count(self, epoch: int) -> int:
        """Count the rows; the same in each epoch."""
        return len(self.starts)

    def read(self, epoch: int, rows: np.ndarray) -> AudioExamples:
        """Read rows by their numbers."""
        samples, starts, lengths = self.recordings.samples, self.starts[rows], self.lengths[rows]
        parts = [samples[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        return AudioExamples(np.concatenate(parts), lengths)


@dataclass(kw_only=True, eq=False)
class AudioData(Data):
    """Recordings in the splits train, validation and test.

    `max_seconds`: longer recordings are cut into rows of that length. `min_seconds`: what is shorter is left out (equal
    to `max_seconds`: all rows are of one length). `on_bad`: whether a recording that cannot be read ends the run or is
    left out and named.
    """

    modality = AUDIO
    min_seconds: float
    max_seconds: float
    on_bad: OnBad

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.min_seconds <= self.max_seconds:
            what = f"got data.min_seconds={self.min_seconds} and data.max_seconds={self.max_seconds}"
            raise ValueError(f"{what}: give seconds above 0, the former at most the latter")

    @abstractmethod
    def clips(self, split: str) -> Sequence[Clip]:
        """List the recordings of a split in a fixed order."""

    @abstractmethod
    def identity(self, split: str) -> dict[str, Any]:
        """Name all that the recordings of a split depend on."""

    def fingerprint(self) -> str:
        """Identify the rows of the training split, of which units are made."""
        return key({"clips": self.identity("train"), "min": self.min_seconds, "max": self.max_seconds})

    def prepare(self, split: str, preprocess: AudioPreprocess) -> list[dict[str, Any]]:
        """Decode what training would decode on first use; returns what the split holds."""
        source = self.source(split, preprocess)
        seconds = round(float(source.lengths.sum()) / source.rate, 1)
        return [
            {"split": split, "recordings": len(source.recordings.kept), "rows": source.count(0), "seconds": seconds}
        ]

    def source(self, split: str, preprocess: AudioPreprocess) -> AudioSource:
        """Open a split as rows; a training split that does not fill one batch is an error."""
        rate = preprocess.sample_rate
        identity = key(self.identity(split))
        recordings = read_recordings(self.clips(split), rate, self.cache_dir, identity, self.on_bad)
        shortest, longest = round(self.min_seconds * rate), round(self.max_seconds * rate)
        starts, lengths = pieces(recordings.offsets, longest, shortest)
        if not len(starts):
            what = f"all {len(recordings.kept)} recordings of the {split} split are shorter than"
            raise ValueError(f"{what} data.min_seconds={self.min_seconds}: lower it")
        cure = "lower data.batch_size, data.min_seconds or data.max_seconds"
        self.refuse_too_few(split, len(starts), "rows", cure)
        return AudioSource(recordings, starts, lengths, rate)


def pieces(offsets: np.ndarray, longest: int, shortest: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut recordings [R + 1] into pieces of `longest` samples, without what is left that is shorter than `shortest`.

    Returns their starts in all samples and their lengths, in order. int64 each.
    """
    counts = -(-np.diff(offsets) // longest)
    owner = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = offsets[owner] + place * longest
    lengths = np.minimum(offsets[owner + 1] - starts, longest)
    return starts[lengths >= shortest], lengths[lengths >= shortest]
