"""Folders of the user's: which of them serves which split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pretraining.data.files import is_hidden, say
from pretraining.data.splits import SPLITS, by_split, described, names_of_splits, refuse_lone_train

REMEDY = "say which is which with data.path={train: …, validation: …, test: …}, or take all with data.path={train: …}"


def split_folders(
    path: str | Mapping[str, str],
    *,
    of: str,
    known: Mapping[str, str] | None = None,
    needs_train: bool = True,
    remedy: str = REMEDY,
) -> dict[str, Path]:
    """Find the folder of each split, by its name where `path` does not give it; and say which serves which.

    `of` names one of what they hold; `known`: folders of splits that are chosen already; `needs_train`: see `by_split`;
    `remedy` says how folders are told apart.
    """
    if isinstance(path, Mapping):
        if "train" not in path or not set(path) <= set(SPLITS):
            raise ValueError(f"data.path has the splits {sorted(path)}: give train, and validation and test if any")
        return {split: _folder(part, f"data.path.{split}", of) for split, part in path.items()}
    if not isinstance(path, str):
        raise ValueError(f"data.path={path}: give one folder, or one for each of train, validation and test")
    root, where = _folder(path, "data.path", of), f"data.path={path}"
    known = known or {}
    there = {part.name for part in root.iterdir() if part.is_dir() and not is_hidden(part.name)}
    names = sorted(there - set(known.values()))
    if known and not names:
        return {}
    found = by_split(names, where=where, remedy=remedy, known=known, needs_train=needs_train)
    alone = len(names) == 1 and bool(names_of_splits(names))  # a split whose classes are below, no class
    if found.get("train") == names and not alone:
        return {"train": root}
    if not known:
        refuse_lone_train(found, names, where=where, remedy=remedy)
    double = next((split for split, parts in found.items() if len(parts) > 1), None)
    if double is not None:
        raise ValueError(f"{where} holds several folders for {double}, {', '.join(found[double])}: {remedy}")
    used = [part for parts in found.values() for part in parts]
    told = {split: [name] for split, name in known.items()} | found
    say(described(where, told, [name for name in names if name not in used]))
    return {split: root / parts[0] for split, parts in found.items()}


def _folder(path: str, key: str, of: str) -> Path:
    root = Path(path).expanduser()
    if not root.is_dir():
        what = "is not a directory" if root.exists() else "does not exist"
        raise FileNotFoundError(f"{key}={path} {what} (seen from {Path.cwd()}): set {key} to a folder of {of}s")
    return root
