"""What is looked for among examples of the same kind, and what of them is found rightly.

The label of an example says what it is called, whether others are looked for with it, whether it can be found, and how
relevant others are to it: texts by judgements, images by their class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finetuning.data.base import LabelledData
from finetuning.data.image import LabelledImageFiles
from finetuning.data.splits import Examples
from pretraining.cli.configuration import as_run_errors
from pretraining.data.files import TABLES, find, say
from pretraining.data.labels import present
from pretraining.data.splits import split_of
from pretraining.data.tables import MissingColumnError, Table, read_table
from pretraining.errors import RunError
from pretraining.text.modality import TEXT


class Sought(NamedTuple):
    """The label of an example."""

    name: str
    query: bool
    candidate: bool
    relevant: Mapping[str, float]  # grades above 0 of others, by their names


@dataclass(kw_only=True)
class JudgedTexts(LabelledData):
    """A folder with tables called corpus, queries and qrels, as test collections of retrieval are.

    `columns` name the `id` and `text` of the first two, and of judgements `query`, `document` and `relevance`, of which
    those above 0 count. `selecting` is the share of queries that is for validation; all documents are in each split.
    """

    modality = TEXT
    path: str
    columns: dict[str, str] = field(
        default_factory=lambda: {
            "id": "id",
            "text": "text",
            "query": "query",
            "document": "document",
            "relevance": "relevance",
        }
    )
    selecting: float = 0.1
    eval_batch_size: int = 64

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Read the three tables."""
        self.refuse_names()
        with as_run_errors():
            files = find(self.path, key="data.path", kinds=TABLES)
            names = self.columns
            documents, queries = (self._table(files, part, ["id", "text"]) for part in ("corpus", "queries"))
            judged = self._table(files, "qrels", ["query", "document", "relevance"])
            relevant = self._relevant(judged, documents, queries)
        kept = _texts(documents, names), _texts(queries, names)
        shares = {"validation_share": self.selecting, "test_share": 1.0 - self.selecting}
        parts: dict[str, list[str]] = {"validation": [], "test": []}
        for name in kept[1]:
            if name in relevant:
                parts[split_of(name, **shares)].append(name)  # type: ignore[arg-type]
        found = {split: _examples(kept[0], {name: kept[1][name] for name in part}, relevant)
                 for split, part in parts.items()}  # fmt: skip
        if not all(parts.values()):
            told = f"got {len(relevant)} queries with relevant documents and data.selecting={self.selecting}"
            raise RunError(f"{told}: give more, or another share, so that some validate and some test")
        return found | {"train": found["validation"]}, None  # nothing learns from it

    def _table(self, files: Sequence[Path], name: str, roles: Sequence[str]) -> Table:
        own = [file for file in files if file.name.partition(".")[0] == name]
        if not own:
            raise ValueError(f"data.path={self.path} holds no table called {name}: give corpus, queries and qrels")
        columns = {f"data.columns.{role}": self.columns[role] for role in roles}
        try:
            table = read_table(own, list(columns.values()))
        except MissingColumnError as error:
            there = ", ".join(error.there)
            raise ValueError(f"{error.place} has no column {error.name!r}, but {there}: set data.columns") from error
        columns.pop("data.columns.text", None)  # documents may have none
        return present({name: table}, columns, label=None, droppable=False)[name]

    def _relevant(self, judged: Table, documents: Table, queries: Table) -> dict[str, dict[str, float]]:
        """Read judgements: grades of documents for each query."""
        known = [set(map(str, table.columns[self.columns["id"]])) for table in (queries, documents)]
        found: dict[str, dict[str, float]] = {}
        columns = (judged.columns[self.columns[role]] for role in ("query", "document", "relevance"))
        for row, (query, document, written) in enumerate(zip(*columns, strict=True)):
            place = judged.place(row)
            for kind, name, there in (("query", query, known[0]), ("document", document, known[1])):
                if str(name) not in there:
                    raise ValueError(f"{place} judges the {kind} {name!r}, which is not there: correct it")
            try:
                grade = float(written)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{place} has the relevance {written!r}: give a number") from error
            if grade > 0:
                found.setdefault(str(query), {})[str(document)] = grade
        return found


def _texts(table: Table, names: Mapping[str, str]) -> dict[str, str]:
    rows = zip(table.columns[names["id"]], table.columns[names["text"]], strict=True)
    texts = {str(name): text or "" for name, text in rows}
    if lacking := sum(not text for text in texts.values()):
        say(f"{table.sources[0].rpartition(',')[0]}: {lacking} of {table.size} texts are empty, and stay")
    if len(texts) < table.size:
        raise RunError(f"got an id twice in {table.sources[0].rpartition(',')[0]}: give each row one of its own")
    return texts


def _examples(documents: Mapping[str, str], queries: Mapping[str, str], relevant: Mapping[str, Any]) -> Examples:
    labels = [Sought(name, False, True, {}) for name in documents]
    labels += [Sought(name, True, False, relevant[name]) for name in queries]
    return Examples.of(text=[*documents.values(), *queries.values()], label=labels)


@dataclass(kw_only=True)
class ImagesByClass(LabelledImageFiles):
    """Labelled images, of which those of the same class are relevant to each other; what is looked for is not found.

    `role` is a column of tables that tells which images are looked for with (where it is `queries`) and which are found
    (where it is `candidates`); null: all are both.
    """

    role: str | None = None
    queries: str | None = None
    candidates: str | None = None
    batch_size: int = 16

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Read the splits that are there."""
        if self.role is not None and self.missing is not None:
            raise RunError(
                f"got data.missing={self.missing} with data.role={self.role}: give data without gaps, and null"
            )
        found, _ = super().found()
        roles = self._roles() if self.role is not None else {}
        return {split: self._sought(part, roles.get(split)) for split, part in found.items()}, None

    def _roles(self) -> dict[str, list[str]]:
        role = str(self.role)
        if not self.tables:
            raise RunError(f"got data.role={role}, a column of tables, for a folder of images: give null")
        try:
            read = {split: read_table(files, [role]) for split, files in self.tables.items()}
        except MissingColumnError as error:
            there = ", ".join(error.there)
            raise RunError(f"{error.place} has no column {role!r}, but {there}: set data.role") from error
        return {split: table.columns[role] for split, table in read.items()}

    def _sought(self, examples: Examples, roles: Sequence[str] | None) -> Examples:
        classes = np.array(examples.columns["label"])
        named = None if roles is None else np.array(roles)
        queries, candidates = (
            np.ones(len(classes), bool) if named is None else named == value
            for value in (self.queries, self.candidates)
        )
        for value, chosen in ((self.queries, queries), (self.candidates, candidates)):
            if not chosen.any():
                there = sorted({str(name) for name in roles or []})
                raise RunError(f"got no image with data.role={self.role} of {value!r}, but {there}")
        labels = []
        for row, own in enumerate(classes):
            same = np.flatnonzero((classes == own) & candidates & queries[row])
            relevant = {str(other): 1.0 for other in same if other != row}
            labels.append(Sought(str(row), bool(queries[row]), bool(candidates[row]), relevant))
        return Examples.of(image=examples.columns["image"], label=labels)
