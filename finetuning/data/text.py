"""Labelled text: tables whose columns the configuration names."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from finetuning.data.base import LabelledData
from finetuning.data.splits import Examples
from finetuning.data.tables import class_names, column, read_splits
from pretraining.errors import RunError
from pretraining.text.modality import TEXT


@dataclass(kw_only=True)
class TextTables(LabelledData):
    """Tables at `path`, a file or a directory. The other fields name columns; `labels` says which one has labels."""

    modality = TEXT
    labels: ClassVar[str]
    path: str

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Read the tables and check their columns."""
        tables = read_splits(Path(self.path), self.split.named)
        names = class_names(tables, getattr(self, self.labels))
        return {name: self.examples(table) for name, table in tables.items()}, names

    @abstractmethod
    def examples(self, table: pa.Table) -> Examples:
        """Take the examples from one split's table; what cannot be learnt from is an error."""

    def column(self, table: pa.Table, field: str) -> pa.ChunkedArray:
        """Take the column that a field names."""
        return column(table, getattr(self, field), f"data.{field}")

    def texts(self, table: pa.Table, field: str) -> list[str]:
        """Take a column of strings; one of another type is an error."""
        values = self.column(table, field)
        if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
            what = f"got data.{field}={getattr(self, field)}, a column of {values.type}, but text is needed"
            raise RunError(f"{what}: name a column of strings")
        return values.to_pylist()


@dataclass(kw_only=True)
class LabelledText(TextTables):
    """Texts (`text`, and `text_pair` where two are judged together) with a `label`: a class, several, or a number."""

    labels = "label"
    text: str
    text_pair: str | None
    label: str

    def examples(self, table: pa.Table) -> Examples:
        """Take texts and labels."""
        roles = ["text"] if self.text_pair is None else ["text", "text_pair"]
        texts = {role: self.texts(table, role) for role in roles}
        return Examples.of(**texts, label=self.column(table, "label").to_pylist())


@dataclass(kw_only=True)
class TaggedText(TextTables):
    """Sentences given as lists of words (`tokens`) with one tag per word (`tags`)."""

    labels = "tags"
    tokens: str
    tags: str

    def examples(self, table: pa.Table) -> Examples:
        """Take sentences and tags; sentences without words are left out, those whose tags do not align are errors."""
        words, tags = (self.column(table, field).to_pylist() for field in ("tokens", "tags"))
        for row, (sentence, labels) in enumerate(zip(words, tags, strict=True)):
            if not isinstance(sentence, list) or not isinstance(labels, list) or len(sentence) != len(labels):
                what = f"got row {row} with tokens {str(sentence)[:60]} and tags {str(labels)[:60]}"
                raise RunError(f"{what}: give two lists of the same length, one tag per word")
        kept = [row for row, sentence in enumerate(words) if sentence]
        return Examples.of(tokens=[words[row] for row in kept], label=[tags[row] for row in kept])


@dataclass(kw_only=True)
class Questions(TextTables):
    """SQuAD's form: `question`, `context` and `answers`, {text: [...], answer_start: [...]} or empty lists."""

    labels = "answers"
    question: str
    context: str
    answers: str

    def examples(self, table: pa.Table) -> Examples:
        """Take questions, contexts and answers; an answer that is not where it says is an error."""
        questions, contexts = self.texts(table, "question"), self.texts(table, "context")
        answers = self.column(table, "answers").to_pylist()
        for row, (context, gold) in enumerate(zip(contexts, answers, strict=True)):
            if not isinstance(gold, dict) or {"text", "answer_start"} - gold.keys():
                raise RunError(f"got answers {str(gold)[:60]} in row {row}: give {{text: [...], answer_start: [...]}}")
            for text, start in zip(gold["text"], gold["answer_start"], strict=True):
                there = context[start : start + len(text)]
                if there != text:
                    what = f"got the answer {text[:40]!r} at {start} in row {row}, where the context reads"
                    raise RunError(f"{what} {there[:40]!r}: answer_start counts characters from 0")
        return Examples.of(question=questions, context=contexts, label=answers)


@dataclass(kw_only=True)
class TextPairs(TextTables):
    """Texts (`source`) with what is to be written after each (`target`).

    `references` names a column of lists: all texts that judging accepts, beside the target, which alone is learnt.
    """

    labels = "target"
    source: str
    target: str
    references: str | None

    def examples(self, table: pa.Table) -> Examples:
        """Take sources and lists of what may be written after each, the target first; an empty text is an error."""
        found = {field: self.texts(table, field) for field in ("source", "target")}
        for field, texts in found.items():
            empty = sum(not text.strip() for text in texts)
            if empty:
                what = f"got {empty} of {len(texts)} empty texts in column {getattr(self, field)!r}"
                raise RunError(f"{what}: fill or drop those rows")
        labels = [[target] for target in found["target"]]
        if self.references is not None:
            more = self.column(table, "references")
            if not pa.types.is_list(more.type) and not pa.types.is_large_list(more.type):
                what = f"got data.references={self.references}, a column of {more.type}"
                raise RunError(f"{what}: name a column of lists of texts")
            for known, row in zip(labels, more.to_pylist(), strict=True):
                known += [text for text in row if text and text != known[0]]
        return Examples.of(source=found["source"], label=labels)
