"""Labelled recordings: the built-in spoken letters, and files or tables of the user's."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetuning.data.base import LabelledData
from finetuning.data.splits import Examples
from finetuning.data.tables import class_names, find_folders, read_splits
from pretraining.audio.data.clips import Clip, EncodedClip, Mono
from pretraining.audio.data.files import audio_files
from pretraining.audio.data.letters import KEYWORDS, spoken
from pretraining.audio.modality import AUDIO
from pretraining.cli.configuration import as_run_errors
from pretraining.data.files import TABLES, kind_of, lines, walk
from pretraining.data.labels import one_type, present
from pretraining.data.splits import SPLITS
from pretraining.data.tables import Table
from pretraining.errors import RunError


@dataclass(kw_only=True)
class LabelledSpokenLetters(LabelledData):
    """Utterances of the pretraining data `spoken_letters`, with their text, keyword or speaker as `target`.

    `size` of them to train on and a quarter of that to validate and to test. Text and keywords are tested on voices
    that training has not heard; a keyword is one of ten words, said alone.
    """

    modality = AUDIO
    target: Literal["text", "keyword", "speaker"]
    size: int
    max_words: int
    seed: int

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
class LabelledAudio(LabelledData):
    """Recordings with a class or a transcript each, at `path`.

    - tables (parquet, csv, tsv, jsonl; a file or a directory): `audio` names the column of encoded recordings or of
      files' paths (from the table's folder), `label` that of classes or transcripts;
    - path/CLASS/*.wav or path/SPLIT/CLASS/*.wav: classes;
    - NAME.wav beside NAME.txt, or *.trans.txt of lines "NAME transcript": transcripts.
    """

    modality = AUDIO
    path: str
    audio: str
    label: str
    mono: Mono

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Find recordings and labels."""
        root = Path(self.path).expanduser()
        with as_run_errors():
            if root.is_dir() and not any(kind_of(file) in TABLES for file in walk(root)):
                folders = find_folders(self.path, self.split.named, of="recording")
                return {split: self._of_folder(Path(folder)) for split, folder in folders.items()}, None
            columns = {"data.audio": self.audio, "data.label": self.label}
            tables = read_splits(self.path, self.split.named, columns)
            tables = present(tables, columns, label=self.label, missing=self.missing)
            if not any(table.written for table in tables.values()):  # of csv, "7" may be a transcript
                one_type(tables, self.label)
        folder = root if root.is_dir() else root.parent
        found = {split: self._of_table(table, folder) for split, table in tables.items()}
        return found, class_names(next(iter(tables.values())).metadata, self.label)

    def _of_table(self, table: Table, folder: Path) -> Examples:
        cells = table.columns[self.audio]
        clips: list[Clip] = [self._of_cell(cell, table.place(row), folder) for row, cell in enumerate(cells)]
        return Examples.of(audio=clips, label=table.columns[self.label])._replace(source=table.place)

    def _of_cell(self, cell: Any, place: str, folder: Path) -> EncodedClip:
        """Take an encoded recording, as bytes or {bytes, path}, or the path of one."""
        if isinstance(cell, Mapping):
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, bytes):
            return EncodedClip(place, functools.partial(bytes, cell), self.mono)
        if not isinstance(cell, str):
            what = f"got data.audio={self.audio}, whose value at {place} is a {type(cell).__name__}"
            raise RunError(f"{what}: name a column of encoded recordings or of their paths")
        return self._file(folder / cell, place)

    def _of_folder(self, folder: Path) -> Examples:
        files = audio_files(folder)
        if not files:
            raise RunError(f"got data.path={self.path}, which holds no recording in {folder}: give one that does")
        texts = _transcripts(folder)
        labels = (
            [texts.get(file.with_suffix("")) for file in files] if texts else [_class(file, folder) for file in files]
        )
        lacking = [str(file) for file, label in zip(files, labels, strict=True) if label is None]
        if lacking:
            what = f"got {len(lacking)} of {len(files)} recordings without a label, such as {lacking[0]}"
            raise RunError(
                f"{what}: put it into a folder named after its class, or give a transcript of its name (.txt)"
            )
        return Examples.of(audio=[self._file(file) for file in files], label=labels)

    def _file(self, path: Path, place: str | None = None) -> EncodedClip:
        if not path.is_file():
            raise RunError(
                f"got the recording {path} at {place}, which does not exist: correct data.audio={self.audio}"
            )
        return EncodedClip(str(path), path.read_bytes, self.mono)


def _class(file: Path, folder: Path) -> str | None:
    parts = file.relative_to(folder).parts
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
