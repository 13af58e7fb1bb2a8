"""Files of the user's: which ones a path means, what their names end in, and their lines, decompressed."""

from __future__ import annotations

import glob
import gzip
import io
import json
import os
import re
import sys
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretraining.distributed.environment import process_rank

TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
KINDS = (".txt", *TABLES)
COMPRESSIONS = (".gz", ".zst")
TAKEN = "we take .txt, .jsonl, .csv and .parquet, .tsv and .json, and .gz or .zst of all but .parquet"
Paths = str | Sequence[str]  # of a file, a directory or a glob; or several


def say(line: str) -> None:
    """Tell, once for all ranks, what was found in the data."""
    if process_rank() == 0:
        print(line, file=sys.stderr)


def kind_of(path: Path) -> str:
    """Read a file's extension, in small letters and without that of its compression."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in COMPRESSIONS else path.suffix.lower()


def find(path: Paths, *, key: str, kinds: Collection[str] = KINDS) -> list[Path]:
    """List the files of a path in the order of their names; `key` is what errors call it.

    A path is a file or a directory, else a glob; or a list of such.
    """
    if isinstance(path, Mapping):
        raise ValueError(f"{key}={path}: paths of single splits are not taken here, but a file, a directory or a glob")
    parts = [path] if isinstance(path, str) else list(path)
    if not parts or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"{key}={path}: give a file, a directory, a glob or a list of such")
    paths = sorted({found for part in parts for found in _matching(part, key, kinds)})
    for found in paths:
        if kind_of(found) not in kinds:
            taken = TAKEN if kinds is KINDS else f"we take {', '.join(kinds)}"
            raise ValueError(
                f"{key}={path}: {found} ends in {found.suffix or 'nothing'}, but {taken}: narrow {key} to such files"
            )
    if not any(found.stat().st_size for found in paths):
        names = str(paths[0]) if len(paths) == 1 else f"all {len(paths)} files"
        raise ValueError(f"{key}={path}: {names} empty (0 bytes): set {key} to files with text")
    return paths


def _matching(pattern: str, key: str, kinds: Collection[str]) -> list[Path]:
    literal = Path(pattern).expanduser()
    if literal.is_dir():
        paths = [path for path in walk(literal) if kind_of(path) in kinds]
        tables = [path for path in paths if kind_of(path) != ".json"]  # beside others, .json describes them
        if tables and len(tables) < len(paths):
            say(f"{key}={pattern}: {len(paths) - len(tables)} .json beside other files left aside")
        paths = tables or paths
        missing = f"is a directory without a text file: {TAKEN}; set {key} to another path"
        if kinds is not KINDS:
            missing = f"holds no file ending in {', '.join(kinds)}: set {key} to another path"
    elif literal.is_file():
        return [literal]
    else:
        paths = [path for path in map(Path, glob.glob(str(literal), recursive=True)) if path.is_file()]
        missing = "matches no file" if glob.has_magic(pattern) else "does not exist"
        missing += f" (seen from {Path.cwd()}): set {key} to a file, a directory or a glob"
    if not paths:
        raise FileNotFoundError(f"{key}={pattern} {missing}")
    return paths


def places_of(files: Sequence[Path]) -> dict[str, Path]:
    """Name files from the deepest folder that holds them all."""
    root = os.path.commonpath([file.absolute().parent for file in files])
    return {os.path.relpath(file.absolute(), root): file for file in files}


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is none of the user's own, but of the system's or an editor's."""
    return name.startswith(".") or name == "__MACOSX"


def walk(root: Path) -> list[Path]:
    """List the files below a directory, by name. Links are followed; hidden parts are skipped, and counted aloud."""
    files, hidden, broken = [], 0, 0
    for folder, folders, names in os.walk(root, followlinks=True):
        place = Path(folder)
        for name in (*folders, *names):
            path = place / name
            if is_hidden(name):
                hidden += 1
            elif name in folders and path.is_symlink():
                _refuse_cycle(path, root)
            elif path.is_file():
                files.append(path)
            else:
                broken += path.is_symlink() and not path.exists()
        folders[:] = [name for name in folders if not is_hidden(name)]
    if hidden or broken:
        links = f" and {broken} broken link{'s' * (broken > 1)}" if broken else ""
        say(f"{root}: skipped {hidden} hidden{links}")
    return sorted(files)


def _refuse_cycle(link: Path, root: Path) -> None:
    above = [path for path in link.parents if path == root or root in path.parents]
    if link.resolve() in {path.resolve() for path in above} | set(root.resolve().parents):
        raise ValueError(f"{link} links back to a folder that it lies in: remove the link")


def lines(path: Path) -> Iterator[str]:
    """Decode a file line by line, so that an error can say where."""
    position = 0
    try:
        with _opened(path) as file:
            for line in file:
                text = line.decode("utf-8-sig" if position == 0 else "utf-8")
                if position == 0 and "\r" in text and not text.endswith("\n"):  # no other line end in all of the file
                    yield from re.split(r"(?<=\r)(?!$)", text)
                elif text:  # of the mark of an encoding alone there is nothing left
                    yield text
                position += len(line)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {position + error.start} "
            f"({error.reason}): convert the file (iconv -t utf-8), or leave it out"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} cannot be decompressed after {position} bytes of text ({error}): it is damaged or cut short; "
            "fetch it again, or leave it out"
        ) from error


def first_words(path: Path) -> list[str]:
    """Read a list of names: the first word of each line."""
    return [line.split()[0] for line in lines(path) if line.strip()]


def parse_json(text: str, place: str, cure: str = "correct the file") -> Any:
    """Parse JSON; what is none is an error that says where."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON ({error}): {cure}") from error


def _opened(path: Path) -> Any:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")
    if path.suffix.lower() == ".zst":
        return io.BufferedReader(_Zstd(path), buffer_size=2**17)
    return path.open("rb")


class _Zstd(io.RawIOBase):
    """A zstd file of any number of frames, as a raw stream. (The library's own takes a cut file for a whole one.)"""

    def __init__(self, path: Path) -> None:
        try:
            import zstandard  # an optional dependency
        except ImportError as error:
            raise ValueError(
                f"data.path names {path}, but zstandard is not installed: pip install zstandard"
            ) from error
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._frame, self._error = self._new_frame(), zstandard.ZstdError
        self._file = path.open("rb")
        self._compressed = self._ready = b""
        self._inside = False  # of a frame

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with what is decompressed next."""
        while not self._ready:
            self._compressed = self._compressed or self._file.read(2**17)
            if not self._compressed:
                if self._inside:
                    raise EOFError("the last frame has no end")
                return 0
            if not self._inside:
                self._frame, self._inside = self._new_frame(), True
            self._ready = self._decompress()
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def _decompress(self) -> bytes:
        try:
            ready = self._frame.decompress(self._compressed)
        except self._error as error:
            raise EOFError(str(error)) from error
        self._compressed, self._inside = self._frame.unused_data, not self._frame.eof
        return ready

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
