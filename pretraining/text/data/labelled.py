"""Labelled texts to pretrain on: each document is an example, and has a class.

Shapes: R rows (one per document).
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pretraining.data.files import TABLES, Paths, kind_of
from pretraining.data.labels import one_type, present
from pretraining.data.splits import SPLITS, carved, missing_shares
from pretraining.data.tables import MissingColumnError, Table, read_table
from pretraining.text.corpus.corpus import Corpus
from pretraining.text.corpus.prepare import Preparation
from pretraining.text.data.base import TextData
from pretraining.text.data.docs_topic import Labelled, docs_topic
from pretraining.text.data.files import files_of_splits
from pretraining.text.plan import Rows
from pretraining.text.tokenizer import TextPreprocess


class LabelledCorpus(Corpus):
    """A corpus whose documents have classes, numbered from 0."""

    def __init__(self, directory: Path, labels: np.ndarray, class_names: tuple[str, ...]) -> None:
        super().__init__(directory)
        if len(labels) != self.num_documents:
            raise ValueError(
                f"{len(labels)} labelled texts made {self.num_documents} documents: remove texts that hold nothing but "
                "white space or characters that the tokenizer does not know"
            )
        self.labels, self.class_names, self.class_count = labels, class_names, len(class_names)

    def __reduce__(self) -> tuple[type[LabelledCorpus], tuple[Path, np.ndarray, tuple[str, ...]]]:  # type: ignore[override]
        """Travel to another process as a path and the labels."""
        return type(self), (self.directory, self.labels, self.class_names)


def first_tokens(corpus: Corpus, max_tokens: int, specials: int) -> Rows:
    """Make a row of each document's first tokens, with its class in the column `labels`."""
    if not isinstance(corpus, LabelledCorpus):
        raise ValueError(
            "this objective learns from labels, but the data has none: set data=labelled_text or data=docs_topic, or "
            "choose another objective"
        )
    starts = np.asarray(corpus.sentence_offsets[corpus.document_offsets[:-1]])
    ends = np.asarray(corpus.sentence_offsets[corpus.document_offsets[1:]])
    lengths = np.minimum(ends - starts, max_tokens - specials)
    return Rows(np.arange(len(starts) + 1, dtype=np.int64), starts, lengths, {"labels": corpus.labels})


class LabelledDocuments(TextData):
    """Documents with classes. Objectives that need no labels read them like any others."""

    preparation = Preparation(deduplicate=False)  # one document per label

    @abstractmethod
    def labelled(self, split: str) -> Labelled:
        """Read a split's texts and their classes, in a fixed order."""

    def texts(self, split: str) -> Iterator[str]:
        """Read the texts of a split."""
        return iter(self.labelled(split).texts)

    def identity(self) -> dict[str, Any]:
        """Name the texts by their content; the labels are not part of what is prepared."""
        return {split: self.labelled(split).texts for split in SPLITS}

    def corpus(self, split: str, preprocess: TextPreprocess) -> Corpus:
        """Open a split's tokens, with the class of each document."""
        part = self.labelled(split)
        directory = super().corpus(split, preprocess).directory
        return LabelledCorpus(directory, np.array(part.labels, dtype=np.int64), tuple(part.class_names))


class DocsTopicText(LabelledDocuments):
    """Which family of the standard library a docstring is from: the texts and splits of the task `docs_topic`."""

    def labelled(self, split: str) -> Labelled:
        """Read a split's docstrings and families."""
        return docs_topic(split, cache_dir=str(self.cache_dir))


@dataclass(kw_only=True, eq=False)
class LabelledTextFiles(LabelledDocuments):
    """Tables (.parquet, .csv, .jsonl, ...) of texts with a class: the columns `text` and `label`, text or an integer.

    `path` is read like that of `TextFiles`. Splits that are not given are cut out of the training texts by their hash,
    `validation_share` and `test_share` of them.
    """

    path: Paths | Mapping[str, Paths]
    columns: Mapping[str, str] = field(default_factory=lambda: {"text": "text", "label": "label"})
    shares: Mapping[str, float] = field(default_factory=lambda: {"validation": 0.1, "test": 0.1})
    missing: str | None = None  # rows without a text or label are an error; drop: left out

    def __post_init__(self) -> None:
        super().__post_init__()
        self.files = _tables_of(self.path)

    @functools.cached_property
    def tables(self) -> dict[str, list[tuple[str, str]]]:
        """Read the texts and labels of every split."""
        tables = {split: self._read(files) for split, files in self.files.items()}
        text, label = self.columns["text"], self.columns["label"]
        roles = {"data.columns.text": text, "data.columns.label": label}
        tables = present(tables, roles, label=label, missing=self.missing)
        one_type(tables, label)
        read = {split: [_pair(table, row, text, label) for row in range(table.size)] for split, table in tables.items()}
        shares = missing_shares(read, validation=self.shares["validation"], test=self.shares["test"])
        return {
            split: list(carved(read.get(split, read["train"]), split, read, shares, text=lambda pair: pair[0]))
            for split in SPLITS
        }

    def _read(self, files: list[Path]) -> Table:
        try:
            return read_table(files, list(self.columns.values()))
        except MissingColumnError as error:
            there = ", ".join(error.there)
            raise ValueError(
                f"{error.place} has no column {error.name!r}: set data.columns to two of {there}"
            ) from error

    def labelled(self, split: str) -> Labelled:
        """Read a split's texts and the numbers of their classes, which are those of the training texts in order."""
        names = sorted({label for _, label in self.tables["train"]})
        numbers = {name: number for number, name in enumerate(names)}
        labels = [label for _, label in self.tables[split]]
        unknown = set(labels) - numbers.keys()
        if unknown:
            raise ValueError(
                f"the {split} split has the class {min(unknown)!r}, which no training text has: remove it, or add texts"
            )
        return Labelled([text for text, _ in self.tables[split]], [numbers[label] for label in labels], names)


def _tables_of(path: Paths | Mapping[str, Paths]) -> dict[str, list[Path]]:
    files = files_of_splits(path)
    odd = next((file for part in files.values() for file in part if kind_of(file) not in TABLES), None)
    if odd is not None:
        raise ValueError(
            f"data.path: {odd} holds no labels: give .parquet, .csv or .jsonl with a text and a label column"
        )
    return files


def _pair(table: Table, row: int, text: str, label: str) -> tuple[str, str]:
    """Take a text and its class."""
    read, own = table.columns[text][row], table.columns[label][row]
    if not isinstance(read, str) or not read.strip() or not isinstance(own, str | int):
        raise ValueError(f"{table.place(row)} has the text {read!r} and the label {own!r}: give a text and a class")
    return read, str(own)
