"""Shards in WebDataset's layout: tar files whose members of the same name, up to its first dot, are one example."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from tarfile import BLOCKSIZE
from typing import NamedTuple

from pretraining.data.files import is_hidden, say
from pretraining.image.data.files import SUFFIXES
from pretraining.pairs.data.base import naming
from pretraining.pairs.data.captioned import Captioned, identities
from pretraining.pairs.data.captions import captions_of
from pretraining.pairs.data.contents import Stored

TEXTS = (".txt", ".json")


class Member(NamedTuple):
    """A file inside of a shard."""

    name: str
    content: Stored


def read_shards(files: Sequence[Path], column: str) -> Iterator[Captioned]:
    """List the images with captions: of each NAME.txt one, of NAME.json those under `column`; members that are
    neither are left aside. Images are read when they are asked for.
    """
    known, named = identities(files), naming(files)
    found, aside = list[tuple[Path, str, Member, Member]](), list[Member]()
    for file in files:
        examples = _examples(file)
        aside += [part for parts in examples.values() for kind, part in parts.items() if _is_dotted(kind)]
        for name, parts in examples.items():
            image, text = (next((parts[kind] for kind in kinds if kind in parts), None) for kinds in (SUFFIXES, TEXTS))
            if image is None and text is None:
                continue
            if image is None or text is None:
                lacks = "image" if image is None else "caption (.txt or .json)"
                raise ValueError(f"{file}, {name} has no {lacks}: write the shard again, or drop the example")
            found.append((file, name, image, text))
    told = f"left aside {len(aside)} members, {_why(aside[0])}" if aside else "give NAME.jpg and NAME.txt for each"
    if not found:
        raise ValueError(f"{files[0]}{' ...' * (len(files) > 1)} holds no image with a caption: {told}")
    if aside:
        say(f"{files[0].parent}: {told}")
    said = captions_of(((_text(text, column), f"{file}, {name}") for file, name, _, text in found), "an image")
    for (file, name, image, _), captions in zip(found, said, strict=True):
        identity = f"{known[file]},{image.name}"
        content = image.content
        yield Captioned(f"{named(file)}/{name}", f"{file}, {name}", content.read, identity, content, captions)


def _is_dotted(kind: str) -> bool:
    """Tell whether an extension has dots inside, and would be an image's or a text's without what is before them."""
    return kind.count(".") > 1 and PurePosixPath(kind).suffix in (*SUFFIXES, *TEXTS)


def _why(member: Member) -> str:
    """Say why a member is left aside, and what to call it."""
    path = PurePosixPath(member.name)
    stem, _, rest = path.name.partition(".")
    better = path.with_name(path.stem.replace(".", "_") + path.suffix)
    told = f"such as {member.name} of {member.content.file.name}: an example's name ends at its first dot"
    return f"{told} ({stem}, and the rest is its extension .{rest}); rename it {better} if it is of an example"


def _examples(file: Path) -> dict[str, dict[str, Member]]:
    """Bring members together: by name up to the first dot, then by the rest of it in small letters."""
    found: dict[str, dict[str, Member]] = {}
    whole = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as shard:
            for member in shard:
                if member.isreg() and member.offset_data - (-member.size // BLOCKSIZE) * BLOCKSIZE > whole:
                    raise tarfile.ReadError(f"it is truncated within {member.name}")
                path = PurePosixPath(member.name)
                if member.isfile() and not any(map(is_hidden, path.parts)):
                    stem, dot, rest = path.name.partition(".")
                    parts = found.setdefault(str(path.parent / stem), {})
                    kind = (dot + rest).lower()
                    if kind in parts:
                        cure = "give each example a name of its own"
                        raise ValueError(f"{file} holds {member.name} twice (capitals are alike): {cure}")
                    parts[kind] = Member(member.name, Stored(file, member.offset_data, member.size))
            _refuse_truncated(file, shard)
    except tarfile.TarError as error:
        cure = "fetch or write it again, uncompressed"
        raise ValueError(f"{file} cannot be read as a tar file ({error}): {cure}") from error
    return found


def _refuse_truncated(file: Path, shard: tarfile.TarFile) -> None:
    """Refuse a shard without a tar's end, a block of zeros: `tarfile` takes what is cut between members as whole."""
    with file.open("rb") as content:
        content.seek(shard.offset)
        if content.read(BLOCKSIZE) != tarfile.NUL * BLOCKSIZE:
            last = f" after {shard.getnames()[-1]}" if shard.getnames() else ""
            raise tarfile.ReadError(f"it is truncated{last}")


def _text(member: Member, column: str) -> object:
    place = f"{member.content.file}, {member.name}"
    try:
        text = member.content.read().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{place} is not UTF-8 ({error.reason}): write it again") from error
    if not member.name.lower().endswith(".json"):
        return text.strip()
    try:
        record = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place} is not JSON ({error}): write it again") from error
    if not isinstance(record, dict) or column not in record:
        there = ", ".join(record) if isinstance(record, dict) else "no object"
        raise ValueError(f"{place} has no {column!r}, but {there}: set data.columns.text")
    return record[column]
