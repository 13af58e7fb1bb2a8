"""Examples that have captions, whatever they are: what a cell of captions holds, their splits, and their rows.

Shapes: B pairs, C captions that an example has at most.
"""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import json
import re
import tokenize
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from pretraining.data.files import say
from pretraining.data.splits import SPLITS, carved, missing_shares
from pretraining.pairs.data.base import PairExamples, table_of
from pretraining.pairs.data.contents import told_apart
from pretraining.text.raw import RawTexts

# A list, a tuple or such of NumPy's texts, all in quotes; or an empty list.
LIST = re.compile(r"""\s*(\[\s*\]|[\[(]\s*(np\.str_\()?['"].*['"]\)?,?\s*[\])])\s*""", re.DOTALL)


def captions_of(cells: Iterable[tuple[Any, str]], what: str) -> Iterator[list[str]]:
    """Take a caption or a list of them from each cell; what is none is refused, with its place and what it belongs to.

    A text that is a list or a tuple of texts, as pandas writes one into a csv, is read as such, and told.
    """
    lists = list[str]()
    for cell, place in cells:
        found = _list_of(cell, place) if isinstance(cell, str) and LIST.fullmatch(cell) else None
        if found is not None:
            lists.append(place)
            cell = found
        several = isinstance(cell, list | tuple | np.ndarray)
        yield _checked(
            [str(part) if isinstance(part, str) else part for part in (cell if several else [cell])], place, what
        )
    if lists:
        told = f"{lists[0]} has a list of captions written as text"
        say(f"{told} ({len(lists)} such cells): they are read as lists")


def _list_of(cell: str, place: str) -> list[Any] | None:
    """Read a list as JSON or Python write it. One without commas, as NumPy writes it, would be one text: refused."""
    for read in (json.loads, _of_python):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError):
            return read(cell.strip())
    if cell.lstrip().startswith("("):  # somebody's words in parentheses
        return None
    told = f"{place} has the caption {cell:.40}, which looks like a list of captions and cannot be read as one"
    raise ValueError(f"{told}: write one as JSON does, or a row for each caption")


def _of_python(text: str) -> list[Any]:
    """Read a list or a tuple as Python writes it, of texts or NumPy's, each in quotes of its own."""
    tree = ast.parse(text, mode="eval").body
    if not isinstance(tree, ast.List | ast.Tuple):
        raise ValueError(f"{text} is no list")
    found = [ast.literal_eval(part.args[0] if isinstance(part, ast.Call) else part) for part in tree.elts]
    if len(found) != sum(
        token.type == tokenize.STRING for token in tokenize.generate_tokens(io.StringIO(text).readline)
    ):
        raise ValueError(f"{text} lacks commas")
    return found


def _checked(captions: list[Any], place: str, what: str) -> list[str]:
    """Refuse what is no caption."""
    strange = [text for text in captions if not isinstance(text, str)]
    if strange:
        told = f"{place} has {what}, but {strange[0]!r:.40} for a caption"
        raise ValueError(f"{told}: a text or a list of texts is wanted, so write one, or drop the row")
    odd = next((text for text in captions if not text.strip()), None)
    if odd is not None or not captions:
        told = repr(odd) if captions else "none"
        raise ValueError(f"{place} has {what}, but the caption {told:.40}: write one, or drop the row")
    return captions


def in_splits(
    given: Mapping[str, Iterable[Any]], shares: Mapping[str, float], where: str, what: str
) -> dict[str, list[Any]]:
    """Part what there is into all splits: `shares` of the training examples, chosen by their names' hash, stand for
    those that are missing. `where` and `what` (in the plural) name it in errors.

    Rows (tuples with a `name`, a `content` and `captions`) of one name are one example, and so are those of one
    content, under the first one's name.
    """
    given = each_once(given, where, what)
    missing = missing_shares(given, validation=shares["validation"], test=shares["test"])
    cut = {split: shares[split] for split in SPLITS[1:] if split not in given}
    if sum(cut.values()) >= 1 or not all(cut.values()):
        told = " and ".join(f"data.shares.{split}={share}" for split, share in cut.items())
        cure = "each above 0, and below 1 together" if len(cut) > 1 else "above 0 and below 1"
        raise ValueError(f"{told} of the training {what} leave a split empty: give shares {cure}, or such splits")
    parts: dict[str, list[Any]] = {}
    for split in SPLITS:
        there = given.get(split, given["train"])
        parts[split] = list(carved(there, split, given, missing, text=lambda one: one.name))
        if not parts[split]:
            told = f"{where}: {len(there)} {what} are too few to set some apart for {split}"
            raise ValueError(f"{told}: give more, or a {split} split")
    return parts


def each_once(given: Mapping[str, Iterable[Any]], where: str, what: str) -> dict[str, list[Any]]:
    """Bring the rows of an example of a split together, and say of how many names."""
    named = {split: _merged((one.name, one) for one in rows) for split, rows in given.items()}
    keys = iter(told_apart([one.content for part in named.values() for one in part.values()]))
    found = {split: _merged((next(keys), one) for one in part.values()) for split, part in named.items()}
    again = [name for split in named for name in named[split].keys() - {one.name for one in found[split].values()}]
    if again:
        told = f"{where}: {len(again)} {what} are byte by byte another of their split, such as {min(map(str, again))}"
        say(f"{told}: they are taken as one, which has the captions of all")
    _tell_shared(found, where, what)
    return {split: list(part.values()) for split, part in found.items()}


def _merged(examples: Iterable[tuple[Hashable, Any]]) -> dict[Hashable, Any]:
    """Bring examples of the same key together, each caption once."""
    found: dict[Hashable, Any] = {}
    for key, one in examples:
        known = found.setdefault(key, one._replace(captions=[]))
        known.captions.extend(caption for caption in one.captions if caption not in known.captions)
    return found


def _tell_shared(given: Mapping[str, Mapping[Hashable, Any]], where: str, what: str) -> None:
    """Say how many examples are in two of the splits that were given: they are measured on, and not new."""
    for first, second in itertools.combinations([split for split in SPLITS if split in given], 2):
        shared = [one for key, one in given[second].items() if key in given[first]]
        if shared:
            told = f"{where}: {len(shared)} of the {len(given[second])} {second} {what} are {first} {what}, too"
            say(f"{told}, such as {shared[0].name}: what is measured on them is not new; leave them in one split")


class CaptionedSource(ABC):
    """A split as rows, one for each example of the first `side` and caption of it."""

    side: str

    def __init__(self, captions: list[list[str]]) -> None:
        self.captions = captions
        counts = [len(texts) for texts in captions]
        self.most = max(counts)
        self.example = np.repeat(np.arange(len(captions)), counts)  # of each row
        self.place = np.concatenate([np.arange(count) for count in counts])  # of its caption among the example's

    @abstractmethod
    def examples(self, numbers: np.ndarray) -> Any:
        """Read raw examples of the first side by their numbers [B]."""

    def count(self, epoch: int) -> int:
        """Count the pairs; the same in each epoch."""
        return len(self.example)

    def read(self, epoch: int, rows: np.ndarray) -> PairExamples:
        """Read pairs by their numbers."""
        example, place = self.example[rows], self.place[rows]
        captions = table_of([self.captions[one] for one in example], self.most)
        sides = {self.side: self.examples(example), "text": RawTexts(captions[np.arange(len(rows)), place])}
        return PairExamples(sides, example, captions)
