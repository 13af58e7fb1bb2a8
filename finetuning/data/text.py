"""Labelled text: tables whose columns the configuration names."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from finetuning.data.base import LabelledData
from finetuning.data.splits import Examples
from finetuning.data.tables import class_names, read_splits
from pretraining.cli.configuration import as_run_errors
from pretraining.data.columns import are_texts, is_text, refusal
from pretraining.data.files import Paths, say
from pretraining.data.labels import one_type, present
from pretraining.data.tables import Table
from pretraining.errors import RunError
from pretraining.text.modality import TEXT


@dataclass(kw_only=True)
class TextTables(LabelledData):
    """Tables at `path`: a file, a directory, a glob or a list of such. `roles` lists the fields that name columns, the
    last one of labels.
    """

    modality = TEXT
    roles: ClassVar[tuple[str, ...]]
    classes: ClassVar[bool] = True  # labels are classes, lists of them, or numbers
    path: Paths

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Read the columns, all rows of which are whole, and check them."""
        names = {f"data.{field}": name for field in self.roles if (name := getattr(self, field)) is not None}
        tables, label = read_splits(self.path, self.split.named, names), getattr(self, self.roles[-1])
        with as_run_errors():
            tables = present(tables, names, label=label if self.classes else None, missing=self.missing)
            if self.classes:
                one_type(tables, label)
        found = {split: self.examples(table)._replace(source=table.place) for split, table in tables.items()}
        return found, class_names(next(iter(tables.values())).metadata, label)

    @abstractmethod
    def examples(self, table: Table) -> Examples:
        """Take the examples from one split's table; what cannot be learnt from is an error."""

    def column(self, table: Table, field: str, accepts: Callable[[Any], bool], needed: str) -> list:
        """Take the column that a field names; a value that is not as `needed` is an error that names it."""
        name = getattr(self, field)
        odd = next((row for row, value in enumerate(table.columns[name]) if not accepts(value)), None)
        if odd is not None:
            value = table.columns[name][odd]
            kind = table.types.get(name, type(value).__name__)
            raise RunError(refusal(f"data.{field}", name, value, kind, needed, table.place(odd)))
        return table.columns[name]

    def texts(self, table: Table, field: str) -> list[str]:
        """Take a column of texts."""
        return self.column(table, field, is_text, ", but text is needed")


@dataclass(kw_only=True)
class LabelledText(TextTables):
    """Texts (`text`, and `text_pair` where two are judged together) with a `label`: a class, several, or a number."""

    roles = ("text", "text_pair", "label")
    text: str
    text_pair: str | None
    label: str

    def examples(self, table: Table) -> Examples:
        """Take texts and labels."""
        roles = ["text"] if self.text_pair is None else ["text", "text_pair"]
        texts = {role: self.texts(table, role) for role in roles}
        return Examples.of(**texts, label=table.columns[self.label])


@dataclass(kw_only=True)
class TaggedText(TextTables):
    """Sentences given as lists of words (`tokens`) with one tag per word (`tags`)."""

    roles = ("tokens", "tags")
    tokens: str
    tags: str

    def examples(self, table: Table) -> Examples:
        """Take sentences and tags; sentences without words are left out, those whose tags do not align are errors."""
        words, tags = (
            self.column(table, "tokens", are_texts, ", but lists of words are needed"),
            table.columns[self.tags],
        )
        for row, (sentence, labels) in enumerate(zip(words, tags, strict=True)):
            if not isinstance(labels, list) or len(sentence) != len(labels):
                what = f"got row {row} with tokens {str(sentence)[:60]} and tags {str(labels)[:60]}"
                raise RunError(f"{what}, {table.place(row)}: give two lists of the same length, one tag per word")
        kept = np.array([row for row, sentence in enumerate(words) if sentence], np.int64)
        if len(kept) < len(words):
            say(f"left out {len(words) - len(kept)} of {len(words)} sentences without words")
        return Examples.of(tokens=words, label=tags).take(kept)


@dataclass(kw_only=True)
class Questions(TextTables):
    """SQuAD's form: `question`, `context` and `answers`, {text: [...], answer_start: [...]} or empty lists."""

    roles = ("question", "context", "answers")
    classes = False
    question: str
    context: str
    answers: str

    def examples(self, table: Table) -> Examples:
        """Take questions, contexts and answers; an answer that is not where it says is an error."""
        questions, contexts = self.texts(table, "question"), self.texts(table, "context")
        answers = self.column(table, "answers", _are_answers, ": give {text: [...], answer_start: [...]}")
        for row, (context, gold) in enumerate(zip(contexts, answers, strict=True)):
            for text, start in zip(gold["text"], gold["answer_start"], strict=True):
                there = context[start : start + len(text)]
                if there != text or start < 0:
                    found = f"in row {row} ({table.place(row)}), where the context reads {there[:40]!r}"
                    found += ": answer_start counts characters from 0"
                    raise RunError(f"got the answer {text[:40]!r} at {start} {found}")
        return Examples.of(question=questions, context=contexts, label=answers)


def _are_answers(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    texts, starts = value.get("text"), value.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return False
    return are_texts(texts) and all(type(start) is int for start in starts)


def _are_references(value: Any) -> bool:
    return isinstance(value, list) and all(text is None or is_text(text) for text in value)


@dataclass(kw_only=True)
class TextPairs(TextTables):
    """Texts (`source`) with what is to be written after each (`target`).

    `references` names a column of lists: all texts that judging accepts, beside the target, which alone is learnt.
    """

    roles = ("source", "references", "target")
    classes = False
    source: str
    target: str
    references: str | None

    def examples(self, table: Table) -> Examples:
        """Take sources and lists of what may be written after each, the target first; an empty text is an error."""
        found = {field: self.texts(table, field) for field in ("source", "target")}
        for field, texts in found.items():
            empty = [row for row, text in enumerate(texts) if not text.strip()]
            if empty:
                what = f"got {len(empty)} of {len(texts)} empty texts in column {getattr(self, field)!r}"
                raise RunError(f"{what}, the first at {table.place(empty[0])}: fill or drop those rows")
        labels = [[target] for target in found["target"]]
        if self.references is not None:
            more = self.column(table, "references", _are_references, ": name a column of lists of texts")
            for known, row in zip(labels, more, strict=True):
                known += [text for text in row if text and text != known[0]]
        return Examples.of(source=found["source"], label=labels)
