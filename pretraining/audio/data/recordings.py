"""Decoded once, read from then on: all recordings of a split as 16-bit samples in one memory-mapped file.

Shapes: R recordings, N samples of all of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from pretraining.audio.data.clips import Clip, EncodedClip, as_int16
from pretraining.cache import build_once, key, replace_file

FORMAT = 1  # raised when the same recordings would give other samples
OnBad = Literal["refuse", "skip"]
SHOWN = 3  # of the recordings that are left out
C = TypeVar("C")
T = TypeVar("T")


@dataclass(frozen=True)
class Recordings:
    """A split's samples."""

    samples: np.ndarray  # int16 [N]
    offsets: np.ndarray  # int64 [R + 1]
    kept: np.ndarray  # int64 [R]: which of the clips they are

    @property
    def lengths(self) -> np.ndarray:
        """Count each recording's samples. int64 [R]"""
        return np.diff(self.offsets)


def read_recordings(clips: Sequence[Clip], rate: int, cache_dir: Path, identity: str, on_bad: OnBad) -> Recordings:
    """Open the samples of all clips at `rate`, decoding them when the cache does not hold them.

    `identity` stands for the content of the clips. A clip that cannot be read is an error, or left out and named.
    """
    check_on_bad(on_bad)
    if not len(clips):
        raise ValueError("the data hold no recordings: give more (data.path=)")
    parts = {"clips": identity, "rate": rate, "on_bad": on_bad, "format": FORMAT}
    directory = build_once(
        cache_dir / "recordings" / key(parts), lambda partial: _decode_all(clips, rate, partial, on_bad)
    )
    kept, offsets = (np.load(directory / f"{name}.npy") for name in ("kept", "offsets"))
    return Recordings(np.memmap(directory / "samples.bin", np.int16, "r"), offsets, kept)


def check_on_bad(on_bad: str) -> None:
    """Refuse what `on_bad` cannot be."""
    if on_bad not in ("refuse", "skip"):
        raise ValueError(f"got data.on_bad={on_bad}: choose refuse or skip")


def _decode_all(clips: Sequence[Clip], rate: int, directory: Path, on_bad: OnBad) -> None:
    lengths, kept, bad = [], [], []
    with replace_file(directory / "samples.bin", "wb") as file:
        for number, found in enumerate(decoded(clips, rate)):
            if isinstance(found, ValueError):
                if on_bad == "refuse":
                    raise ValueError(f"{found} (or set data.on_bad=skip)") from found
                bad.append(str(found))
                continue
            file.write(found.tobytes())
            lengths.append(len(found))
            kept.append(number)
        refuse_all_bad(kept, bad)
    tell_left_out(bad, len(clips))
    np.save(directory / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    np.save(directory / "kept.npy", np.array(kept, np.int64))


def tell_left_out(bad: Sequence[str], count: int) -> None:
    """Name the first of the recordings that are left out."""
    if bad:
        told = "\n  ".join(bad[:SHOWN])
        print(f"{len(bad)} of {count} recordings are left out:\n  {told}", file=sys.stderr)


def refuse_all_bad(kept: Sequence[int], bad: Sequence[str]) -> None:
    """Refuse recordings of which none can be read."""
    if not kept:
        raise ValueError(f"none of {len(bad)} recordings can be read; the first: {bad[0]}")


def readable(clips: Sequence[EncodedClip]) -> list[int]:
    """Number the recordings that can be read, decoding each at its own rate; the others are named."""
    found = list(each(clips, lambda clip: as_int16(clip.as_written()[0], clip.name).size))
    bad = [str(error) for error in found if isinstance(error, ValueError)]
    kept = [number for number, what in enumerate(found) if not isinstance(what, ValueError)]
    refuse_all_bad(kept, bad)
    tell_left_out(bad, len(clips))
    return kept


def decoded(clips: Sequence[Clip], rate: int) -> Iterator[np.ndarray | ValueError]:
    """Decode at `rate` a few clips ahead, in order."""
    return each(clips, lambda clip: clip.samples(rate))


def each(clips: Sequence[C], read: Callable[[C], T]) -> Iterator[T | ValueError]:
    """Read in threads (the decoders release the interpreter lock); what is wrong with a clip takes its place."""

    def one(clip: C) -> T | ValueError:
        try:
            return read(clip)
        except ValueError as error:
            if isinstance(error.__cause__, ImportError):  # a lack of this installation, and no clip's fault
                raise
            return error

    count = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(count) as threads:
        for start in range(0, len(clips), 16 * count):  # so many at a time are in memory
            yield from threads.map(one, clips[start : start + 16 * count])
