"""Clips of one speaker, joined with gaps between them: real speech whose words are known, as much as one likes.

Shapes: N samples.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from pretraining.audio.data.base import AudioData
from pretraining.audio.data.clips import EncodedClip, Mono
from pretraining.audio.data.files import cell_clip, table_folder
from pretraining.data.labels import present
from pretraining.data.split_files import files_of_splits
from pretraining.data.splits import SPLITS
from pretraining.data.tables import read_table
from pretraining.random import permuted, word

FORMAT = 1  # raised when the same settings would join other clips
EVALUATED = 10  # a split to evaluate on has one utterance for so many to train on


class Word(NamedTuple):
    """A clip, what is said in it and by whom."""

    clip: EncodedClip
    text: str
    speaker: str


@dataclass(frozen=True)
class JoinedClip:
    """Words of one speaker, each but the first after `gaps` seconds of silence."""

    name: str
    words: tuple[Word, ...]
    gaps: tuple[float, ...]

    def __repr__(self) -> str:
        """Tell it from others, without the content of its clips."""
        return repr(([(each.clip.name, each.text, each.speaker) for each in self.words], self.gaps))

    @property
    def text(self) -> str:
        """What is said."""
        return " ".join(each.text for each in self.words)

    @property
    def speaker(self) -> str:
        """Who says it."""
        return self.words[0].speaker

    def samples(self, rate: int) -> np.ndarray:
        """Decode the clips and join them. int16 [N]"""
        parts = [self.words[0].clip.samples(rate)]
        for gap, each in zip(self.gaps, self.words[1:], strict=True):
            parts += [np.zeros(round(gap * rate), np.int16), each.clip.samples(rate)]
        return np.concatenate(parts)


@dataclass(kw_only=True, eq=False)
class Joining:
    """Utterances of `min_words` to `max_words` clips of the tables in `path`, with gaps of up to `longest_gap` seconds.

    `audio`, `text` and `speaker` are columns. `speakers`: apart deals them out, so that nobody is heard in two splits
    (a sixth of them, at least one, to validate on, and to test on); shared takes the tables' own splits. `size`: how
    many utterances there are to train on. `seed` decides who says what.
    """

    path: str
    audio: str = "audio"
    text: str = "text"
    speaker: str = "speaker"
    mono: Mono = "mean"
    size: int = 2000
    min_words: int = 3
    max_words: int = 6
    longest_gap: float = 0.19
    speakers: Literal["apart", "shared"] = "apart"
    seed: int

    def check(self) -> None:
        """Refuse settings of which no utterance can be made."""
        if not 1 <= self.min_words <= self.max_words or self.longest_gap < 0 or self.size < EVALUATED:
            what = f"got data.min_words={self.min_words}, data.max_words={self.max_words}, "
            what += f"data.longest_gap={self.longest_gap}"
            told = f"give at least 1 word, a largest number not below it, no gap below 0 and a size of {EVALUATED}"
            raise ValueError(f"{what} and data.size={self.size}: {told}")
        if self.speakers not in ("apart", "shared"):
            raise ValueError(f"got data.speakers={self.speakers}: choose apart or shared")

    def utterances(self, split: str) -> list[JoinedClip]:
        """Make a split's utterances up: a function of the tables, the settings and the seed."""
        said = self._by_speaker[split]
        count = self.size if split == "train" else max(1, self.size // EVALUATED)
        return [self._utterance(said, split, index) for index in range(count)]

    def _utterance(self, said: Sequence[Sequence[Word]], split: str, index: int) -> JoinedClip:
        random = np.random.default_rng([self.seed, word(split), index, word("joined")])
        count = int(random.integers(self.min_words, self.max_words + 1))
        whose = said[int(random.integers(len(said)))]
        words = tuple(whose[place] for place in random.integers(len(whose), size=count))
        gaps = tuple((self.longest_gap * random.random(count - 1)).tolist())
        return JoinedClip(f"utterance {index} of {split}, joined from {words[0].clip.name} and others", words, gaps)

    @functools.cached_property
    def _by_speaker(self) -> dict[str, list[list[Word]]]:
        """List what each speaker of a split says."""
        found = self._words()
        if self.speakers == "shared":
            lacking = next((split for split in SPLITS if split not in found), None)
            if lacking is not None:
                what = f"data.speakers=shared needs a table for each split, but data.path={self.path} has no {lacking}"
                raise ValueError(f"{what} split: set data.speakers=apart")
            return {split: list(_grouped(found[split]).values()) for split in SPLITS}
        every = _grouped([each for part in found.values() for each in part])
        parts = dealt(sorted(every), self.seed, f"data.speakers=apart and data.speaker={self.speaker}")
        return {split: [every[name] for name in names] for split, names in parts.items()}

    def _words(self) -> dict[str, list[Word]]:
        """Read the words of each split."""
        files, found = self._files(), {}
        folder, key = table_folder(self.path), f"data.audio={self.audio}"
        for split, paths in files.items():
            roles = {f"data.{role}": getattr(self, role) for role in ("audio", "text", "speaker")}
            table = present({split: read_table(paths, list(roles.values()))}, roles, label=None, droppable=False)[split]
            cells, texts, speakers = (table.columns[name] for name in roles.values())
            clips = [cell_clip(cell, table.place(row), folder, self.mono, key) for row, cell in enumerate(cells)]
            found[split] = [Word(*each) for each in zip(clips, map(str, texts), map(str, speakers), strict=True)]
        return found

    def _files(self) -> dict[str, list[Path]]:
        return files_of_splits(self.path, dict.fromkeys(SPLITS))

    def made_of(self, split: str) -> dict[str, Any]:
        """Name all that a split's utterances depend on."""
        stats = {name: [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
                 for name, files in self._files().items()}  # fmt: skip
        names = (
            "audio",
            "text",
            "speaker",
            "mono",
            "size",
            "min_words",
            "max_words",
            "longest_gap",
            "speakers",
            "seed",
        )
        return {"files": stats, "split": split, "format": FORMAT, **{name: getattr(self, name) for name in names}}


def dealt(names: Sequence[str], seed: int, what: str) -> dict[str, list[str]]:
    """Deal speakers out to the splits: a sixth of them, at least one, to validation and to test. `what` names them."""
    if len(names) < len(SPLITS):
        raise ValueError(f"{what} has {len(names)} speakers, {', '.join(names)}, for {len(SPLITS)} splits: give more")
    places = permuted(np.arange(len(names)), len(names), seed=seed, epoch=0, stream="speakers")
    share = max(1, len(names) // 6)
    bounds = {"train": (2 * share, len(names)), "validation": (share, 2 * share), "test": (0, share)}
    return {split: [names[place] for place in np.sort(places[a:b])] for split, (a, b) in bounds.items()}


def _grouped(words: Sequence[Word]) -> dict[str, list[Word]]:
    found: dict[str, list[Word]] = {}
    for each in words:
        found.setdefault(each.speaker, []).append(each)
    return found


@dataclass(kw_only=True, eq=False)
class JoinedClips(Joining, AudioData):
    """Joined clips to pretrain on."""

    seed: int = 0
    max_seconds: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def clips(self, split: str) -> list[JoinedClip]:
        """Make a split's utterances up."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown: choose {', '.join(SPLITS)}")
        return self.utterances(split)

    def identity(self, split: str) -> dict[str, Any]:
        """Name the tables and the settings."""
        return self.made_of(split)
