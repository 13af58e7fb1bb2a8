"""Text data sets: where documents come from, in which split they are, and how long a row of them is."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretraining.cache import key, sha256
from pretraining.data.base import Data
from pretraining.data.files import Paths, kind_of
from pretraining.data.splits import Shares, carved, missing_shares
from pretraining.text.corpus.corpus import Corpus
from pretraining.text.corpus.prepare import Preparation, prepare_split
from pretraining.text.data.files import LAYOUTS, files_of_splits, read_texts
from pretraining.text.modality import TEXT
from pretraining.text.plan import PlannedText, Rows
from pretraining.text.tokenizer import TextPreprocess

HASHED_WHOLE = 64 * 2**20  # bytes: sources up to this size are known by their content, larger ones by sizes and times


@dataclass(kw_only=True, eq=False)
class TextData(Data):
    """Documents in three splits. `max_tokens`: of a row, special tokens included."""

    modality = TEXT
    preparation = Preparation()
    max_tokens: int = 128
    eval_batch_size: int = 64
    batch_size: int = 32

    @abstractmethod
    def texts(self, split: str) -> Iterator[str]:
        """Read the documents of a split in a fixed order."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Name all that the documents of all splits depend on."""

    @functools.cached_property
    def _fingerprint(self) -> str:
        return key(self.identity())

    def fingerprint(self) -> str:
        """Identify the documents of all splits."""
        return self._fingerprint

    def num_bytes(self, split: str) -> int | None:
        """Estimate the size of a split's text, where that is possible without reading it."""
        return None

    def sample(self, split: str, max_bytes: int) -> Iterator[str]:
        """Read documents of a split until they make `max_bytes`."""
        return capped(self.texts(split), max_bytes)

    def documents(self, split: str) -> Iterator[list[str]]:
        """Read the documents of a split as lists of sentences."""
        return map(self.preparation.splitter, self.texts(split))

    def corpus(self, split: str, preprocess: TextPreprocess) -> Corpus:
        """Open a split's tokens, which are prepared when the cache does not hold them."""
        return prepare_split(self, split, preprocess)

    def corpora(self, split: str, preprocess: TextPreprocess) -> list[Corpus]:
        """Open all corpora that a split is read from."""
        return [self.corpus(split, preprocess)]

    def prepare(self, split: str, preprocess: TextPreprocess) -> list[dict[str, Any]]:
        """Make what training would make of a split on first use; returns what each corpus holds."""
        return [{"split": split, **corpus.facts()} for corpus in self.corpora(split, preprocess)]

    def source(
        self, split: str, preprocess: TextPreprocess, plan: Callable[[Corpus, int, int], Rows], *, seed: int
    ) -> Any:
        """Open a split as rows of `plan(corpus, seed, epoch)`; a training split of less than one batch is an error."""
        corpus = self.corpus(split, preprocess)
        planned = PlannedText(corpus, functools.partial(plan, corpus, seed))
        rows = f"rows of data.max_tokens={self.max_tokens} (of {corpus.num_tokens} tokens)"
        cure = "give more text (data.path=), or lower data.batch_size or data.max_tokens"
        self.refuse_too_few(split, planned.count(0), rows, cure)
        return planned


def capped(texts: Iterator[str], max_bytes: int) -> Iterator[str]:
    """Pass texts on until they make `max_bytes` of UTF-8; the last one is cut."""
    for text in texts:
        if max_bytes <= 0:
            return
        data = text.encode()
        yield text if len(data) <= max_bytes else data[:max_bytes].decode(errors="ignore")
        max_bytes -= len(data)


def shares_of(preparation: Preparation, given: Collection[str] = ()) -> Shares:
    """Read the shares of the splits that are not `given`."""
    return missing_shares(given, validation=preparation.validation_share, test=preparation.test_share)


@dataclass(kw_only=True, eq=False)
class TextFiles(TextData):
    """Local text files and tables: see `files.py`.

    `path` is a file, a directory, a glob or a list of such, in which files serve the splits that they are named after;
    or one for each of train, validation and test. A split that is not given is cut out of the training documents by
    their hash, with `preparation.validation_share` and `test_share`.
    """

    path: Paths | Mapping[str, Paths]
    preparation: Preparation = TextData.preparation

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preparation.layout not in LAYOUTS:
            raise ValueError(f"data.preparation.layout={self.preparation.layout}: choose one of {', '.join(LAYOUTS)}")
        self.files = files_of_splits(self.path)

    def identity(self) -> dict[str, Any]:
        """Name the files: by content up to 64 MB, by names, sizes and modification times (in nanoseconds) above."""
        paths = [(split, path) for split, files in self.files.items() for path in files]
        stats = [(path.stat().st_size, path.stat().st_mtime_ns) for _, path in paths]
        whole = sum(size for size, _ in stats) <= HASHED_WHOLE
        facts = [sha256(path) for _, path in paths] if whole else stats
        known = [(split, path.name, fact) for (split, path), fact in zip(paths, facts, strict=True)]
        column, layout = self.preparation.text_column, self.preparation.layout
        return {"files": known, "column": column, "layout": layout, "shares": [*shares_of(self.preparation).values()]}

    def num_bytes(self, split: str) -> int | None:
        """Add up the files, unless they are compressed."""
        files = self.files.get(split, self.files["train"])
        if any(path.suffix.lower() != kind_of(path) or kind_of(path) == ".parquet" for path in files):
            return None
        shares = shares_of(self.preparation, self.files)
        cut = {"validation": shares["validation_share"], "test": shares["test_share"]}
        share = cut[split] or 1.0 if split in cut else 1.0 - sum(cut.values())
        return int(sum(path.stat().st_size for path in files) * share)

    def texts(self, split: str) -> Iterator[str]:
        """Read the documents of a split, file by file."""
        for path in self.files.get(split, self.files["train"]):
            yield from self._of_file(path, split)

    def _of_file(self, path: Path, split: str) -> Iterator[str]:
        texts = read_texts(path, column=self.preparation.text_column, layout=self.preparation.layout)
        return carved(texts, split, self.files, shares_of(self.preparation, self.files))

    def sample(self, split: str, max_bytes: int) -> Iterator[str]:
        """Read documents until they make `max_bytes`, the same number of bytes of each file at most."""
        files = self.files.get(split, self.files["train"])
        for path in files:
            yield from capped(self._of_file(path, split), max_bytes // len(files))
