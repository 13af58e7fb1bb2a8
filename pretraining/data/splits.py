"""The three splits of any data: their names, and how examples are divided where a source has fewer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TypedDict, TypeVar

import numpy as np

from pretraining.random import permuted

SPLITS = ("train", "validation", "test")
SPLIT_ALIASES = {  # what sources call them, the usual name first
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
EITHER = ("eval", "evaluation")  # the test split; validation, where there is another test split
ROLES = {name: split for split, names in (*SPLIT_ALIASES.items(), ("eval", EITHER)) for name in names}
T = TypeVar("T")


class Shares(TypedDict):
    """Shares of the training examples that stand for splits which a source lacks; 0 for those it has."""

    validation_share: float
    test_share: float


def _role(name: str) -> tuple[str | None, str]:
    """Tell which split a name stands for, in any case, and by which word: None for no or several; "" for a part of it.

    `Train`, `train-00000-of-00002` and `train1.csv` are called train; `reviews_train.csv` has it as a part.
    """
    whole = re.fullmatch(r"([a-z]+)(?:[\W_]*\d+(?:[\W_]*of[\W_]*\d+)?)?", name.lower().partition(".")[0])
    if whole and whole[1] in ROLES:
        return ROLES[whole[1]], whole[1]
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    found = {ROLES[word] for word in words & ROLES.keys()}
    return (found.pop() if len(found) == 1 else None), ""


def _place_role(place: str) -> tuple[str | None, str]:
    """Tell which split a file stands for: by the nearest of its name and folders that is called so, or in part."""
    roles = [_role(part) for part in reversed(PurePath(place).parts)]
    return next((role for role in roles if role[1]), next((role for role in roles if role[0]), (None, "")))


def names_of_splits(there: Collection[str]) -> dict[str, str]:
    """Map our splits to the names that a source has for them, as far as it has them; the usual name comes first."""
    found: dict[str, str] = {}
    roles = {name: _role(name) for name in there}
    for role, usual in (*SPLIT_ALIASES.items(), ("eval", EITHER)):
        called = sorted((usual.index(word), name) for name, (own, word) in roles.items() if own == role and word)
        partly = [name for name, (own, word) in roles.items() if own == role and not word]
        split = role if role in SPLITS else next((name for name in ("test", "validation") if name not in found), None)
        if split is not None and (called or len(partly) == 1):
            found[split] = called[0][1] if called else partly[0]
    return found


def by_split(
    places: Sequence[str], *, where: str, remedy: str, known: Collection[str] = (), needs_train: bool = True
) -> dict[str, list[str]]:
    """Tell which files or folders serve which split by their names; those of none are left aside.

    Where none is named after a split, all are for training. `known`: splits whose files are chosen already.
    `needs_train`: whether splits without training data are an error where nothing else is there.
    """
    roles = {place: _place_role(place) for place in places}
    found: dict[str, list[str]] = {}
    for place, (role, _) in roles.items():
        if role is not None:
            found.setdefault(role, []).append(place)
    if "eval" in found:
        free = next((split for split in ("test", "validation") if split not in found), None)
        either = found.pop("eval")
        found |= {free: either} if free else {}
    called = {role for role, word in roles.values() if word}
    unnamed = [place for place, (role, _) in roles.items() if role is None]
    if "train" not in {*found, *known} and found and (needs_train or unnamed):
        raise ValueError(f"{where} holds {_named(found)}, but nothing called train, {_rest(unnamed)}: {remedy}")
    if "train" in known or "train" in called:
        return found
    if not found.keys() - {"train"}:
        return {"train": list(places)}
    if unnamed and not called:
        raise ValueError(f"{where} holds {_named(found)}, which look like splits, {_rest(unnamed)}: {remedy}")
    return found


def refuse_lone_train(found: Mapping[str, Sequence[str]], places: Sequence[str], *, where: str, remedy: str) -> None:
    """Refuse a folder or file that is called train beside others that no split is called like: a class, or a topic?"""
    rest = [place for place in places if place not in found.get("train", places)]
    if rest and set(found) == {"train"}:
        raise ValueError(
            f"{where} holds {_listed(found['train'])} and, named after no split, {_listed(rest)}: {remedy}"
        )


def described(where: str, found: Mapping[str, Sequence[str]], unused: Sequence[str]) -> str:
    """Say which files serve which split, and which none."""
    parts = [f"{split}: {_listed(found[split])}" for split in SPLITS if found.get(split)]
    parts += [f"{split}: cut from train" for split in SPLITS if "train" in found and split not in found]
    return f"{where}: " + "; ".join([*parts, *([f"unused: {_listed(unused)}"] if unused else [])])


def _named(found: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{_listed(places)} ({split})" for split, places in found.items())


def _rest(unnamed: Sequence[str]) -> str:
    return f"beside {_listed(unnamed)}" if unnamed else "and nothing else"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" ... ({len(names)})" if len(names) > 4 else "")


def missing_shares(given: Collection[str], *, validation: float, test: float) -> Shares:
    """Keep the shares of the splits that are not `given`."""
    return Shares(validation_share=validation * ("validation" not in given), test_share=test * ("test" not in given))


def stratified(
    labels: np.ndarray, *, validation_share: float, test_share: float, seed: int = 0
) -> dict[str, np.ndarray]:
    """Split rows so that each class keeps its shares: int64 row numbers per split, sorted."""
    parts: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[permuted(np.arange(len(rows)), len(rows), seed=seed, epoch=int(label), stream="split")]
        test = round(len(rows) * test_share)
        validation = test + round(len(rows) * validation_share)
        for name, part in (("test", rows[:test]), ("validation", rows[test:validation]), ("train", rows[validation:])):
            parts[name].append(part)
    return {name: np.sort(np.concatenate(part)) for name, part in parts.items()}


def split_of(text: str, *, validation_share: float, test_share: float) -> str:
    """Assign a text to a split by its hash: equal texts share their split, wherever and in what order they come."""
    digest = hashlib.blake2b(text.strip().encode(), digest_size=8, person=b"split").digest()
    place = int.from_bytes(digest, "little") / 2**64
    if place < test_share:
        return "test"
    return "validation" if place < test_share + validation_share else "train"


def carved(
    examples: Iterable[T], split: str, given: Collection[str], shares: Shares, text: Callable[[T], str] = str
) -> Iterator[T]:
    """Keep what belongs to `split` of the source's split of that name, or of its training examples, by their `text`."""
    if split in given and (split != "train" or not any(shares.values())):
        return iter(examples)
    return (example for example in examples if split_of(text(example), **shares) == split)
