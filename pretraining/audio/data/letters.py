"""Spoken letters: words of a small language said by made-up voices, synthesised here, so that all about them is known.

A letter is a source (harmonics of a pitch, or noise) through resonances of its own; a voice has a pitch, a length of
the vocal tract and a pace; letters follow each other with short gaps, words with longer ones, over background noise.

Shapes: N samples, H harmonics.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pretraining.audio.data.base import AudioData, AudioSource
from pretraining.audio.data.clips import as_int16
from pretraining.data.splits import SPLITS
from pretraining.random import word

FORMAT = 1  # raised when the same seed and index would sound different


class Sound(NamedTuple):
    """How a letter sounds."""

    resonances: tuple[float, ...]  # Hz, for a vocal tract of medium length
    width: float  # Hz
    voiced: bool = True


LETTERS = {
    "a": Sound((730.0, 1090.0, 2440.0), 90.0),  # vowels: Peterson & Barney 1952, table II, men
    "e": Sound((530.0, 1840.0, 2480.0), 90.0),
    "i": Sound((270.0, 2290.0, 3010.0), 90.0),
    "o": Sound((570.0, 840.0, 2410.0), 90.0),
    "u": Sound((300.0, 870.0, 2240.0), 90.0),
    "l": Sound((360.0, 1300.0, 2700.0), 180.0),
    "m": Sound((250.0, 1100.0), 300.0),
    "r": Sound((490.0, 1350.0, 1690.0), 120.0),
    "s": Sound((3300.0,), 700.0, voiced=False),
}
LEXICON = (
    *("sole", "mare", "rule", "lime", "aria", "rose", "sail", "emu", "serum", "lemur"),
    *("miso", "solar", "rum", "alias", "oreo", "isle", "realm", "orris", "lasso", "sea"),
)
KEYWORDS = LEXICON[:10]
VOICES = {"train": (0, 24), "validation": (24, 32), "test": (32, 40)}  # nobody is heard in two splits
TABLE = 512  # samples of one period


class Voice(NamedTuple):
    """Who speaks."""

    pitch: float  # Hz
    tract: float  # resonances are this many times as high as a medium tract's
    pace: float  # seconds per letter


def voice(number: int) -> Voice:
    """Make a voice up."""
    pitch, tract, pace = np.random.default_rng([word("voice"), number]).random(3)
    return Voice(90.0 * 2.5**pitch, 0.87 + 0.3 * tract, 0.075 + 0.035 * pace)


@dataclass(frozen=True)
class SpokenClip:
    """Words said by a voice; `place` is what the details are drawn from: (seed, split, index)."""

    words: tuple[str, ...]
    speaker: int
    place: tuple[int, ...]

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"spoken letters {self.place}"

    @property
    def text(self) -> str:
        """What is said."""
        return " ".join(self.words)

    def samples(self, rate: int) -> np.ndarray:
        """Say it. int16 [N]"""
        random = np.random.default_rng([*self.place, word("sound")])
        heard = np.concatenate([wave for _, wave in self._parts(rate, random)])
        loudness, noise = 0.2 + 0.3 * random.random(), 10.0 ** -(0.75 + 0.75 * random.random())  # 15 to 30 dB below
        heard = heard + noise * np.sqrt(np.mean(heard**2)) * np.sqrt(12.0) * (random.random(len(heard)) - 0.5)
        return as_int16(loudness * heard / np.abs(heard).max(), self.name)

    def sounds(self, rate: int) -> np.ndarray:
        """Name the letter at each sample, a space where there is none. [N]"""
        parts = list(self._parts(rate, np.random.default_rng([*self.place, word("sound")])))
        return np.repeat([letter for letter, _ in parts], [len(wave) for _, wave in parts])

    def _parts(self, rate: int, random: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
        """Make letters and what is between them, one after the other."""
        who = voice(self.speaker)
        yield " ", np.zeros(_samples(0.05 + 0.1 * random.random(), rate))
        for spoken in self.words:
            for letter, following in zip(spoken, (*spoken[1:], ""), strict=True):
                yield letter, said(LETTERS[letter], who, rate, random)
                gap = 0.04 if following == letter else 0.0  # or nobody would hear two
                yield " ", np.zeros(_samples(gap + 0.015 * random.random(), rate))
            yield " ", np.zeros(_samples(0.1 + 0.1 * random.random(), rate))


def said(sound: Sound, who: Voice, rate: int, random: np.random.Generator) -> np.ndarray:
    """Say one letter. [N]"""
    count = _samples(who.pace * (0.8 + 0.4 * random.random()), rate)
    if sound.voiced:
        pitch = who.pitch * (0.9 + 0.2 * random.random()) * np.linspace(1.0, 0.92 + 0.12 * random.random(), count)
        harmonics = np.arange(1, max(2, min(TABLE // 2, int(0.47 * rate / pitch.max()))))
        spectrum = np.zeros(TABLE // 2 + 1, complex)
        spectrum[harmonics] = -1j * resonance(harmonics * pitch.mean(), sound, who.tract) / harmonics
        period = np.fft.irfft(spectrum)
        phase = np.cumsum(pitch / rate) % 1.0 * TABLE
        wave = np.interp(phase, np.arange(TABLE + 1), np.append(period, period[0]))
    else:
        hiss = np.random.default_rng(int(random.random() * 2**32))  # of its own: any length shifts no other draw
        spectrum = np.fft.rfft(hiss.random(count) - 0.5)
        wave = np.fft.irfft(spectrum * resonance(np.fft.rfftfreq(count, 1 / rate), sound, who.tract), count)
    wave *= (1.0 if sound.voiced else 0.4) / np.sqrt(np.mean(wave**2))
    edge = min(_samples(0.01, rate), count // 2)
    fade = 0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / edge)
    wave[:edge] *= fade
    wave[count - edge :] *= fade[::-1]
    return wave


def resonance(frequencies: np.ndarray, sound: Sound, tract: float) -> np.ndarray:
    """Compute how strongly a vocal tract answers to frequencies, higher resonances more weakly."""
    peaks = [
        0.6**place / (1.0 + np.square((frequencies - tract * centre) / sound.width))
        for place, centre in enumerate(sound.resonances)
    ]
    return 0.01 + np.sum(peaks, 0)


def _samples(seconds: float, rate: int) -> int:
    return round(seconds * rate)


def spoken(seed: int, split: str, index: int, *, longest: int, lexicon: tuple[str, ...] = LEXICON) -> SpokenClip:
    """Make up what is said: a function of these alone, up to `longest` words of the lexicon."""
    place = (seed, word(split), index)
    random = np.random.default_rng([*place, word("words")])
    first, behind = VOICES[split]
    count, speaker = 1 + int(random.random() * longest), first + int(random.random() * (behind - first))
    words = tuple(lexicon[int(draw * len(lexicon))] for draw in random.random(count))
    return SpokenClip(words, speaker, place)


@dataclass(kw_only=True, eq=False)
class SpokenLetters(AudioData):
    """Utterances of up to `max_words` words, `size` of them to train on and a tenth of that to validate and to test.

    `seed` decides what is said, how and by whom. Voices of different splits differ.
    """

    size: int = 2000
    max_words: int = 4
    seed: int = 0
    max_seconds: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 10 or self.max_words < 1:
            what = f"got data.size={self.size} and data.max_words={self.max_words}"
            raise ValueError(f"{what}: give at least 10 utterances of at least 1 word")

    def clips(self, split: str) -> list[SpokenClip]:
        """Make a split's utterances up."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown: choose {', '.join(SPLITS)}")
        count = self.size if split == "train" else self.size // 10
        return [spoken(self.seed, split, index, longest=self.max_words) for index in range(count)]

    def sounds(self, split: str, source: AudioSource) -> np.ndarray:
        """Say which letter sounds at each sample of all recordings. [N]"""
        clips = self.clips(split)
        return np.concatenate([clips[place].sounds(source.rate) for place in source.recordings.kept])

    def identity(self, split: str) -> dict[str, Any]:
        """Name the settings."""
        settings = {"size": self.size, "max_words": self.max_words, "seed": self.seed, "format": FORMAT}
        return {"spoken_letters": settings, "split": split}
