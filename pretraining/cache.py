"""Directories that are built once, however many processes ask for them at the same time, and however often one is
killed at it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def key(parts: dict[str, Any]) -> str:
    """Turn what a result depends on into a directory name: 20 hexadecimal digits of its sha256."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def sha256(path: Path) -> str:
    """Hash a file in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pause_for_tests() -> None:
    """Sleep inside a write when a test wants to interrupt one (PRETRAINING_SLOW_WRITES seconds)."""
    seconds = os.environ.get("PRETRAINING_SLOW_WRITES")
    if seconds:
        time.sleep(float(seconds))


def build_once(directory: Path, build: Callable[[Path], None]) -> Path:
    """Give `directory`, complete; where it does not exist, `build` fills `<directory>.partial`, which is then renamed.

    One process builds and the others wait for it. What a killed build left in the partial directory is there for the
    next one to continue from, or to overwrite.
    """
    if not directory.exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _locked(directory.with_name(directory.name + ".lock")):
            if not directory.exists():
                partial = directory.with_name(directory.name + ".partial")
                partial.mkdir(exist_ok=True)
                build(partial)
                partial.rename(directory)
    return directory


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel drops when its owner dies. The file stays: removing it would let two owners in."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process is building {path.with_suffix('')}: waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
