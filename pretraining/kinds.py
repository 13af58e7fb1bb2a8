"""What a single value may be: numbers in a range, words, texts, lists of them. A text is never read as a list."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What is accepted, and how a message asks for it."""

    wanted: str
    accepts: Callable[[Any], bool]


def number(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float | None = None,
    below: float | None = None,
    whole: bool = False,
) -> Kind:
    """Make the kind of finite numbers from `low` to `high`, or strictly `above` or `below` one; true is no number."""

    def accepts(value: Any) -> bool:
        known = isinstance(value, Integral if whole else Real) and not isinstance(value, bool) and math.isfinite(value)
        return known and low <= value <= high and (above is None or value > above) and (below is None or value < below)

    bottom = f"above {above:g}" if above is not None else f"of at least {low:g}" if low > -math.inf else ""
    top = f"below {below:g}" if below is not None else f"at most {high:.10g}" if high < math.inf else ""
    if bottom.startswith("of at least") and top.startswith("at most"):
        span = f"from {low:g} to {high:.10g}"
    else:
        span = " and ".join(filter(None, (bottom, top)))
    what = "whole number" if whole else "number" if span else "finite number"
    return Kind(f"give a {what} {span}".rstrip(), accepts)


def integer(low: float = -math.inf, high: float = math.inf) -> Kind:
    """Make the kind of whole numbers from `low` to `high`."""
    return number(low, high, whole=True)


def choice(*words: Any) -> Kind:
    """Make the kind of one of several words; true is not 1."""
    listed = " or ".join(filter(None, (", ".join(map(str, words[:-1])), str(words[-1]))))
    return Kind(f"choose {listed}", lambda value: not isinstance(value, bool) and value in words)


def each(kind: Kind, length: int | None = None, *, least: int = 0) -> Kind:
    """Make the kind of lists of `length`, or of at least `least`, values of one kind."""
    count = "one or more" if least else "" if length is None else str(length)
    what = kind.wanted.partition(" ")[2].removeprefix("a ").replace("number", "numbers").replace("text", "texts")

    def accepts(value: Any) -> bool:
        return is_list(value) and length in (None, len(value)) and len(value) >= least and all(map(kind.accepts, value))

    return Kind(f"give a list of {count} {what}".replace("  ", " "), accepts)


def named(kind: Kind) -> Kind:
    """Make the kind of groups with a value of one kind for each of one or more names."""

    def accepts(value: Any) -> bool:
        return isinstance(value, Mapping) and bool(value) and all(map(kind.accepts, value.values()))

    return Kind(f"give {kind.wanted.removeprefix('give ')} for each of several names", accepts)


def either(*kinds: Kind) -> Kind:
    """Make the kind of what any of several kinds accepts."""
    later = [kind.wanted.removeprefix("give ") for kind in kinds[1:]]
    return Kind(", or ".join([kinds[0].wanted, *later]), lambda value: any(kind.accepts(value) for kind in kinds))


def optional(kind: Kind) -> Kind:
    """Make the kind of what a kind accepts, or null."""
    return Kind(f"{kind.wanted}, or null", lambda value: value is None or kind.accepts(value))


FLAG = Kind("give true or false", lambda value: isinstance(value, bool))
TEXT = Kind("give a text", lambda value: isinstance(value, str) and bool(value))
ANY_TEXT = Kind("give a text", lambda value: isinstance(value, str))
FOLDER = Kind("give the name of a folder", lambda value: TEXT.accepts(value) and not re.search(r"^\.|[/\\\0]", value))
GROUP = Kind("give its settings by their names", lambda value: isinstance(value, Mapping))
COUNT, COUNT_OR_ZERO, SEED = integer(1), integer(0), integer(0, 2**32 - 1)
POSITIVE, NOT_NEGATIVE, FINITE = number(above=0), number(0), number()
SHARE, PART, SOME, INNER = number(0, 1), number(0, below=1), number(above=0, high=1), number(above=0, below=1)
SHARES, NUMBERS, PAIR = either(SHARE, each(SHARE)), each(FINITE), each(POSITIVE, 2)
CHANNELS, INTERPOLATION = choice(1, 3), choice("bilinear", "bicubic")
BY_SPLIT = Kind("{train: …, validation: …, test: …}", GROUP.accepts)
ONE_PATH, PATHS = either(TEXT, BY_SPLIT), either(TEXT, each(TEXT, least=1), BY_SPLIT)
Ranges = Mapping[str, Mapping[Kind, str]]  # of the settings of a group: "a b" are names, and * is whatever it holds


def is_list(value: Any) -> bool:
    """Tell a list from a text, which is a sequence of letters, too."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def shown(value: Any) -> str:
    """Write a value as it is given on a command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if is_list(value):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {shown(part)}' for name, part in value.items())}}}"
    return str(value) or "''"


def refusal(key: str, value: Any, kind: Kind) -> str:
    """Say what `key` got and what it takes; a single value as a list, and a text that looks like none, in its form."""
    hint = ""
    if not is_list(value) and kind.accepts([value]):
        hint = f", such as {key}=[{shown(value)}]"
    elif isinstance(value, (bool, Real)) and kind.accepts(shown(value)):
        hint = f" (if {shown(value)} is one, in quotes: \"{key}='{shown(value)}'\")"
    return f"{key}={shown(value)}: {kind.wanted}{hint}"
