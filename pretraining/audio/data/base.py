"""Recordings in splits, cut into rows of at most so many seconds, and how a run reads them.

Shapes: B rows of a batch, N samples of all of them, R recordings.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from pretraining.audio.data.clips import Clip
from pretraining.audio.data.recordings import OnBad, Recordings, read_recordings
from pretraining.audio.modality import AUDIO
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.cache import key
from pretraining.data.base import Data
from pretraining.data.batches import LengthBatches
from pretraining.data.files import say
from pretraining.random import Keys, integers


class AudioExamples(NamedTuple):
    """Raw rows, one after the other."""

    samples: np.ndarray  # int16 [N]
    lengths: np.ndarray  # int64 [B]
    kept: np.ndarray | None = None  # int64 [B]: the lengths that rows are to be cropped to; None: they stay whole

    def each(self) -> list[np.ndarray]:
        """Cut the samples into rows."""
        return np.split(self.samples, np.cumsum(self.lengths)[:-1])

    def starts(self, keys: Keys) -> np.ndarray:
        """Draw where each row's crop begins, by its key. int64 [B]"""
        if self.kept is None:
            return np.zeros_like(self.lengths)
        drawn: Any = integers(keys, "crop", (self.lengths - self.kept + 1)[:, None])
        return drawn[:, 0]

    def cropped(self, keys: Keys) -> AudioExamples:
        """Keep as much of each row as is wanted, from its start on."""
        if self.kept is None:
            return self
        rows = zip(self.each(), self.starts(keys), self.kept, strict=True)
        return AudioExamples(np.concatenate([row[start : start + kept] for row, start, kept in rows]), self.kept)


class AudioSource:
    """A split as rows: pieces of recordings. `kept`: what of each row is served (None: all of it)."""

    def __init__(
        self,
        recordings: Recordings,
        starts: np.ndarray,
        lengths: np.ndarray,
        rate: int,
        *,
        batches: LengthBatches | None = None,
        kept: np.ndarray | None = None,
    ) -> None:
        self.recordings, self.starts, self.lengths, self.rate = recordings, starts, lengths, rate
        self.batches, self.kept = batches, kept

    @property
    def mean_seconds(self) -> float:
        """The mean length of what is served of a row."""
        return float((self.lengths if self.kept is None else self.kept).mean()) / self.rate

    def count(self, epoch: int) -> int:
        """Count the rows; the same in each epoch."""
        return len(self.starts)

    def read(self, epoch: int, rows: np.ndarray) -> AudioExamples:
        """Read rows by their numbers."""
        samples, starts, lengths = self.recordings.samples, self.starts[rows], self.lengths[rows]
        parts = [samples[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        return AudioExamples(np.concatenate(parts), lengths, None if self.kept is None else self.kept[rows])


@dataclass(kw_only=True, eq=False)
class AudioData(Data):
    """Recordings in the splits train, validation and test.

    `max_seconds`: longer recordings are cut into rows of that length. `min_seconds`: what is shorter is left out (equal
    to `max_seconds`: all rows are of one length). `on_bad`: whether a recording that cannot be read ends the run or is
    left out and named. `batch_seconds`: of audio per optimizer step, padding included, in rows of about equal length;
    None: steps of `batch_size` rows. `fit`: whether the rows of such a step are padded to the longest, or cropped to
    the shortest of all rows of about that length. Evaluation pads.
    """

    modality = AUDIO
    min_seconds: float = 0.5
    max_seconds: float = 15.6
    on_bad: OnBad = "refuse"
    batch_seconds: float | None = None
    fit: Literal["pad", "crop"] = "pad"
    eval_batch_size: int = 16
    batch_size: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fit not in ("pad", "crop") or (self.fit == "crop" and self.batch_seconds is None):
            what = f"got data.fit={self.fit} and data.batch_seconds={self.batch_seconds}"
            raise ValueError(f"{what}: choose pad, or crop with seconds of audio per step")
        if not 0 < self.min_seconds <= self.max_seconds:
            what = f"got data.min_seconds={self.min_seconds} and data.max_seconds={self.max_seconds}"
            raise ValueError(f"{what}: give seconds above 0, the former at most the latter")

    @property
    def varying_steps(self) -> bool:  # type: ignore[override]
        """Whether steps have as many rows as `batch_seconds` hold."""
        return self.batch_seconds is not None

    @abstractmethod
    def clips(self, split: str) -> Sequence[Clip]:
        """List the recordings of a split in a fixed order."""

    @abstractmethod
    def identity(self, split: str) -> dict[str, Any]:
        """Name all that the recordings of a split depend on."""

    def sounds(self, split: str, source: AudioSource) -> np.ndarray | None:
        """Say what sounds at each sample of all recordings, in one letter each, where that is known. [N]"""
        return None

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
        if split == "train" and (short := int((recordings.lengths < shortest).sum())):
            told = f"{short} of {len(recordings.kept)} training recordings are shorter than"
            say(f"{told} data.min_seconds={self.min_seconds}, and left out")
        if split == "train" and self.batch_seconds is not None:
            batches = batches_by_seconds(lengths / rate, self.batch_seconds)
            kept = shortest_alike(batches, lengths) if self.fit == "crop" else None
            if kept is not None:
                say(f"data.fit=crop keeps {kept.sum() / lengths.sum():.0%} of the audio of each epoch")
            return AudioSource(recordings, starts, lengths, rate, batches=batches, kept=kept)
        cure = "lower data.batch_size, data.min_seconds or data.max_seconds"
        self.refuse_too_few(split, len(starts), "rows", cure)
        return AudioSource(recordings, starts, lengths, rate)


def batches_by_seconds(lengths: np.ndarray, most: float) -> LengthBatches:
    """Make steps of `most` seconds of rows of so many; what does not fill one, or a row that is longer, is an error."""
    if lengths.max() > most:
        what = f"data.batch_seconds={most:g} holds no row of {lengths.max():.1f} s"
        raise ValueError(f"{what}: raise it, or cut rows shorter (data.max_seconds)")
    if lengths.sum() < most:
        what = f"the training split has {lengths.sum():.1f} s of audio, less than one step of data.batch_seconds"
        raise ValueError(f"{what}={most:g}: lower it, or give more")
    return LengthBatches(lengths, most, "data.batch_seconds")


def shortest_alike(batches: LengthBatches, lengths: np.ndarray) -> np.ndarray:
    """Find, for each row, the shortest of those that it may share a step with. int64 [rows]"""
    kept = np.empty_like(lengths)
    for group in batches.groups:
        kept[group] = lengths[group].min()
    return kept


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
