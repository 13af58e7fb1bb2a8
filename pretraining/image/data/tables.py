"""Images in tables: parquet files, and what `datasets` has loaded."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretraining.cache import sha256
from pretraining.data.labels import one_type, present
from pretraining.data.tables import Table as Columns
from pretraining.data.tables import content_of, open_parquet, read_table
from pretraining.image.data.decode import Encoded
from pretraining.image.data.encoded import Table


def read_parquet(
    splits: Mapping[str, Sequence[Path]], *, image: str, label: str, missing: str | None = None
) -> dict[str, Table]:
    """Open tables whose `image` column holds encoded images, as bytes or as {bytes, path}. Tables are identified by
    their content, files that they name by sizes and times.

    The images themselves are read when the first of them is asked for: a run that finds their pixels in the cache never
    does.
    """
    for path in (path for files in splits.values() for path in files):
        _check(path, image, label)
    read = {split: read_table(files, [label]) for split, files in splits.items()}
    whole = present(read, {"data.columns.label": label}, label=label, missing=missing)
    class_names = numbered(whole, label)
    found = {}
    for split, files in splits.items():
        sizes = np.bincount(read[split].source, minlength=len(files))
        rows = (np.cumsum(sizes) - sizes)[whole[split].source] + whole[split].number
        encoded = _encoded(whole[split], _LazyColumn(list(files), image), rows)
        kept = rows.tobytes() if len(rows) < sizes.sum() else b""
        outside = b"".join(_outside(path, image) for path in files)
        identity = hashlib.sha256("".join(map(sha256, files)).encode() + kept + outside).hexdigest()
        found[split] = Table(encoded, np.array(whole[split].columns[label], np.int64), class_names, identity)
    return found


def _check(path: Path, image: str, label: str) -> None:
    with open_parquet(path) as table:
        there = table.schema_arrow.names
    for column in (image, label):
        if column not in there:
            raise ValueError(
                f"{path} has no column {column!r}, only {', '.join(there)}: use data=hub_images to name columns"
            )


def _encoded(table: Columns, cells: _LazyColumn, rows: np.ndarray) -> Encoded:
    return Encoded([table.place(row) for row in range(table.size)], lambda place: cells.read(int(rows[place])))


def numbered(tables: Mapping[str, Columns], label: str) -> tuple[str, ...]:
    """Turn labels into class numbers, the same ones in all splits; returns the names of text, none of integers."""
    one_type(tables, label)
    values = {value for table in tables.values() for value in table.columns[label] if not isinstance(value, list)}
    odd = next((value for value in values if not isinstance(value, (str, int))), None)
    if odd is not None or not values:
        what = "lists" if odd is None else f"real numbers as labels ({odd}, ...)"
        raise ValueError(f"got {what} in column {label!r}, but classes are needed: name another data.columns.label")
    if all(isinstance(value, int) for value in values):
        return ()
    return _number(tables, label, sorted(values))


def _number(tables: Mapping[str, Columns], label: str, values: Sequence[Any]) -> tuple[str, ...]:
    places = {value: number for number, value in enumerate(values)}
    for table in tables.values():
        table.columns[label][:] = [places[value] for value in table.columns[label]]
    return tuple(map(str, values))


class _LazyColumn:
    """A column of encoded images, loaded when first read; once, although decoding threads ask for it together."""

    def __init__(self, files: list[Path], image: str) -> None:
        self.files, self.image, self.lock = files, image, threading.Lock()
        self.cells: Any = None

    def read(self, row: int) -> bytes:
        """Read one encoded image."""
        with self.lock:
            if self.cells is None:
                self.cells = [self._load(path) for path in self.files]
                self.starts = np.cumsum([0, *map(len, self.cells)])
        place = int(np.searchsorted(self.starts, row, side="right")) - 1
        file, own = self.files[place], row - int(self.starts[place])
        return content_of(self.cells[place][own].as_py(), file.parent, f"{file}, row {own}")

    def _load(self, path: Path) -> Any:
        with open_parquet(path) as table:
            return table.read(columns=[self.image])[self.image]


def _outside(path: Path, image: str) -> bytes:
    """Know the files that rows name in place of bytes by their sizes and times."""
    with open_parquet(path) as table:
        groups = [table.metadata.row_group(number) for number in range(table.num_row_groups)]
        columns = [group.column(number) for group in groups for number in range(group.num_columns)]
        own = [column.statistics for column in columns if column.path_in_schema == f"{image}.bytes"]
        if all(facts is not None and facts.has_null_count and not facts.null_count for facts in own):
            return b""
        cells = table.read(columns=[f"{image}.path"])[image].to_pylist()
    files = [path.parent / cell["path"] for cell in cells if cell and cell.get("path")]
    facts = [(file, file.stat()) for file in files if file.is_file()]
    return repr([(str(file), stat.st_size, stat.st_mtime_ns) for file, stat in facts]).encode()


def hub_tables(parts: Mapping[str, Any], name: str, *, image: str, label: str | None) -> dict[str, Table]:
    """Open the splits of a loaded data set."""
    for split, part in parts.items():
        check_part(part, f"data.name={name}", split, {"image": image, "label": label}, image)
    numbers: dict[str, Any] = dict.fromkeys(parts)
    class_names: tuple[str, ...] = ()
    if label is not None:
        columns = {
            split: Columns.of(f"data.name={name}, split {split}, row", {label: part[label][:]})
            for split, part in parts.items()
        }
        columns = present(columns, {"data.label": label}, label=label)
        stored = getattr(parts["train"].features[label], "names", None)
        class_names = tuple(stored or numbered(columns, label) or _named_integers(columns, label))
        numbers = {split: np.array(table.columns[label], np.int64) for split, table in columns.items()}
    return {
        split: Table(hub_images(part, name, split, image), numbers[split], class_names, f"{part._fingerprint}:{image}")
        for split, part in parts.items()
    }


def _named_integers(columns: Mapping[str, Columns], label: str) -> tuple[str, ...]:
    return _number(columns, label, sorted({value for table in columns.values() for value in table.columns[label]}))


def check_part(part: Any, where: str, split: str, columns: Mapping[str, str | None], image: str) -> None:
    """Refuse a split without rows, without one of the `columns` (by the keys that set them), or with text as images."""
    for key, column in columns.items():
        if column is not None and column not in part.column_names:
            raise ValueError(f"{where} has no column {column!r}, only {', '.join(part.column_names)}: set data.{key}")
    if not len(part):
        raise ValueError(f"{where}: the split {split} is empty")
    if getattr(part.features[image], "dtype", None) in ("string", "large_string"):
        raise ValueError(
            f"{where}: column {image!r} holds text ({str(part[0][image])[:40]!r}), and not encoded images: give a "
            "column of images or of their bytes (data.image=), or a folder (data=image_folder)"
        )


def hub_images(part: Any, name: str, split: str, image: str) -> Encoded:
    """Open a split's column of encoded images."""
    import datasets

    encoded = part.cast_column(image, datasets.Image(decode=False))

    def read(row: int) -> bytes:
        return content_of(encoded[row][image], Path(), names[row])

    names = [f"image {row} of {name} ({split})" for row in range(len(part))]
    return Encoded(names, read)
