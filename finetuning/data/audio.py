"""Labelled recordings: the built-in spoken letters, and files or tables of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from finetuning.data.base import LabelledData
from finetuning.data.splits import Examples
from finetuning.data.tables import class_names, read_splits
from finetuning.inputs.base import EncodedSplit
from pretraining.audio.data.base import batches_by_seconds
from pretraining.audio.data.clips import EncodedClip, Mono
from pretraining.audio.data.espeak import Speaking
from pretraining.audio.data.files import cell_clip, table_folder
from pretraining.audio.data.joined import Joining
from pretraining.audio.data.layouts import Placed, recordings_by_split
from pretraining.audio.data.letters import KEYWORDS, spoken
from pretraining.audio.data.recordings import OnBad, check_on_bad, readable
from pretraining.audio.modality import AUDIO
from pretraining.cli.configuration import as_run_errors
from pretraining.data.batches import Batches
from pretraining.data.files import TABLES, kind_of, lines, say, walk
from pretraining.data.labels import check_missing, one_type, present
from pretraining.data.splits import SPLITS
from pretraining.data.tables import Table
from pretraining.errors import RunError


@dataclass(kw_only=True)
class LabelledRecordings(LabelledData):
    """Recordings with a label each. `batch_seconds`: of audio per optimizer step, as in pretraining."""

    modality = AUDIO
    batch_seconds: float | None = None
    eval_batch_size: int = 64

    @property
    def varying_steps(self) -> bool:  # type: ignore[override]
        """Whether steps have as many rows as `batch_seconds` hold."""
        return self.batch_seconds is not None

    def batches(self, split: EncodedSplit) -> Batches:
        """Cut a training split into steps of so many seconds, or of `batch_size` rows."""
        if self.batch_seconds is None:
            return super().batches(split)
        return batches_by_seconds(split.lengths()[split.order], self.batch_seconds)


@dataclass(kw_only=True)
class LabelledSpokenLetters(LabelledRecordings):
    """Utterances of the pretraining data `spoken_letters`, with their text, keyword or speaker as `target`.

    `size` of them to train on and a quarter of that to validate and to test. Text and keywords are tested on voices
    that training has not heard; a keyword is one of ten words, said alone.
    """

    target: Literal["text", "keyword", "speaker"] = "text"
    size: int = 800
    max_words: int = 4
    seed: int = 1

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Make all splits up; for speakers one, of which the others are carved."""
        if self.target not in ("text", "keyword", "speaker") or self.size < 4 or self.max_words < 1:
            what = f"got data.target={self.target}, data.size={self.size} and data.max_words={self.max_words}"
            raise RunError(f"{what}: choose text, keyword or speaker, and numbers of at least 4 and 1")
        if self.target == "speaker":
            clips = [spoken(self.seed, "train", index, longest=self.max_words) for index in range(self.size)]
            return {"train": Examples.of(audio=clips, label=[f"voice {clip.speaker:02d}" for clip in clips])}, None
        words = {"longest": 1, "lexicon": KEYWORDS} if self.target == "keyword" else {"longest": self.max_words}
        parts = {}
        for split in SPLITS:
            count = self.size if split == "train" else self.size // 4
            said = [spoken(self.seed, split, index, **words) for index in range(count)]
            parts[split] = Examples.of(audio=said, label=[clip.text for clip in said])
        return parts, None


@dataclass(kw_only=True)
class LabelledAudio(LabelledRecordings):
    """Recordings with a class or a transcript each, at `path`.

    - tables (parquet, csv, tsv, jsonl; a file or a directory): `audio` names the column of encoded recordings or of
      files' paths (from the subfolder `folder`), `label` that of classes or transcripts; without `quotes` a quotation
      mark in csv is text;
    - path/CLASS/*.wav or path/SPLIT/CLASS/*.wav: classes;
    - NAME.wav beside NAME.txt, or *.trans.txt of lines "NAME transcript": transcripts.

    `split` may name a folder, a glob of folders, or a text file that lists recordings, too; `exclude`: names of folders
    to leave aside. `on_bad`: whether a recording that cannot be read ends the run or is left out and named.
    """

    path: str
    audio: str = "audio"
    label: str = "text"
    mono: Mono = "mean"
    on_bad: OnBad = "refuse"
    exclude: Sequence[str] = ()
    folder: str = "."
    quotes: bool = True

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Find recordings and labels."""
        with as_run_errors():
            check_on_bad(self.on_bad)
            found, names = self._in_folders() if self._is_folder() else self._in_tables()
            if self.on_bad == "skip":
                found = {split: self._readable(part) for split, part in found.items()}
        return found, names

    def _is_folder(self) -> bool:
        root = Path(self.path).expanduser()
        return root.is_dir() and not any(kind_of(file) in TABLES for file in walk(root))

    def _readable(self, examples: Examples) -> Examples:
        return examples.take(np.array(readable(examples.column("audio")), np.int64))

    def _in_folders(self) -> tuple[dict[str, Examples], None]:
        parts = recordings_by_split(self.path, self.split.named, self.exclude, needs_train=False)
        check_missing(self.missing)
        return {split: self._of_files(placed, split) for split, placed in parts.items()}, None

    def _in_tables(self) -> tuple[dict[str, Examples], list[str] | None]:
        columns = {"data.audio": self.audio, "data.label": self.label}
        tables = read_splits(self.path, self.split.named, columns, quotes=self.quotes)
        tables = present(tables, columns, label=self.label, missing=self.missing)
        if not any(table.written for table in tables.values()):  # of csv, "7" may be a transcript
            one_type(tables, self.label)
        found = {split: self._of_table(table) for split, table in tables.items()}
        return found, class_names(next(iter(tables.values())).metadata, self.label)

    def _of_table(self, table: Table) -> Examples:
        folder, key = table_folder(self.path) / self.folder, f"data.audio={self.audio}"
        cells = table.columns[self.audio]
        clips = [cell_clip(cell, table.place(row), folder, self.mono, key) for row, cell in enumerate(cells)]
        return Examples.of(audio=clips, label=table.columns[self.label])._replace(source=table.place)

    def _of_files(self, placed: list[Placed], split: str) -> Examples:
        texts: dict[Path, str] = {}
        for base in dict.fromkeys(each.base for each in placed):
            texts |= _transcripts(base)
        spoken_texts = [texts.get(each.file.with_suffix("")) for each in placed]
        labels = spoken_texts if any(spoken_texts) else [_class(each) for each in placed]
        clips = [EncodedClip(str(each.file), each.file.read_bytes, self.mono) for each in placed]
        kept = [row for row, label in enumerate(labels) if label]
        if len(kept) == len(placed):
            return Examples.of(audio=clips, label=labels)
        first = next(str(each.file) for each, label in zip(placed, labels, strict=True) if not label)
        if self.missing is None or not kept:
            what = f"got {len(placed) - len(kept)} of {len(placed)} recordings without a label, such as {first}"
            cure = "put it into a folder named after its class, or give a transcript of its name (.txt)"
            raise RunError(f"{what}: {cure}" + (", or set data.missing=drop" if kept else ""))
        say(f"{split}: dropped {len(placed) - len(kept)} of {len(placed)} recordings without a label, such as {first}")
        return Examples.of(audio=[clips[row] for row in kept], label=[labels[row] for row in kept])


@dataclass(kw_only=True, eq=False)
class LabelledJoinedClips(Joining, LabelledRecordings):
    """Joined clips with their text, or their speaker, as `target`."""

    target: Literal["text", "speaker"] = "text"
    seed: int = 1

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Make all splits up."""
        self.refuse_names()
        with as_run_errors():
            self.check()
            if self.target not in ("text", "speaker"):
                raise RunError(f"got data.target={self.target}: choose text or speaker")
            parts = {split: self.utterances(split) for split in SPLITS}
        return {
            split: Examples.of(audio=said, label=[getattr(clip, self.target) for clip in said])
            for split, said in parts.items()
        }, None


@dataclass(kw_only=True, eq=False)
class LabelledEspeak(Speaking, LabelledRecordings):
    """Spoken texts, and what they say."""

    seed: int = 1

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """List what is said in each split."""
        self.refuse_names()
        with as_run_errors():
            self.check()
            parts = {split: self.utterances(split) for split in SPLITS}
        return {
            split: Examples.of(audio=said, label=[clip.text for clip in said]) for split, said in parts.items()
        }, None


def _class(placed: Placed) -> str | None:
    parts = placed.file.relative_to(placed.base).parts
    return parts[0] if len(parts) > 1 else None


def _transcripts(folder: Path) -> dict[Path, str]:
    """Read the transcripts of a folder, by the path of their recording without its suffix."""
    found = {}
    for file in walk(folder):
        if file.suffix.lower() != ".txt":
            continue
        if not file.name.lower().endswith(".trans.txt"):
            found[file.with_suffix("")] = "".join(lines(file)).strip()
            continue
        for line in filter(str.strip, lines(file)):
            name, _, said = line.strip().partition(" ")
            found[file.parent / name] = said.strip()
    return found
