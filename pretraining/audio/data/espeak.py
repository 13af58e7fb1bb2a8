"""Texts of any source, spoken by the program espeak-ng: hours of speech whose words are known.

Shapes: N samples.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from pretraining.audio.data.base import AudioData
from pretraining.audio.data.clips import as_int16, decode, resampled
from pretraining.audio.data.joined import EVALUATED, dealt
from pretraining.data.splits import SPLITS
from pretraining.random import word

FORMAT = 1  # raised when the same settings would sound different
MISSING = "is not on the PATH: install it (Debian: apt-get install espeak-ng), or say what it is called (data.program=)"


@dataclass(frozen=True)
class SpokenText:
    """A text and how it is said: `pitch` from 0 to 99, `speed` in words per minute."""

    text: str
    program: str
    voice: str
    pitch: int
    speed: int

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"{self.text[:40]!r}, said by {self.voice}"

    def samples(self, rate: int) -> np.ndarray:
        """Say it. int16 [N]"""
        how = ["-v", self.voice, "-p", str(self.pitch), "-s", str(self.speed)]
        done = subprocess.run(
            [self.program, *how, "--stdin", "--stdout"], input=self.text.encode(), capture_output=True, check=False
        )
        if done.returncode or not done.stdout:
            told = " ".join(done.stderr.decode(errors="replace").split()) or f"exit code {done.returncode}"
            raise ValueError(f"{self.name}: {self.program} says nothing ({told[:200]}): correct data.voices")
        channels, own = decode(done.stdout, self.name)
        return as_int16(resampled(channels[:, 0], own, rate), self.name)


@dataclass(kw_only=True, eq=False)
class Speaking:
    """Sentences of `min_words` to `max_words` of the text data `texts`, `size` of them to train on.

    `voices` are names that the program knows; they are dealt out to the splits, so that none is heard in two. Each
    sentence has a pitch between the two of `pitches` and a speed between those of `speeds`; `seed` draws them.
    """

    texts: Any
    program: str = "espeak-ng"
    voices: Sequence[str] = (
        "en-us",
        "en-us+m3",
        "en-us+m7",
        "en-us+f1",
        "en-us+f4",
        "en-gb",
        "en-gb+m2",
        "en-gb+f2",
        "en-gb+f5",
        "en-gb-scotland",
        "en-029+m4",
        "en-029+f3",
    )
    pitches: Sequence[int] = (20, 80)
    speeds: Sequence[int] = (130, 220)
    size: int = 2000
    min_words: int = 3
    max_words: int = 20
    seed: int

    def check(self) -> None:
        """Refuse settings of which nothing can be said, and a machine without the program."""
        ranges = {"pitches": (self.pitches, 0, 99), "speeds": (self.speeds, 80, 450)}
        for name, (pair, low, high) in ranges.items():
            if len(pair) != 2 or not low <= pair[0] <= pair[1] <= high:
                raise ValueError(f"got data.{name}={list(pair)}: give a lowest and a highest, from {low} to {high}")
        if not 1 <= self.min_words <= self.max_words or self.size < EVALUATED:
            what = f"got data.min_words={self.min_words}, data.max_words={self.max_words} and data.size={self.size}"
            raise ValueError(f"{what}: give at least 1 word, a largest number not below it, and {EVALUATED} sentences")
        if shutil.which(self.program) is None:
            raise ValueError(f"data=espeak speaks with the program {self.program}, which {MISSING}")

    def utterances(self, split: str) -> list[SpokenText]:
        """List what is said in a split; texts that are too few are an error."""
        voices = dealt(self.voices, self.seed, "data.voices")[split]
        count = self.size if split == "train" else max(1, self.size // EVALUATED)
        found = [self._said(text, voices, split, index) for index, text in enumerate(islice(self._texts(split), count))]
        if len(found) < count:
            what = f"data.texts has {len(found)} sentences of {self.min_words} to {self.max_words} words in its {split}"
            raise ValueError(f"{what} split, but {count} are to be said: lower data.size, or give more text")
        return found

    def _texts(self, split: str) -> Iterator[str]:
        """Read sentences of the wanted length, none twice."""
        known = set()
        for document in self.texts.documents(split):
            for sentence in document:
                text = " ".join(sentence.split())
                if self.min_words <= text.count(" ") + 1 <= self.max_words and text not in known:
                    known.add(text)
                    yield text

    def _said(self, text: str, voices: Sequence[str], split: str, index: int) -> SpokenText:
        random = np.random.default_rng([self.seed, word(split), index, word("espeak")])
        pitch, speed = (int(random.integers(low, high + 1)) for low, high in (self.pitches, self.speeds))
        return SpokenText(text, self.program, voices[int(random.integers(len(voices)))], pitch, speed)

    @functools.cached_property
    def _version(self) -> str:
        return subprocess.run([self.program, "--version"], capture_output=True, text=True, check=False).stdout.strip()

    def made_of(self, split: str) -> dict[str, Any]:
        """Name all that a split's utterances depend on."""
        names = ("voices", "pitches", "speeds", "size", "min_words", "max_words", "seed")
        settings = {name: getattr(self, name) for name in names}
        return {
            "texts": self.texts.fingerprint(),
            "version": self._version,
            "split": split,
            "format": FORMAT,
            **settings,
        }


@dataclass(kw_only=True, eq=False)
class Espeak(Speaking, AudioData):
    """Spoken texts to pretrain on."""

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def clips(self, split: str) -> list[SpokenText]:
        """List what is said in a split."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown: choose {', '.join(SPLITS)}")
        return self.utterances(split)

    def identity(self, split: str) -> dict[str, Any]:
        """Name the texts, the program and the settings."""
        return self.made_of(split)
