"""What a part that was built by hand is, in the words of a configuration: its class and its settings."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

PLAIN = (str, int, float, bool, type(None))


def described(part: Any, *, without: Collection[str] = ()) -> dict[str, Any]:
    """Describe a part as a yaml file of conf/ would: `_target_` and the constructor's arguments, as far as known.

    A part knows them as `noted` or `kwargs`, or under the names of the arguments. What is no plain value, nor a part
    that can be described, is left out, and so is what `without` names, such as parts that were built before.
    """
    if isinstance(part, functools.partial):
        return {"_target_": _name(part.func), "_partial_": True, **_settings(part.keywords, without)}
    if isinstance(recipe := vars(part).get("recipe"), Mapping):  # of which it is what was learnt from data
        return dict(recipe)
    arguments = _arguments(type(part))
    known = getattr(part, "noted", getattr(part, "kwargs", None))
    if not isinstance(known, Mapping):
        known = {name: getattr(part, name) for name in arguments if hasattr(part, name)}
    usual = {name: value for name, value in arguments.items() if value is not inspect.Parameter.empty}
    return {"_target_": _name(type(part)), **_settings({**usual, **known}, without)}


def _name(kind: Any) -> str:
    """Name a class or function as configurations do: by the package around its module, where that shows it."""
    package = kind.__module__.rpartition(".")[0]
    shown = "." in package and vars(sys.modules[package]).get(kind.__qualname__) is kind
    return f"{package if shown else kind.__module__}.{kind.__qualname__}"


def _arguments(kind: type) -> dict[str, Any]:
    """Name a constructor's arguments, with their defaults."""
    start: Any = kind.__init__  # type: ignore[misc] # a class with __new__ would show that one's
    found = inspect.signature(start).parameters.values()
    named = [each for each in found if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return {each.name: each.default for each in named[1:]}


def _settings(known: Mapping[str, Any], without: Collection[str]) -> dict[str, Any]:
    found = {str(name): _plain(value) for name, value in known.items() if name not in without}
    return {name: value for name, value in found.items() if value is not ...}


def _plain(value: Any) -> Any:
    """Turn a setting into what yaml holds; `...` where there are no words for it."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return _settings(value, ())
    if isinstance(value, (list, tuple)):
        items = [_plain(item) for item in value]
        return ... if ... in items else items
    if dataclasses.is_dataclass(type(value)) or isinstance(value, functools.partial) or hasattr(value, "kwargs"):
        return described(value)
    return ... if isinstance(value, type) or not hasattr(value, "__dict__") else _of_settings(value)


def _of_settings(value: Any) -> Any:
    """Describe an object whose constructor's arguments are all among its attributes; others have no words."""
    arguments = _arguments(type(value))
    return described(value) if arguments and all(hasattr(value, name) for name in arguments) else ...
