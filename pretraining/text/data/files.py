"""Texts out of local files: .txt, .jsonl, .csv and .parquet, the first three also as .gz or .zst.

A table's row is a document. What a document of a .txt file is, its `layout` says:
`paragraphs` (lines up to a blank one), `sentences` (the same, and each line is one sentence: BERT's format),
`lines` (each line is one) or `files` (the whole file is one).
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from pretraining.data.splits import SPLITS

KINDS = (".txt", ".jsonl", ".csv", ".parquet")
COMPRESSIONS = (".gz", ".zst")
LAYOUTS = ("paragraphs", "sentences", "lines", "files")
MAX_DOCUMENT = 2**20  # characters; a longer document of a .txt file goes on as the next: no file has to fit in memory
TAKEN = "we take .txt, .jsonl, .csv and .parquet, and .gz or .zst of the first three"


def kind_of(path: Path) -> str:
    """Read a file's extension, without that of its compression."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in COMPRESSIONS else path.suffix.lower()


def find(pattern: str, *, key: str) -> list[Path]:
    """List the files of a path, a directory or a glob in the order of their names; `key` is what errors call it."""
    expanded = Path(pattern).expanduser()
    if expanded.is_dir():
        paths = [path for path in expanded.rglob("*") if path.is_file() and kind_of(path) in KINDS]
        missing = f"is a directory without a text file: {TAKEN}; set {key} to another path"
    else:
        paths = [path for path in map(Path, glob.glob(str(expanded), recursive=True)) if path.is_file()]
        missing = "matches no file" if glob.has_magic(pattern) else "does not exist"
        missing += f" (seen from {Path.cwd()}): set {key} to a file, a directory or a glob"
    if not paths:
        raise FileNotFoundError(f"{key}={pattern} {missing}")
    for path in paths:
        if kind_of(path) not in KINDS:
            raise ValueError(
                f"{key}={pattern}: {path} ends in {path.suffix or 'nothing'}, but {TAKEN}: narrow {key} to such files"
            )
    if not any(path.stat().st_size for path in paths):
        names = str(paths[0]) if len(paths) == 1 else f"all {len(paths)} files"
        raise ValueError(f"{key}={pattern}: {names} empty (0 bytes): set {key} to files with text")
    return sorted(paths)


def files_of_splits(path: str | Mapping[str, str]) -> dict[str, list[Path]]:
    """List the files of `data.path`: of all data, or of each split that it names."""
    if isinstance(path, str):
        return {"train": find(path, key="data.path")}
    if "train" not in path or not set(path) <= set(SPLITS):
        raise ValueError(
            f"data.path has the splits {sorted(path)}: give train, and validation and test where there are such files"
        )
    return {split: find(pattern, key=f"data.path.{split}") for split, pattern in path.items()}


def read_texts(path: Path, *, column: str, layout: str) -> Iterator[str]:
    """Read the documents of a file; those without a letter of text are left out."""
    kind = kind_of(path)
    if kind == ".txt":
        texts = _documents(_lines(path), layout)
    elif kind == ".jsonl":
        texts = _json_values(path, column)
    elif kind == ".csv":
        texts = _csv_values(path, column)
    else:
        texts = _parquet_values(path, column)
    return (text for text in texts if text and not text.isspace())


def _lines(path: Path) -> Iterator[str]:
    """Decode line by line, so that an error can say where."""
    position = 0
    try:
        with _opened(path) as file:
            for line in file:
                yield line.decode("utf-8-sig" if position == 0 else "utf-8")
                position += len(line)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {position + error.start} "
            f"({error.reason}): convert the file (iconv -t utf-8), or leave it out of data.path"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} cannot be decompressed after {position} bytes of text ({error}): it is damaged or cut short; "
            "fetch it again, or leave it out of data.path"
        ) from error


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


def _documents(lines: Iterable[str], layout: str) -> Iterator[str]:
    if layout == "lines":
        yield from lines
        return
    document: list[str] = []
    size = 0
    for line in lines:
        ends = layout != "files" and line.isspace()
        if (ends or size + len(line) > MAX_DOCUMENT) and document:
            yield "".join(document)
            document, size = [], 0
        if not ends:
            document.append(line)
            size += len(line)
    yield "".join(document)


def _json_values(path: Path, column: str) -> Iterator[str]:
    for number, line in enumerate(_lines(path), start=1):
        if line.isspace():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number} is not JSON ({error}): .jsonl has one object per line; correct the file"
            ) from error
        if not isinstance(record, dict) or column not in record:
            there = sorted(record) if isinstance(record, dict) else [f"no object but {type(record).__name__}"]
            raise ValueError(missing_column(f"{path}, line {number}", column, there))
        yield _string(record[column], f"{path}, line {number}", column)


def _csv_values(path: Path, column: str) -> Iterator[str]:
    csv.field_size_limit(2**31 - 1)
    rows = csv.DictReader(_lines(path))
    if column not in (rows.fieldnames or []):
        raise ValueError(missing_column(str(path), column, list(rows.fieldnames or [])))
    for row in rows:
        yield row[column] or ""


def _parquet_values(path: Path, column: str) -> Iterator[str]:
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if column not in names:
                raise KeyError(column)
            for batch in table.iter_batches(batch_size=1024, columns=[column]):
                for value in batch.column(0).to_pylist():
                    yield _string(value, str(path), column)
    except KeyError as error:
        raise ValueError(missing_column(str(path), column, names)) from error
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as parquet ({str(error).splitlines()[0]}): it is damaged or cut short; "
            "write it again, or leave it out of data.path"
        ) from error


def _string(value: Any, place: str, column: str) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(
            f"{place}: column {column!r} holds {type(value).__name__}, not text: "
            "set data.preparation.text_column to one that does"
        )
    return value or ""


def missing_column(place: str, column: str, there: list[str]) -> str:
    """Word the error of a table without the column."""
    names = ", ".join(map(repr, there)) or "none"
    return f"{place} has no column {column!r}, but {names}: set data.preparation.text_column to one of them"
