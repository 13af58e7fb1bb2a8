"""Text that every python installation carries: documents to pretrain on, and a labelled task from the same documents.

Nothing is downloaded, and nothing imported to be read.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import re
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pretraining.cache import build_once, key
from pretraining.data.docstrings import Docstring, language_topics, library_docstrings, source_files
from pretraining.data.text import TextData, split_of

FORMAT = 1  # raised when the same python would give other documents
VALIDATION_SHARE, TEST_SHARE = 0.1, 0.1  # fixed: the labelled task takes its documents from the same splits

FAMILIES: dict[str, str] = {
    "code analysis": "ast code codeop compileall dis inspect keyword lib2to3 opcode pickletools py_compile pyclbr pydoc rlcompleter "
    "symtable tabnanny token tokenize",
    "concurrency": "_threading_local asyncio concurrent multiprocessing queue sched selectors signal subprocess threading",
    "data types": "_collections_abc _py_abc abc array bisect collections contextlib copy dataclasses enum functools graphlib heapq "
    "operator pprint reprlib types typing weakref",
    "debugging": "bdb cProfile cgitb faulthandler linecache logging pdb profile pstats timeit trace traceback tracemalloc warnings",
    "editor": "idlelib",
    "files and archives": "_compression _pyio bz2 dbm filecmp fileinput fnmatch genericpath glob gzip io lzma ntpath os pathlib posixpath "
    "shelve shutil stat tarfile tempfile zipfile",
    "formats and markup": "_markupbase configparser csv html json pickle plistlib tomllib xdrlib xml",
    "graphical interface": "curses tkinter turtle turtledemo",
    "imports": "imp importlib modulefinder pkgutil runpy zipimport",
    "internet": "asynchat asyncore cgi ftplib http imaplib ipaddress netrc nntplib nturl2path poplib smtpd smtplib socket socketserver ssl "
    "telnetlib urllib webbrowser wsgiref xmlrpc",
    "mail": "base64 email mailbox mailcap mimetypes quopri uu",
    "numbers and dates": "_pydecimal _strptime calendar datetime decimal fractions numbers random statistics zoneinfo",
    "packaging": "_aix_support _osx_support distutils ensurepip platform site sysconfig venv zipapp",
    "testing": "doctest unittest",
    "text": "codecs difflib encodings gettext locale re shlex string stringprep textwrap",
}
LARGEST_CLASS = 500  # documents over all splits; the largest families have more than twice as many
PLACEHOLDER = "X"  # stands for a module's name
ALIASES = {"idlelib": ("idle",), "tkinter": ("tk", "tcl"), "_pydecimal": ("decimal",), "lib2to3": ("2to3",)}


def stdlib_documents(cache_dir: Path) -> list[Docstring]:
    """Give the documents of this python, without duplicates (capitals and white space aside), in the order of files and lines."""
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
    """English prose of the standard library: docstrings of its modules, classes and functions, and the language reference.

    Sources are parsed, nothing is imported; doctests, signatures, code blocks, markup and duplicates are removed. On CPython 3.11: 8,288
    documents of 300,160 words (330,966 before cleaning). The splits are fixed: of the documents, by hash, 80 % are for training, 10 % for
    validation, 10 % for testing.
    """

    def __init__(self, *, max_tokens: int, batch_size: int, eval_batch_size: int, workers: int, cache_dir: str) -> None:
        super().__init__(
            max_tokens=max_tokens, batch_size=batch_size, eval_batch_size=eval_batch_size, workers=workers, cache_dir=cache_dir
        )

    def texts(self, split: str) -> Iterator[str]:
        """Give the documents of a split in the order of files and lines."""
        return (document.text for document in stdlib_documents(self.cache_dir) if stdlib_split(document) == split)

    def fingerprint(self) -> str:
        """Identify the documents by their text."""
        return _fingerprint(self.cache_dir)


def stdlib_split(document: Docstring) -> str:
    """Tell which split a document of the standard library is in."""
    return split_of(document.text, validation_share=VALIDATION_SHARE, test_share=TEST_SHARE)


@functools.lru_cache(maxsize=1)
def _fingerprint(cache_dir: Path) -> str:
    shares = [VALIDATION_SHARE, TEST_SHARE]
    return key({"documents": [document.text for document in stdlib_documents(cache_dir)], "shares": shares})


class Labelled(NamedTuple):
    """Texts, their labels, and what the labels mean."""

    texts: list[str]
    labels: list[int]
    class_names: list[str]


def docs_topic(split: str, *, cache_dir: str = "~/.cache/pretraining") -> Labelled:
    """Give a split of the task: which family of modules a docstring is from, its module's name masked out.

    15 classes. A split's documents are from the same split of `StdlibDocs`: none that is tested on was pretrained on. On CPython 3.11:
    5,259 / 650 / 650 examples; the most frequent class is 10.0 % of the test split, and tf-idf with logistic regression reaches an accuracy
    of 0.79 there with all labels, 0.38 with 16 per class (mean of 3 draws), 0.31 with 8.
    """
    names = sorted(FAMILIES)
    family_of = {module: label for label, name in enumerate(names) for module in FAMILIES[name].split()}
    by_label: dict[int, list[Docstring]] = defaultdict(list)
    for document in stdlib_documents(Path(cache_dir)):
        label = family_of.get(document.module.split(".")[0])
        if label is not None:
            by_label[label].append(document)
    chosen = [
        (masked(document), label)
        for label, documents in sorted(by_label.items())
        for document in sorted(documents, key=_rank)[:LARGEST_CLASS]
        if stdlib_split(document) == split
    ]
    return Labelled([text for text, _ in chosen], [label for _, label in chosen], names)


def _rank(document: Docstring) -> bytes:
    """Order documents by nothing that says what they are about."""
    return hashlib.blake2b(document.text.encode(), digest_size=8, person=b"rank").digest()


def masked(document: Docstring) -> str:
    """Put a placeholder for the name of the document's module, each part of it, and the other modules of its family."""
    return _names(document.module).sub(PLACEHOLDER, document.text)


@functools.cache
def _names(module: str) -> re.Pattern[str]:
    """Match names however they are capitalised, as words, plurals and parts of CamelCase or snake_case."""
    parts = module.split(".")
    family = next(modules.split() for modules in FAMILIES.values() if parts[0] in modules.split())
    names = {*parts, *family}
    names |= {alias for name in tuple(names) for alias in ALIASES.get(name, ())}
    names |= {name.strip("_") for name in tuple(names)}
    spelled = "|".join(re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name)))
    return re.compile(rf"(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))(?i:(?:{spelled})(?:\.(?:{spelled}))*s?)(?![a-z])")
