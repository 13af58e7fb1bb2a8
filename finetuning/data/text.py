"""Labelled text: tables whose columns the configuration names."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from finetuning.data.base import LabelledData
from finetuning.data.splits import Examples, Split
from finetuning.data.tables import class_names, column, read_splits
from pretraining.errors import RunError
from pretraining.text.modality import TEXT


class LabelledText(LabelledData):
    """A table of texts (`text`, and `text_pair` where two are judged together) with a `label` column: a class or a real number."""

    modality = TEXT

    def __init__(
        self,
        *,
        path: str,
        text: str,
        text_pair: str | None,
        label: str,
        split: Split,
        batch_size: int,
        eval_batch_size: int,
        workers: int,
    ) -> None:
        super().__init__(split=split, batch_size=batch_size, eval_batch_size=eval_batch_size, workers=workers)
        self.path, self.text, self.text_pair, self.label = Path(path), text, text_pair, label

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Read the tables and check their columns."""
        tables = read_splits(self.path, self.split.named)
        return {name: self._examples(table) for name, table in tables.items()}, class_names(tables, self.label)

    def _examples(self, table: pa.Table) -> Examples:
        texts = {"text": _strings(table, self.text, "data.text")}
        if self.text_pair is not None:
            texts["text_pair"] = _strings(table, self.text_pair, "data.text_pair")
        return Examples.of(**texts, label=column(table, self.label, "data.label").to_pylist())


class TaggedText(LabelledData):
    """A table of sentences given as lists of words (`tokens`) with one tag per word (`tags`)."""

    modality = TEXT

    def __init__(
        self, *, path: str, tokens: str, tags: str, split: Split, batch_size: int, eval_batch_size: int, workers: int
    ) -> None:
        super().__init__(split=split, batch_size=batch_size, eval_batch_size=eval_batch_size, workers=workers)
        self.path, self.tokens, self.tags = Path(path), tokens, tags

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Read the tables; sentences without words are left out, sentences whose tags do not align are errors."""
        tables = read_splits(self.path, self.split.named)
        return {name: self._examples(table) for name, table in tables.items()}, class_names(tables, self.tags)

    def _examples(self, table: pa.Table) -> Examples:
        words = column(table, self.tokens, "data.tokens").to_pylist()
        tags = column(table, self.tags, "data.tags").to_pylist()
        for row, (sentence, labels) in enumerate(zip(words, tags, strict=True)):
            if not isinstance(sentence, list) or not isinstance(labels, list) or len(sentence) != len(labels):
                raise RunError(
                    f"got row {row} with tokens {str(sentence)[:60]} and tags {str(labels)[:60]}: "
                    "give two lists of the same length, one tag per word"
                )
        kept = [row for row, sentence in enumerate(words) if sentence]
        return Examples.of(tokens=[words[row] for row in kept], label=[tags[row] for row in kept])


class Questions(LabelledData):
    """A table of SQuAD's form: `question`, `context`, and `answers` = {text: [...], answer_start: [...]}, empty where there is none."""

    modality = TEXT

    def __init__(
        self,
        *,
        path: str,
        question: str,
        context: str,
        answers: str,
        split: Split,
        batch_size: int,
        eval_batch_size: int,
        workers: int,
    ) -> None:
        super().__init__(split=split, batch_size=batch_size, eval_batch_size=eval_batch_size, workers=workers)
        self.path, self.question, self.context, self.answers = Path(path), question, context, answers

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Read the tables; an answer that is not where it says is an error."""
        tables = read_splits(self.path, self.split.named)
        return {name: self._examples(table) for name, table in tables.items()}, None

    def _examples(self, table: pa.Table) -> Examples:
        questions, contexts = (
            _strings(table, name, key)
            for name, key in ((self.question, "data.question"), (self.context, "data.context"))
        )
        answers = column(table, self.answers, "data.answers").to_pylist()
        for row, (context, gold) in enumerate(zip(contexts, answers, strict=True)):
            if not isinstance(gold, dict) or {"text", "answer_start"} - gold.keys():
                raise RunError(f"got answers {str(gold)[:60]} in row {row}: give {{text: [...], answer_start: [...]}}")
            for text, start in zip(gold["text"], gold["answer_start"], strict=True):
                if context[start : start + len(text)] != text:
                    raise RunError(
                        f"got the answer {text[:40]!r} at {start} in row {row}, where the context reads "
                        f"{context[start : start + len(text)][:40]!r}: answer_start counts characters from 0"
                    )
        return Examples.of(question=questions, context=contexts, label=answers)


class TextPairs(LabelledData):
    """A table of texts (`source`) with what is to be written after each (`target`).

    `references` names a column of lists: all texts that judging accepts, beside the target, which alone is learnt.
    """

    modality = TEXT

    def __init__(
        self,
        *,
        path: str,
        source: str,
        target: str,
        references: str | None,
        split: Split,
        batch_size: int,
        eval_batch_size: int,
        workers: int,
    ) -> None:
        super().__init__(split=split, batch_size=batch_size, eval_batch_size=eval_batch_size, workers=workers)
        self.path, self.source, self.target, self.references = Path(path), source, target, references

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Read the tables; an empty text is an error."""
        tables = read_splits(self.path, self.split.named)
        return {name: self._examples(table) for name, table in tables.items()}, None

    def _examples(self, table: pa.Table) -> Examples:
        sources, targets = (
            _strings(table, name, key) for name, key in ((self.source, "data.source"), (self.target, "data.target"))
        )
        for name, texts in ((self.source, sources), (self.target, targets)):
            empty = sum(not text.strip() for text in texts)
            if empty:
                raise RunError(f"got {empty} of {len(texts)} empty texts in column {name!r}: fill or drop those rows")
        labels = [[target] for target in targets]
        if self.references is not None:
            more = column(table, self.references, "data.references")
            if not pa.types.is_list(more.type) and not pa.types.is_large_list(more.type):
                raise RunError(
                    f"got data.references={self.references}, a column of {more.type}: name a column of lists of texts"
                )
            labels = [
                [target, *(text for text in row if text and text != target)]
                for target, row in zip(targets, more.to_pylist(), strict=True)
            ]
        return Examples.of(source=sources, label=labels)


def _strings(table: pa.Table, name: str, key: str) -> list[str]:
    values = column(table, name, key)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise RunError(f"got {key}={name}, a column of {values.type}, but text is needed: name a column of strings")
    return values.to_pylist()
