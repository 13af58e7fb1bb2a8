"""Recordings and what is said of them.

Shapes: B recordings, N samples of all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pretraining.audio.data.base import AudioExamples
from pretraining.audio.data.clips import Clip
from pretraining.audio.data.letters import FORMAT, spoken
from pretraining.audio.data.recordings import OnBad, Recordings, read_recordings
from pretraining.cache import key
from pretraining.data.splits import SPLITS
from pretraining.pairs.data.base import PairData
from pretraining.pairs.data.captions import CaptionedSource


class Heard(NamedTuple):
    """A recording that is not yet in memory, and all that is said of it."""

    clip: Clip
    captions: list[str]


@dataclass(kw_only=True, eq=False)
class Sounds(PairData):
    """Recordings at `sample_rate` with captions; of longer ones the first `max_seconds` are read.

    `on_bad`: whether a recording that cannot be read ends the run, or is left out and named.
    """

    sides = ("audio", "text")
    sample_rate: int
    max_seconds: float = 4.0
    on_bad: OnBad = "refuse"

    @abstractmethod
    def heard(self, split: str) -> Sequence[Heard]:
        """List a split's recordings in a fixed order."""

    @abstractmethod
    def identity(self, split: str) -> dict[str, Any]:
        """Name all that the recordings of a split depend on."""

    def fingerprint(self) -> str:
        """Identify the pairs of all splits."""
        return key({**{split: self.identity(split) for split in SPLITS}, "max_seconds": self.max_seconds})

    def texts(self, split: str) -> Iterator[str]:
        """Read all captions of a split."""
        return (caption for one in self.heard(split) for caption in one.captions)

    def open(self, split: str) -> SoundSource:
        """Open a split, decoding its recordings into the cache when that does not hold them."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown: choose {', '.join(SPLITS)}")
        heard, identity = self.heard(split), key(self.identity(split))
        clips = [one.clip for one in heard]
        read = read_recordings(clips, self.sample_rate, self.cache_dir, identity, self.on_bad)
        longest = round(self.max_seconds * self.sample_rate)
        return SoundSource(read, [heard[row].captions for row in read.kept], longest)


class SoundSource(CaptionedSource):
    """A split as rows, one for each recording and caption. Of recordings the first `longest` samples are read."""

    side = "audio"

    def __init__(self, recordings: Recordings, captions: list[list[str]], longest: int) -> None:
        super().__init__(captions)
        self.recordings, self.lengths = recordings, np.minimum(recordings.lengths, longest)

    def examples(self, numbers: np.ndarray) -> AudioExamples:
        """Read recordings."""
        starts, lengths = self.recordings.offsets[numbers], self.lengths[numbers]
        samples = [self.recordings.samples[start : start + n] for start, n in zip(starts, lengths, strict=True)]
        return AudioExamples(np.concatenate(samples), lengths)


@dataclass(kw_only=True, eq=False)
class SpokenCaptions(Sounds):
    """Spoken letters with what is said: up to `max_words` words, `size` utterances to train on and a tenth of that in
    each other split. Voices of different splits differ.
    """

    size: int = 2000
    max_words: int = 2
    seed: int = 0
    eval_batch_size: int = 64
    batch_size: int = 64

    def heard(self, split: str) -> list[Heard]:
        """Make a split's utterances up."""
        count = self.size if split == "train" else self.size // 10
        clips = [spoken(self.seed, split, index, longest=self.max_words) for index in range(count)]
        return [Heard(clip, [clip.text]) for clip in clips]

    def identity(self, split: str) -> dict[str, Any]:
        """Name the settings."""
        settings = {"size": self.size, "max_words": self.max_words, "seed": self.seed, "format": FORMAT}
        return {"spoken_captions": settings, "split": split}
