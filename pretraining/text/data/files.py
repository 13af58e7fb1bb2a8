"""Texts out of local files: .txt and tables, also compressed (`pretraining.data.files`).

A table's row is a document. What a document of a .txt file is, its `layout` says:
`paragraphs` (lines up to a blank one), `sentences` (the same, and each line is one sentence: BERT's format),
`lines` (each line is one) or `files` (the whole file is one).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pretraining.data.files import KINDS, Paths, find, kind_of, lines, places_of, say
from pretraining.data.splits import SPLITS, by_split, described, refuse_lone_train
from pretraining.data.tables import MissingColumnError, read_rows, word_of

LAYOUTS = ("paragraphs", "sentences", "lines", "files")
MAX_DOCUMENT = 2**20  # characters; a longer document of a .txt file goes on as the next: no file has to fit in memory
REMEDY = "say which is which with data.path={train: …, validation: …, test: …}, or take all with data.path={train: …}"


def files_of_splits(path: Paths | Mapping[str, Paths], kinds: Collection[str] = KINDS) -> dict[str, list[Path]]:
    """List the files of `data.path`: of each split that it names, else by their names, and say which serve which."""
    if isinstance(path, Mapping):
        if "train" not in path or not set(path) <= set(SPLITS):
            raise ValueError(
                f"data.path has the splits {sorted(path)}: give train, and validation and test where there are such "
                "files"
            )
        return {split: find(pattern, key=f"data.path.{split}", kinds=kinds) for split, pattern in path.items()}
    files, where = find(path, key="data.path", kinds=kinds), f"data.path={path}"
    if len(files) == 1:
        return {"train": files}
    places = places_of(files)
    found = by_split(list(places), where=where, remedy=REMEDY)
    refuse_lone_train(found, list(places), where=where, remedy=REMEDY)
    used = {place for part in found.values() for place in part}
    say(described(where, found, [place for place in places if place not in used]))
    return {split: [places[place] for place in part] for split, part in found.items()}


def read_texts(path: Path, *, column: str, layout: str) -> Iterator[str]:
    """Read the documents of a file; those without a letter of text are left out, and counted where they are null."""
    texts = _documents(lines(path), layout) if kind_of(path) == ".txt" else _values(path, column)
    return (text for text in texts if text and not text.isspace())


def _documents(lines: Iterable[str], layout: str) -> Iterator[str]:
    if layout == "lines":
        yield from lines
        return
    document: list[str] = []
    size = 0
    for line in lines:
        ends = layout != "files" and line.isspace()
        if (ends or size + len(line) > MAX_DOCUMENT) and document:
            yield "".join(document)
            document, size = [], 0
        if not ends:
            document.append(line)
            size += len(line)
    yield "".join(document)


def _values(path: Path, column: str) -> Iterator[str]:
    """Read a column of texts."""
    nulls = rows = 0
    try:
        for number, (value,) in read_rows(path, [column]):
            rows += 1
            nulls += value is None
            yield _string(value, path, number, column)
    except MissingColumnError as error:
        raise ValueError(missing_column(error.place, column, error.there)) from error
    if nulls:
        say(f"{path}: {nulls} of {rows} texts are null and left out")


def _string(value: Any, path: Path, number: int, column: str) -> str:
    if value is not None and not isinstance(value, str):
        kind, place = type(value).__name__, f"{path}, {word_of(path)} {number}"
        raise ValueError(
            f"{place}: column {column!r} holds {kind}, not text ({value!r:.40}): set data.preparation.text_column to "
            "one that does"
        )
    return value or ""


def missing_column(place: str, column: str, there: list[str]) -> str:
    """Word the error of a table without the column."""
    names = ", ".join(map(repr, there)) or "none"
    return f"{place} has no column {column!r}, but {names}: set data.preparation.text_column to one of them"
