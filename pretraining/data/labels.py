"""Labels of any modality, read as they are written: one type over all splits, and nothing missing without a word."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pretraining.data.files import say
from pretraining.data.tables import Table

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
KINDS = {str: "text", bool: "truth values", int: "numbers", float: "numbers", list: "lists"}


def present(
    tables: Mapping[str, Table],
    roles: Mapping[str, str],
    *,
    label: str | None,
    missing: str | None = None,
    droppable: bool = True,
) -> dict[str, Table]:
    """Keep rows in which no column is missing: null and NaN, and in the column `label` also empty text.

    `roles`: columns by the configuration keys that name them. `missing`: null refuses such rows; drop leaves them out
    and counts them. `droppable`: whether the data has such a setting, which errors may name.
    """
    check_missing(missing)
    found = {}
    for split, table in tables.items():
        gaps = {
            key: np.array([_is_missing(value, name == label) for value in table.columns[name]], bool)
            for key, name in roles.items()
        }
        for key, rows in gaps.items():
            if rows.any() and missing is None:
                what = f"got {rows.sum()} empty values in column {roles[key]!r} ({key}), the first at"
                what += f" {table.place(int(rows.argmax()))}"
                cure = ", or set data.missing=drop where the data has it" if droppable else ""
                raise ValueError(f"{what}: fill or drop those rows{cure}")
        whole = ~np.any([np.zeros(table.size, bool), *gaps.values()], axis=0)
        if not whole.all():
            say(f"{split}: dropped {(~whole).sum()} of {table.size} rows with empty values")
            table = table.take(np.flatnonzero(whole))
        found[split] = table
    return found


def check_missing(missing: str | None) -> None:
    """Refuse what `data.missing` cannot be."""
    if missing not in (None, "drop"):
        raise ValueError(f"data.missing={missing}: choose null (such rows are an error) or drop")


def _is_missing(value: Any, label: bool) -> bool:
    return value is None or value != value or (label and isinstance(value, str) and not value.strip())


def one_type(tables: Mapping[str, Table], name: str) -> None:
    """Give a column of labels, of which none is missing, one type over all splits.

    Numbers that csv writes as text become numbers where all labels are such and none looks like a code ("007"); whole
    real numbers become integers. Text and numbers mixed, and what cannot be saved, are errors.
    """
    written = [table for table in tables.values() if table.written]
    typed = [value for table in tables.values() if not table.written for value in table.columns[name]]
    if written and not any(isinstance(value, str) for value in typed):
        _read_numbers(written, name)
    _refuse_mixtures(tables, name)
    values = [value for table in tables.values() for value in table.columns[name]]
    if any(isinstance(value, float) for value in values) and all(map(_is_whole, values)):
        for table in tables.values():
            table.columns[name][:] = map(int, table.columns[name])


def _read_numbers(tables: list[Table], name: str) -> None:
    texts = {text.strip() for table in tables for text in table.columns[name]}
    if not all(map(_NUMBER.fullmatch, texts)):
        return
    numbers = {text: float(text) if set(text) & set(".eE") else int(text) for text in texts}
    if all(map(_is_whole, numbers.values())) and len(set(numbers.values())) < len(texts):
        return  # "1" and "1.0" are not the same text
    for table in tables:
        table.columns[name][:] = [numbers[text.strip()] for text in table.columns[name]]


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 2**53 and value == int(value)


def _refuse_mixtures(tables: Mapping[str, Table], name: str) -> None:
    """Refuse labels of more than one kind, or of one that is no label."""
    first: dict[bool, tuple[Any, str]] = {}  # of labels, and of what is in lists of them
    for table in tables.values():
        for row, label in enumerate(table.columns[name]):
            for inside, value in _values(label):
                kind = KINDS.get(type(value)) if not isinstance(value, float) or math.isfinite(value) else None
                known, place = first.setdefault(inside, (value, table.place(row)))
                if kind is None or (inside and kind == "lists") or KINDS[type(known)] != kind:
                    there = (
                        f"{table.place(row)} has in column {name!r} the value {'null' if value is None else value!r}"
                    )
                    if kind and KINDS[type(known)] != kind:
                        raise ValueError(f"{there}, where {place} has {known!r}: give text or numbers, not both")
                    of_type = table.types.get(name, type(value).__name__)
                    raise ValueError(f"{there} of type {of_type}: give text or numbers")


def _values(label: Any) -> Iterator[tuple[bool, Any]]:
    yield False, label
    for value in label if isinstance(label, list) else ():
        yield True, value
