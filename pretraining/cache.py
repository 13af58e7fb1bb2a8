"""Files and directories that are complete or absent, and locks: for many processes, each of which may be killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from pretraining.errors import NoSpaceError, RunError, reason_of

RESTORE = "restore it, or take another run"
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_IN_WORDS = ("os error 28", "No space left", "unexpected pos")  # of safetensors, arrow and torch


def default_cache() -> str:
    """Name the directory of what is made once, where no other is given: PRETRAINING_CACHE, or one below the home."""
    return os.environ.get("PRETRAINING_CACHE", "~/.cache/pretraining")


def key(parts: dict[str, Any]) -> str:
    """Turn what a result depends on into a directory name: 20 hexadecimal digits of its sha256."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def sha256(path: Path) -> str:
    """Hash a file in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or the list of a directory's files, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def share(directory: Path) -> None:
    """Let those read the files below a directory who may read it: libraries write weights for their owner alone."""
    mode = directory.stat().st_mode & 0o666
    for path in directory.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def is_full(error: BaseException | None) -> bool:
    """Tell whether an error is about a full disk, or came of one that is."""
    seen = set[int]()
    while error is not None and id(error) not in seen:  # a chain may be a circle
        seen.add(id(error))
        if getattr(error, "errno", None) in FULL or any(words in str(error) for words in FULL_IN_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def room(directory: Path, needed: int = 0) -> Iterator[None]:
    """Turn what is raised inside because of a full disk into a `NoSpaceError` about `directory`."""
    try:
        yield
    except NoSpaceError:
        raise
    except Exception as error:  # safetensors' own derives from nothing narrower
        if not is_full(error):
            raise
        raise NoSpaceError(directory, needed) from error


def reserve(path: Path) -> None:
    """Take a sparse file's space on disk now: without it, a write to its memory map would end the process."""
    with path.open("rb+") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


@contextlib.contextmanager
def replace_file(path: Path, mode: str = "w", *, needed: int = 0) -> Iterator[IO[Any]]:
    """Open a file that replaces `path` at the end of the block, once it is on disk; a block that fails changes nothing.

    One process at a time may write to a path. What a killed one leaves (`.NAME.writing`) is overwritten by the next.
    `needed`: bytes, about, for the message about a full disk.
    """
    temporary = path.with_name(f".{path.name}.writing")
    options: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    with room(path.parent, needed), temporary.open(mode, **options) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    sync(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replace_file(path) as file:
        file.write(text)


def read_object(path: Path, parse: Callable[[str], Any] = json.loads) -> dict[str, Any]:
    """Read an object that a run wrote, as json or as `parse` has it; one that was damaged since is an error."""
    try:
        content = parse(path.read_text("utf-8"))
    except OSError:
        raise
    except Exception as error:  # parsers raise what they meet: ValueError, RecursionError, of yaml their own
        raise RunError(f"{path} is damaged ({reason_of(error)}): {RESTORE}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged (it holds {type(content).__name__}, not named values): {RESTORE}")
    return content


def try_lock(path: Path) -> IO[str] | None:
    """Lock a file, made if need be, until it is closed or this process dies; None where another process holds the lock.

    Its content stays: it may tell of the process that has the lock. Removing the file would let two owners in.
    """
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def lock(path: Path, waiting: str | None = None) -> IO[str]:
    """Lock a file as `try_lock` does, but wait for a process that holds it, of which the message `waiting` tells."""
    file = try_lock(path)
    if file is None:
        if waiting is not None:
            print(waiting, file=sys.stderr, flush=True)
        file = path.open("a+", encoding="utf-8")
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def is_locked(path: Path) -> bool:
    """Tell whether a process has locked a file; needs the right to read it alone."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def build_once(directory: Path, build: Callable[[Path], None]) -> Path:
    """Return `directory`, complete; where there is none, `build` fills `<directory>.partial`, which is then renamed.

    One process builds, others wait. The next build continues from what a killed one left there, or overwrites it; what
    filled the disk is removed.
    """
    if not directory.exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        waiting = f"another process is building {directory}: waiting for it"
        with lock(directory.with_name(directory.name + ".lock"), waiting):
            if not directory.exists():
                partial = directory.with_name(directory.name + ".partial")
                partial.mkdir(exist_ok=True)
                try:
                    build(partial)
                    partial.rename(directory)
                except Exception as error:
                    if not is_full(error):
                        raise
                    written = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
                    shutil.rmtree(partial)
                    raise NoSpaceError(directory.parent, written) from error
    return directory
