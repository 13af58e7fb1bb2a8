"""Which of many pictures or recordings, under whatever names, are the same bytes: most of them are hardly read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

END, AT_ONCE = 4096, 2**20  # bytes


class Content(Protocol):
    """Bytes, wherever they are, of which one may know more and more."""

    @property
    def size(self) -> int:
        """Their number."""
        ...

    def end(self) -> bytes:
        """Hash the last of them."""
        ...

    def digest(self) -> bytes:
        """Hash all of them."""
        ...


class Stored(NamedTuple):
    """Bytes in a file."""

    file: Path
    start: int
    size: int

    @classmethod
    def of(cls, file: Path) -> Stored:
        """Take a whole file."""
        return cls(file, 0, file.stat().st_size)

    def read(self) -> bytes:
        """Read all of them."""
        return self._part(0, self.size)

    def end(self) -> bytes:
        """See `Content.end`."""
        skipped = max(0, self.size - END)
        return hashlib.sha256(self._part(skipped, self.size - skipped)).digest()

    def digest(self) -> bytes:
        """See `Content.digest`; few are in memory at once."""
        found = hashlib.sha256()
        for start in range(0, self.size, AT_ONCE):
            found.update(self._part(start, min(AT_ONCE, self.size - start)))
        return found.digest()

    def _part(self, start: int, count: int) -> bytes:
        with self.file.open("rb") as file:
            file.seek(self.start + start)
            return file.read(count)


class Seen(NamedTuple):
    """What is known of bytes that were in memory."""

    size: int
    last: bytes
    whole: bytes

    @classmethod
    def of(cls, content: bytes) -> Seen:
        """Hash them."""
        return cls(len(content), hashlib.sha256(content[-END:]).digest(), hashlib.sha256(content).digest())

    def end(self) -> bytes:
        """See `Content.end`."""
        return self.last

    def digest(self) -> bytes:
        """See `Content.digest`."""
        return self.whole


def told_apart(contents: Sequence[Content]) -> list[Hashable]:
    """Find what equal contents share, and no others: their size, where that is not enough a hash of their last bytes,
    and where these are equal, too, one of all.
    """
    keys: list[Hashable] = [content.size for content in contents]
    for look in ("end", "digest"):
        counts = Counter(keys)
        keys = [
            (key, getattr(content, look)()) if counts[key] > 1 else key
            for key, content in zip(keys, contents, strict=True)
        ]
    return keys
