"""Labelled texts to pretrain on: each document is an example, and has a class.

Shapes: R rows (one per document).
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from pretraining.cache import key
from pretraining.data.splits import split_of
from pretraining.text.corpus.corpus import Corpus
from pretraining.text.corpus.prepare import SPLITS, Preparation
from pretraining.text.data.base import TextData
from pretraining.text.data.docs_topic import Labelled, docs_topic
from pretraining.text.data.files import find, kind_of
from pretraining.text.plan import Rows
from pretraining.text.tokenizer import TextPreprocess


class LabelledCorpus(Corpus):
    """A corpus whose documents have classes, numbered from 0."""

    def __init__(self, directory: Path, labels: np.ndarray, class_names: tuple[str, ...]) -> None:
        super().__init__(directory)
        if len(labels) != self.num_documents:
            raise ValueError(
                f"{len(labels)} labelled texts made {self.num_documents} documents: remove texts that hold nothing but white space or "
                "characters that the tokenizer does not know"
            )
        self.labels, self.class_names, self.class_count = labels, class_names, len(class_names)

    def __reduce__(self) -> tuple[type[LabelledCorpus], tuple[Path, np.ndarray, tuple[str, ...]]]:  # type: ignore[override]
        """Travel to another process as a path and the labels."""
        return type(self), (self.directory, self.labels, self.class_names)


def first_tokens(corpus: Corpus, max_tokens: int, specials: int) -> Rows:
    """Give each document a row of its own: its first tokens, with its class in the column `labels`."""
    if not isinstance(corpus, LabelledCorpus):
        raise ValueError(
            "this objective learns from labels, but the data has none: set data=labelled_text or data=docs_topic, or choose another "
            "objective"
        )
    starts = np.asarray(corpus.sentence_offsets[corpus.document_offsets[:-1]])
    ends = np.asarray(corpus.sentence_offsets[corpus.document_offsets[1:]])
    lengths = np.minimum(ends - starts, max_tokens - specials)
    return Rows(np.arange(len(starts) + 1, dtype=np.int64), starts, lengths, {"labels": corpus.labels})


class LabelledText(TextData):
    """Texts with classes. Objectives that need no labels read them as documents like any others."""

    @abstractmethod
    def labelled(self, split: str) -> Labelled:
        """Give a split's texts and their classes, in a fixed order."""

    def texts(self, split: str) -> Iterator[str]:
        """Give the texts of a split."""
        return iter(self.labelled(split).texts)

    def fingerprint(self) -> str:
        """Identify the texts by their content; the labels are not part of what is prepared."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return key({split: self.labelled(split).texts for split in SPLITS})

    def corpus(self, split: str, preprocess: TextPreprocess) -> Corpus:
        """Open a split's tokens, with the class of each document."""
        part = self.labelled(split)
        directory = super().corpus(split, preprocess).directory
        return LabelledCorpus(directory, np.array(part.labels, dtype=np.int64), tuple(part.class_names))


class DocsTopicText(LabelledText):
    """Which family of the standard library a docstring is from: the texts and splits of the task `docs_topic`."""

    def __init__(self, *, max_tokens: int, batch_size: int, eval_batch_size: int, workers: int, cache_dir: str) -> None:
        super().__init__(
            max_tokens=max_tokens,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            workers=workers,
            cache_dir=cache_dir,
            preparation=Preparation(deduplicate=False),  # one document per label
        )

    def labelled(self, split: str) -> Labelled:
        """Give a split's docstrings and families."""
        return docs_topic(split, cache_dir=str(self.cache_dir))


class LabelledTextFiles(LabelledText):
    """Tables (.parquet, .csv, .jsonl) of texts with a class: the columns `text` and `label`, a string or an integer.

    `path` is a file, a directory or a glob; or one for each of train, validation and test. Splits that are not given are cut out of the
    training texts by their hash, `validation_share` and `test_share` of them.
    """

    def __init__(
        self,
        *,
        path: str | Mapping[str, str],
        columns: Mapping[str, str],
        shares: Mapping[str, float],
        max_tokens: int,
        batch_size: int,
        eval_batch_size: int,
        workers: int,
        cache_dir: str,
    ) -> None:
        super().__init__(
            max_tokens=max_tokens,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            workers=workers,
            cache_dir=cache_dir,
            preparation=Preparation(deduplicate=False),
        )
        given = {"train": path} if isinstance(path, str) else dict(path)
        if "train" not in given or not set(given) <= set(SPLITS):
            raise ValueError(
                f"data.path has the splits {sorted(given)}: give train, and validation and test where there are such files"
            )
        self.columns, self.shares = dict(columns), dict(shares)
        self.files = {split: find(pattern, key="data.path") for split, pattern in given.items()}

    @functools.cached_property
    def tables(self) -> dict[str, tuple[list[str], list[str]]]:
        """Read the texts and labels of every split."""
        read = {split: self._read(files) for split, files in self.files.items()}
        shares = {f"{split}_share": 0.0 if split in read else self.shares[split] for split in SPLITS[1:]}
        cut: dict[str, tuple[list[str], list[str]]] = {split: ([], []) for split in SPLITS}
        for text, label in zip(*read["train"], strict=True):
            texts, labels = cut[split_of(text, **shares)]
            texts.append(text)
            labels.append(label)
        return {split: cut[split] if split == "train" or split not in read else read[split] for split in SPLITS}

    def _read(self, files: list[Path]) -> tuple[list[str], list[str]]:
        texts, labels = [], []
        for path in files:
            table = _table(path)
            missing = [name for name in self.columns.values() if name not in table.column_names]
            if missing:
                raise ValueError(
                    f"{path} has no column {missing[0]!r}: set data.columns to two of {', '.join(table.column_names)}"
                )
            rows = zip(table[self.columns["text"]].to_pylist(), table[self.columns["label"]].to_pylist(), strict=True)
            for number, (text, label) in enumerate(rows):
                if not isinstance(text, str) or not text.strip() or not isinstance(label, str | int):
                    raise ValueError(
                        f"row {number} of {path} has the text {text!r} and the label {label!r}: give a text and a class"
                    )
                texts.append(text)
                labels.append(str(label))
        return texts, labels

    def labelled(self, split: str) -> Labelled:
        """Give a split's texts and the numbers of their classes, which are those of the training texts in the order of their names."""
        names = sorted(set(self.tables["train"][1]))
        numbers = {name: number for number, name in enumerate(names)}
        texts, labels = self.tables[split]
        unknown = set(labels) - numbers.keys()
        if unknown:
            raise ValueError(
                f"the {split} split has the class {min(unknown)!r}, which no training text has: remove it, or add such texts"
            )
        return Labelled(texts, [numbers[label] for label in labels], names)


def _table(path: Path) -> pyarrow.Table:
    readers = {".parquet": pyarrow.parquet.read_table, ".csv": pyarrow.csv.read_csv, ".jsonl": pyarrow.json.read_json}
    if kind_of(path) not in readers:
        raise ValueError(
            f"data.path: {path} holds no labels: give .parquet, .csv or .jsonl with a text and a label column"
        )
    try:
        return readers[kind_of(path)](path)
    except pyarrow.ArrowException as error:
        raise ValueError(
            f"{path} cannot be read as {kind_of(path)[1:]} ({str(error).splitlines()[0]}): replace the file"
        ) from error
