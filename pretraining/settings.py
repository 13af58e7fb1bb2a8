"""Settings are checked against their ranges before anything is built. Imports no torch.

A range is declared once, in `ranges.py` of the package that its class lies in or of a package around it: under the
name of the class, or under the place of a group whose classes all have the setting (`optimizer`). Settings that are
declared nowhere are left alone, and so are those of other packages' classes: their own constructors know them. What
`pretraining/ranges.py` declares holds for every class.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pretraining.errors import RunError
from pretraining.kinds import Kind, is_list, refusal

OURS = ("pretraining", "finetuning")
ROOT = Path(__file__).resolve().parent.parent


class Noted:
    """Keeps what its constructor was given as `noted`, under whose names attributes may hold what was made of it.

    Parts that were built before, and are named in `PARTS`, are none of it.
    """

    PARTS = ("backbone", "optimizer")
    noted: Mapping[str, Any]

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Note the settings."""
        made = super().__new__(cls)
        vars(made)["noted"] = {name: value for name, value in settings.items() if name not in cls.PARTS}
        return made


def paths_as_texts(value: Any) -> Any:
    """Write paths as the texts that yaml has for them, in lists and groups, too; leave the rest as it is."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value) is dict:
        return {name: paths_as_texts(part) for name, part in value.items()}
    return type(value)(map(paths_as_texts, value)) if type(value) in (list, tuple) else value


def check(values: Mapping[str, Any], where: str = "") -> None:
    """Refuse the first of the settings of `where` that is out of its range, naming key, value and what to give."""
    for key, value, kind in ranged(values, where):
        if not kind.accepts(value):
            raise RunError(refusal(key, value, kind))


def check_fields(part: Any, where: str) -> None:
    """Check a part's attributes as the settings of `where` that its class, and those it inherits from, declare."""
    for kind in type(part).__mro__:
        if _is_ours(kind.__module__):
            check({"_target_": f"{kind.__module__}.{kind.__name__}", **vars(part)}, where)


def ranged(values: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any, Kind]]:
    """List the settings of `where`, and of all that it holds, whose range is declared: key, value and range."""
    yield from _ranged(values, where, (where,), declared(*OURS))


def _ranged(
    values: Mapping[str, Any], where: str, names: tuple[str, ...], kinds: Mapping[str, Kind]
) -> Iterator[tuple[str, Any, Kind]]:
    """Go through a group that is declared as one of `names`."""
    target = values.get("_target_")
    if isinstance(target, str):
        module, _, name = target.rpartition(".")
        names, kinds = (name, where), declared(module if _is_ours(module) else "pretraining")
    for name, value in values.items():
        key, called = _within(where, name), tuple(_within(group, name) for group in names)
        kind = next((kinds[known] for known in called if known in kinds), None)
        if kind is not None and value != "???":
            yield key, value, kind
        for part in value if is_list(value) else [value]:
            if isinstance(part, Mapping):
                yield from _ranged(part, key, called, kinds)


@functools.cache
def declared(*modules: str) -> Mapping[str, Kind]:
    """Merge what the packages around `modules` declare, by `Class.setting` or `place.setting`; the nearest counts."""
    found: dict[str, Kind] = {}
    for package in ("pretraining", *(package for module in modules for package in _around(module))):
        if ROOT.joinpath(*package.split("."), "ranges.py").is_file():  # looked up first: a package may import torch
            ranges = importlib.import_module(f"{package}.ranges").RANGES
            named = [
                (group, name, kind) for group, kinds in ranges.items() for kind in kinds for name in kinds[kind].split()
            ]
            found |= {_within(group, name): kind for group, name, kind in named}
    return found


def _around(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: number + 1]) for number in range(len(parts))]


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in OURS


def _within(group: str, name: str) -> str:
    return f"{group}.{name}" if group else str(name)
