"""Images with annotated objects: COCO's json, Pascal VOC's xml, or tables."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finetuning.data.annotations import Checker, Part, Record, check_classes, numbered
from finetuning.data.base import LabelledData
from finetuning.data.coco import read_coco
from finetuning.data.pictures import cells_encoded, levels, size_of
from finetuning.data.splits import Examples
from finetuning.data.tables import CARVE, class_names, find_splits, read_splits
from finetuning.data.voc import read_voc
from finetuning.dense.masks import Mask, encode, from_coco
from pretraining.cli.configuration import as_run_errors
from pretraining.data.files import Paths, first_words, kind_of, walk
from pretraining.data.splits import SPLIT_ALIASES
from pretraining.data.tables import Table
from pretraining.image.modality import IMAGE

Parts = tuple[dict[str, Part], list[str]]


@dataclass(kw_only=True)
class LabelledObjects(LabelledData):
    """Images with objects at `path`, read as the kind of files there: .json (COCO), .xml (Pascal VOC) or .parquet.

    `columns` names those of tables; a dot leads into one of objects ("objects.bbox"). `boxes` says how they are
    written, xyxy or xywh (of COCO's always xywh, of VOC's xyxy). `masks`: read each object's mask too. `class_names`
    name a table's class numbers, where it does not itself.
    """

    modality = IMAGE
    path: Paths
    columns: dict[str, str | None] = field(
        default_factory=lambda: {
            "image": "image",
            "boxes": "objects.bbox",
            "classes": "objects.category",
            "masks": None,
            "name": None,
        }
    )
    boxes: str = "xyxy"
    channels: int = 3
    masks: bool = False
    class_names: list[str] | None = None
    eval_batch_size: int = 16
    batch_size: int = 8

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Read and check the splits that are there."""
        self.refuse_missing()
        with as_run_errors():
            (parts, names), checker = self._read()
            found = {split: checker.examples(part, split, self.channels) for split, part in parts.items()}
            if "train" in found:
                check_classes(found, names)
            return found, names

    def _read(self) -> tuple[Parts, Checker]:
        root = Path(self.path).expanduser() if isinstance(self.path, str) else None
        kinds = {kind_of(file) for file in walk(root)} if root and root.is_dir() else {kind_of(root)} if root else set()
        if ".parquet" not in kinds and ".xml" in kinds:
            if self.masks:
                raise ValueError(f"data.path={self.path} holds xml files, which have boxes alone: take task=detection")
            assert root is not None
            return self._voc(root), Checker("xyxy")
        if ".parquet" not in kinds and ".json" in kinds:
            assert root is not None
            return self._coco(root if root.is_dir() else root.parent), Checker("xywh")
        return self._tables(), Checker(self.boxes)

    def _coco(self, root: Path) -> Parts:
        files = find_splits(self.path, self.split.named, (".json",))
        read = {split: [read_coco(file, root, masks=self.masks) for file in part] for split, part in files.items()}
        several = next((split for split, part in read.items() if len(part) > 1), None)
        if several is not None:
            what = f"data.path={self.path} holds {len(read[several])} json files for {several}"
            raise ValueError(f"{what}: name one with data.split.{several}=")
        names = {split: part[0][1] for split, part in read.items()}
        first = next(iter(names))
        odd = next((split for split in names if names[split] != names[first]), None)
        if odd is not None:
            what = f"{files[first][0]} and {files[odd][0]} have different categories"
            raise ValueError(f"{what} ({names[first][:4]}, {names[odd][:4]}): give them the same")
        return {split: part[0][0] for split, part in read.items()}, names[first]

    def _voc(self, root: Path) -> Parts:
        files = _voc_files(root, self.split.named) or find_splits(self.path, self.split.named, (".xml",))
        read = {split: read_voc(part, root) for split, part in files.items()}
        names = sorted({name for _, each in read.values() for name in itertools.chain(*each)})
        numbers = {name: number for number, name in enumerate(names)}
        parts = {}
        for split, (part, each) in read.items():
            pairs = zip(part.records, each, strict=True)
            records = [record._replace(classes=[numbers[name] for name in own]) for record, own in pairs]
            parts[split] = Part(part.encoded, records)
        return parts, names

    def _tables(self) -> Parts:
        columns = {key: name for key, name in self.columns.items() if name is not None}
        if not self.masks:
            columns.pop("masks", None)
        elif "masks" not in columns:
            raise ValueError("data.columns.masks=null, but masks are needed: name the column that has them")
        if not columns.keys() & {"boxes", "masks"}:
            raise ValueError("data.columns.boxes=null: name the column that has the boxes")
        named = {f"data.columns.{key}": name.partition(".")[0] for key, name in columns.items()}
        tables = read_splits(self.path, self.split.named, named)
        names, numbers = _named(tables, columns.get("classes"), self.class_names)
        return {split: _part(table, columns, numbers) for split, table in tables.items()}, names


def _voc_files(root: Path, named: Mapping[str, str | None]) -> dict[str, list[Path]] | None:
    """List the files of VOC's own splits, ImageSets/Main/{train,val,test}.txt; None where there are no such lists."""
    lists = root / "ImageSets" / "Main"
    if not lists.is_dir():
        return None
    found = {}
    for split, usual in SPLIT_ALIASES.items():
        chosen = [named[split]] if named[split] else list(usual)
        file = next((lists / f"{name}.txt" for name in chosen if (lists / f"{name}.txt").is_file()), None)
        if file is not None and named[split] != CARVE:
            found[split] = [root / "Annotations" / f"{stem}.xml" for stem in first_words(file)]
            lacking = next((path for path in found[split] if not path.is_file()), None)
            if lacking is not None:
                raise ValueError(f"{file} lists {lacking.stem}, but there is no {lacking}: complete the data")
    return found


def _named(
    tables: Mapping[str, Table], column: str | None, given: list[str] | None
) -> tuple[list[str], dict[Any, int]]:
    """Name the classes of tables, and number what they write for them.

    The names are those given, or those that tables store, else the values that occur; without a column, one class.
    """
    names = given or (["object"] if column is None else class_names(next(iter(tables.values())).metadata, column))
    if names is not None:
        return names, {name: number for number, name in enumerate(names)} | {n: n for n in range(len(names))}
    assert column is not None
    values = {value for table in tables.values() for row in _cells(table, column) for value in row or []}
    if not any(all(isinstance(value, kind) for value in values) for kind in (int, str)):
        raise ValueError(f"data.columns.classes={column} holds {sorted(map(str, values))[:4]}: give names or numbers")
    return list(map(str, sorted(values))), {value: number for number, value in enumerate(sorted(values))}


def _cells(table: Table, column: str) -> list[Any]:
    """Take a column, or what lies within one."""
    first, *rest = column.split(".")
    cells = table.columns[first]
    for key in rest:
        cells = [_within(cell, key, f"{table.place(row)} has no {column!r}") for row, cell in enumerate(cells)]
    return cells


def _within(cell: Any, key: str, lacking: str) -> Any:
    """Take what an object has under a key, or each of a list of them; of null, null."""
    if isinstance(cell, list):
        return [_within(part, key, lacking) for part in cell]
    if cell is None:
        return None
    if not isinstance(cell, dict) or key not in cell:
        there = ", ".join(cell) if isinstance(cell, dict) else type(cell).__name__
        raise ValueError(f"{lacking}, but {there}: name another in data.columns")
    return cell[key]


def _part(table: Table, columns: Mapping[str, str], numbers: dict[Any, int]) -> Part:
    cells = {key: _cells(table, name) for key, name in columns.items()}
    encoded, records = cells_encoded(table, cells["image"]), []
    for row, place in enumerate(encoded.names):
        size = size_of(encoded.read(row), place)
        boxes = cells["boxes"][row] or [] if "boxes" in cells else None
        told = boxes if boxes is not None else cells["classes"][row] or [] if "classes" in cells else None
        masks = _masks(table, cells["masks"][row], row, told) if "masks" in cells else None
        count = len(boxes if boxes is not None else masks or [])
        given = cells["classes"][row] or [] if "classes" in cells else [0] * count
        classes = numbered(given, numbers, place, lambda: f"the classes {_some(numbers)}")
        name = str(cells["name"][row]) if "name" in cells else place
        records.append(Record(place, size, boxes, classes, masks=masks, name=name))
    return Part(encoded, records)


def _masks(table: Table, cell: Any, row: int, told: Sequence[Any] | None) -> list[Mask]:
    """Read masks: a map whose pixels are 0 or the number of their object, from 1; or a list of maps or run lengths.

    `told` are the objects' boxes or classes, in that order; without any, the numbers that occur are the objects.
    """
    if isinstance(cell, Sequence) and not isinstance(cell, (bytes, str)):
        return [_mask(table, part, row) for part in cell]
    if cell is None and told is not None and not told:
        return []
    numbers = levels(table.content(cell, row), table.place(row))
    there = np.unique(numbers[numbers > 0])
    if told is None:
        return [encode(numbers == number) for number in there]
    if len(there) and there[-1] > len(told):
        what = f"{table.place(row)} has {len(told)} boxes or classes, but its map of masks has the number {there[-1]}"
        raise ValueError(f"{what}: number the objects from 1, in that order")
    return [encode(numbers == number) for number in range(1, len(told) + 1)]


def _mask(table: Table, part: Any, row: int) -> Mask:
    if isinstance(part, dict) and "counts" in part:
        return from_coco(part, table.place(row))
    return encode(levels(table.content(part, row), table.place(row)) > 0)


def _some(numbers: dict[Any, int]) -> str:
    listed = [str(value) for value in numbers if isinstance(value, str)]
    return ", ".join(listed[:8]) + (" ..." if len(listed) > 8 else "")
