"""Vectors in files: what was told of each example beside them, written piece by piece, whole or not at all.

Shapes: n examples of a piece, D width, K neighbours.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from pretraining.cache import replace_file
from pretraining.data.columns import one_type_of_ids
from pretraining.errors import RunError
from pretraining.settings import check_fields

VECTOR = "embedding"  # the name of their column


class Piece(NamedTuple):
    """Some examples: what is told of them, as a table, and their vectors."""

    table: pa.Table
    vectors: np.ndarray  # float32 [n, D]


def pieces_of(found: Iterable[tuple[list[dict[str, Any]], np.ndarray]]) -> Iterator[Piece]:
    """Make tables of what is told of examples; the first piece decides their columns."""
    schema, first = None, None
    for shown, vectors in found:
        first = one_type_of_ids(shown, first)
        table = pa.Table.from_pylist(shown, schema=schema)
        schema = table.schema
        yield Piece(table, vectors)


def write(pieces: Iterable[Piece], path: Path) -> int:
    """Write a file that is there when all of it is; returns how many vectors it holds."""
    writer, mode = FORMATS[path.suffix.lower()]
    with replace_file(path, mode) as file:
        return writer(iter(pieces), file)


def _write_parquet(pieces: Iterator[Piece], file: IO[Any]) -> int:
    """Write a row group per piece; vectors are lists of a fixed size."""
    count, writer = 0, None
    for table, vectors in pieces:
        flat = pa.array(vectors.reshape(-1))
        whole = table.append_column(VECTOR, pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
        writer = writer or pyarrow.parquet.ParquetWriter(file, whole.schema, compression="zstd")
        writer.write_table(whole, row_group_size=max(1, len(vectors)))
        count += len(vectors)
    if writer is not None:
        writer.close()
    return count


def _write_npy(pieces: Iterator[Piece], file: IO[Any]) -> int:
    """Write the vectors alone, [N, D]; the header, which has room for any N, is written again at the end."""
    count, width = 0, 0

    def header() -> None:
        described = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
        np.lib.format.write_array_header_1_0(file, described)

    for _, vectors in pieces:
        if not count:
            width = vectors.shape[1]
            header()
        file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
        count += len(vectors)
    file.seek(0)
    header()
    return count


def _write_csv(pieces: Iterator[Piece], file: IO[Any]) -> int:
    """Write a column for each number of a vector, such that it is read back as it was."""
    count, writer = 0, csv.writer(file)
    for table, vectors in pieces:
        if not count:
            writer.writerow([*table.column_names, *(f"{VECTOR}.{place}" for place in range(vectors.shape[1]))])
        told = zip(*(map(_cell, column.to_pylist()) for column in table.columns), strict=True)
        numbers = np.char.mod("%.9g", vectors).tolist()
        writer.writerows([*cells, *row] for cells, row in zip(told, numbers, strict=True))
        count += len(vectors)
    return count


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


FORMATS: dict[str, tuple[Callable[[Iterator[Piece], IO[Any]], int], str]] = {
    ".parquet": (_write_parquet, "wb"),
    ".npy": (_write_npy, "wb"),
    ".csv": (_write_csv, "w"),
}


# -- all of them at once -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """What is made of all vectors together: each example's nearest `neighbours`, a `picture` by a `method`."""

    neighbours: int | None = None
    picture: str | None = None
    method: str = "pca"

    def __post_init__(self) -> None:
        check_fields(self, "")


class Spool:
    """Keeps vectors in a file while they are made, so that they can be compared without being in memory twice."""

    def __init__(self, pieces: Iterable[Piece], file: IO[bytes]) -> None:
        self.tables, self.counts, width = list[pa.Table](), list[int](), 0
        for table, vectors in pieces:
            file.write(np.ascontiguousarray(vectors, np.float32).tobytes())
            self.tables.append(table)
            self.counts.append(len(vectors))
            width = vectors.shape[1]
        file.flush()
        self.vectors = np.memmap(file, np.float32, "r+", shape=(sum(self.counts), width))  # type: ignore[call-overload]

    def pieces(self, columns: dict[str, pa.Array]) -> Iterator[Piece]:
        """Serve the pieces again, with more `columns` of all examples."""
        first = 0
        for table, count in zip(self.tables, self.counts, strict=True):
            more = {name: values.slice(first, count) for name, values in columns.items()}
            for name, values in more.items():
                table = table.append_column(name, values)
            yield Piece(table, np.asarray(self.vectors[first : first + count]))
            first += count

    def names(self) -> pa.Array:
        """Name each example so that no two share a name: its `id`, file:id where files count alike, or a number."""
        whole = pa.concat_tables(self.tables)
        ids = [whole["id"].to_pylist()] if "id" in whole.column_names else []
        if "file" in whole.column_names and ids:
            ids.append([f"{file}:{own}" for file, own in zip(whole["file"].to_pylist(), ids[0], strict=True)])
        unlike = (names for names in ids if len(set(names)) == len(names))
        return pa.array(next(unlike, range(len(self.vectors))))


def neighbour_columns(spool: Spool, count: int) -> dict[str, pa.Array]:
    """Find each example's `count` nearest by cosine: the columns `neighbours` (their names) and `cosines`."""
    import torch

    from pretraining.probes import most_similar

    if not 1 <= count < len(spool.vectors):
        what = f"got neighbours={count} of {len(spool.vectors)} examples"
        raise RunError(f"{what}: give at least 1, and fewer than there are examples")
    places, cosines = most_similar(torch.from_numpy(spool.vectors), count)
    named = spool.names().take(pa.array(places.reshape(-1).numpy()))
    flat = pa.array(cosines.reshape(-1).numpy())
    lists = {"neighbours": named, "cosines": flat}
    return {name: pa.FixedSizeListArray.from_arrays(values, count) for name, values in lists.items()}
