"""Text that every python installation carries: nothing is downloaded, and nothing imported to be read."""

from __future__ import annotations

import functools
import json
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretraining.cache import build_once, key
from pretraining.data.splits import split_of
from pretraining.text.data.base import TextData
from pretraining.text.data.docstrings import Docstring, language_topics, library_docstrings, source_files

FORMAT = 1  # raised when the same python would give other documents
VALIDATION_SHARE, TEST_SHARE = 0.1, 0.1  # fixed: the labelled task takes its documents from the same splits


def stdlib_documents(cache_dir: Path) -> list[Docstring]:
    """Read the documents of this python in the order of files, without duplicates (but for capitals and spaces)."""
    return _documents(cache_dir.expanduser())


@functools.lru_cache(maxsize=1)
def _documents(cache_dir: Path) -> list[Docstring]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [(path.relative_to(root).as_posix(), path.stat().st_size) for path in source_files(root)]
    name = key({"python": platform.python_version(), "files": files, "format": FORMAT})

    def build(directory: Path) -> None:
        unique: dict[str, Docstring] = {}
        for found in (*library_docstrings(root), *language_topics()):
            unique.setdefault(" ".join(found.text.casefold().split()), found)
        lines = (json.dumps(found._asdict()) + "\n" for found in unique.values())
        (directory / "documents.jsonl").write_text("".join(lines))

    path = build_once(cache_dir / "stdlib_docs" / name, build) / "documents.jsonl"
    return [Docstring(**json.loads(line)) for line in path.read_text().splitlines()]


class StdlibDocs(TextData):
    """English prose of the standard library: docstrings of modules, classes and functions, and the language reference.

    Sources are parsed, nothing is imported; doctests, signatures, code blocks, markup and duplicates are removed. On
    CPython 3.11: 8,288 documents of 300,160 words (330,966 before cleaning). The splits are fixed: of the documents, by
    hash, 80 % are for training, 10 % for validation, 10 % for testing.
    """

    def texts(self, split: str) -> Iterator[str]:
        """Read the documents of a split in the order of files and lines."""
        return (document.text for document in stdlib_documents(self.cache_dir) if stdlib_split(document) == split)

    def identity(self) -> dict[str, Any]:
        """Name the documents by their text."""
        texts = [document.text for document in stdlib_documents(self.cache_dir)]
        return {"documents": texts, "shares": [VALIDATION_SHARE, TEST_SHARE]}


def stdlib_split(document: Docstring) -> str:
    """Tell which split a document of the standard library is in."""
    return split_of(document.text, validation_share=VALIDATION_SHARE, test_share=TEST_SHARE)
