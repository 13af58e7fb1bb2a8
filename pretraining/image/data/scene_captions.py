"""What a scene of digits shows, said in words: captions from a small grammar, and false ones of the same words.

caption = thing | thing relation thing        thing = "a" size colour digit
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")
SWAPS = ("colour", "size", "relation")
VOCABULARY: dict[str, tuple[str, ...]] = {"size": SIZES, "colour": COLOURS, "digit": DIGITS}
REPLACED = ("size", "colour", "digit", "digit")


class Thing(NamedTuple):
    """One digit of a scene. `box`: left, top, right and bottom in pixels; the last two are just outside."""

    size: str
    colour: str
    digit: str
    box: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        """Name it in words."""
        return f"a {self.size} {self.colour} {self.digit}"


class Claim(NamedTuple):
    """What a caption says: that there is `first`, or that it stands in `relation` to `second`."""

    first: Thing
    relation: str | None = None
    second: Thing | None = None

    def __str__(self) -> str:
        return self.first.name if self.second is None else f"{self.first.name} {self.relation} {self.second.name}"

    def holds(self, things: Sequence[Thing]) -> bool:
        """Tell whether a scene of these things shows it."""
        named = [[place for place, thing in enumerate(things) if thing.name == part.name] for part in self._parts()]
        if self.second is None:
            return bool(named[0])
        pairs = [(one, other) for one in named[0] for other in named[1] if one != other]
        return any(self.relation in relations(things[one].box, things[other].box) for one, other in pairs)

    def swapped(self, what: str) -> Claim | None:
        """Exchange the colours or sizes of both things, or the things themselves: the same words, another meaning.

        None where that changes nothing.
        """
        if self.second is None:
            return None
        first, second = self.first, self.second
        if what == "relation":
            first, second = second, first
        else:
            own, other = getattr(first, what), getattr(second, what)
            first, second = first._replace(**{what: other}), second._replace(**{what: own})
        fresh = Claim(first, self.relation, second)
        return None if str(fresh) == str(self) else fresh

    def _parts(self) -> list[Thing]:
        return [self.first] if self.second is None else [self.first, self.second]


def relations(box: Sequence[int], other: Sequence[int]) -> list[str]:
    """List the relations in which a box stands to another: those where nothing of the one is level with the other."""
    apart = (box[2] <= other[0], other[2] <= box[0], box[3] <= other[1], other[3] <= box[1])
    return [name for name, true in zip(RELATIONS, apart, strict=True) if true]


def hard_negatives(claim: Claim, things: Sequence[Thing]) -> dict[str, str]:
    """Make false captions of exactly the words of a true one, by what was swapped.

    Whoever sees which words there are, but not their order, cannot tell them from the true one.
    """
    swapped = {what: claim.swapped(what) for what in SWAPS}
    return {what: str(false) for what, false in swapped.items() if false is not None and not false.holds(things)}


def replaced(claim: Claim, things: Sequence[Thing], drawn: Sequence[float]) -> list[str]:
    """Make false captions that differ from a true one in one word of a thing; two of `drawn`, from [0, 1), decide each.

    Half of those words are digits, which have the most to be told from. What happens to be true is left out.
    """
    parts, found = ["first"] if claim.second is None else ["first", "second"], []
    for which, other in zip(drawn[::2], drawn[1::2], strict=True):
        part, kind = parts[int(which * len(parts))], REPLACED[int(which * len(parts) * len(REPLACED)) % len(REPLACED)]
        thing, words = getattr(claim, part), VOCABULARY[kind]
        step = 1 + int(other * (len(words) - 1))
        fresh = words[(words.index(getattr(thing, kind)) + step) % len(words)]
        false = claim._replace(**{part: thing._replace(**{kind: fresh})})
        if not false.holds(things):
            found.append(str(false))
    return found
