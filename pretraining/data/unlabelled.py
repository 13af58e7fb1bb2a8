"""Examples that are only read, without labels: from files of the user's, or as Python code holds them."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from pretraining.errors import RunError
from pretraining.settings import check_fields

_TOLD: ContextVar[dict[str, tuple[int, int]] | None] = ContextVar("told", default=None)


class Unlabelled(NamedTuple):
    """An example that is only read: what tells which it is (its line, its file), and its columns."""

    shown: dict[str, Any]
    columns: dict[str, Any]


class Encoded(NamedTuple):
    """Examples made ready for a network."""

    lengths: np.ndarray  # [N], in the modality's unit, so that batches may hold like with like
    stack: Callable[[np.ndarray], dict[str, Tensor]]  # makes the backbone's arguments of rows, by their numbers


class Reading(ABC):
    """How examples without labels reach a network; a modality names its class as `reads`.

    The fields of a subclass are its settings, of which `column` names the column of tables. Of tables and of Python
    code comes the same kind of value, which `encode` takes.
    """

    ahead: ClassVar[int]  # so many examples may be in memory at once

    def __post_init__(self) -> None:
        check_fields(self, "inputs")

    @abstractmethod
    def read(self, path: Path, preprocess: Any) -> Iterator[tuple[dict[str, Any], Any]]:
        """Read examples from a file or a directory, one by one: what tells which each is, and its value."""

    @abstractmethod
    def take(self, item: Any, name: str, preprocess: Any) -> Any:
        """Take an example as Python code holds it; what is none is an error that calls it `name`."""

    @abstractmethod
    def encode(self, values: Sequence[Any], names: Sequence[str], preprocess: Any, backbone: Any) -> Encoded:
        """Make examples ready; what the network cannot read is an error that names it."""


def tell_cut(cut: int, count: int, what: str) -> None:
    """Say how many of `count` examples were cut, and are `what`; within `told_together` not yet."""
    tell_some(cut, count, f"{what} and were cut")


def tell_some(some: int, count: int, what: str) -> None:
    """Say how many of `count` examples are `what`, if any; within `told_together` not yet."""
    together = _TOLD.get()
    if together is not None:
        before = together.get(what, (0, 0))
        together[what] = before[0] + some, before[1] + count
    elif some:
        print(f"{some} of {count} {what}", file=sys.stderr)


@contextlib.contextmanager
def told_together() -> Iterator[None]:
    """Say once, at the end, what there is to say of examples that are encoded little by little."""
    token = _TOLD.set({})
    try:
        yield
    finally:
        found = _TOLD.get() or {}
        _TOLD.reset(token)
        for what, (some, count) in found.items():
            tell_some(some, count, what)


def input_path(place: str) -> Path:
    """Name the file or directory of `input=`; `-` is stdin."""
    return Path("/dev/stdin" if place == "-" else place).expanduser()


def some(examples: Iterable[Any], place: str) -> Iterator[Any]:
    """Pass examples on; none at all are an error."""
    found = iter(examples)
    first = next(found, None)
    if first is None:
        raise RunError(f"got input={place}, which holds no examples")
    return itertools.chain([first], found)


def listed(items: Any) -> list[Any]:
    """List examples that Python code gives; a single thing, or a table, which Python would take apart, is an error."""
    kind, shape = type(items).__name__, list(getattr(items, "shape", []))
    if hasattr(items, "columns") or hasattr(items, "column_names"):
        raise RunError(f"got a table ({kind}), of which a list would be its columns' names: give a column's values")
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
        raise RunError(f"got {kind}, a single thing: give a list of examples")
    if len(shape) == 3 and {shape[0], shape[2]} & {1, 3, 4}:
        what = f"got one array {shape}, an image or several grey ones"
        raise RunError(f"{what}: give a list of images, [image] or list(images)")
    return list(items)


def output_path(place: str, kinds: Collection[str], key: str = "output", *, read: str | None = None) -> Path:
    """Name a file that can be written and ends as one of `kinds` does; another, or the one `read`, is an error."""
    path = Path(place).expanduser()
    if read is not None and path.exists() and input_path(read).exists() and path.samefile(input_path(read)):
        raise RunError(f"got {key}={place}, the file that is read: give another, it would be lost")
    if path.suffix.lower() not in kinds:
        raise RunError(f"got {key}={place}: give a name that ends in {', '.join(kinds)}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        what = "is a directory" if path.is_dir() else f"has no directory {path.parent} that can be written to"
        raise RunError(f"got {key}={place}, which {what}: give a file in one")
    return path
