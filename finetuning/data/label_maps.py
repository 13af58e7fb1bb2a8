"""Images with a class for each pixel: label maps in files beside the images, or in tables.

Shapes: H rows, W columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np

from finetuning.data.base import LabelledData
from finetuning.data.pictures import Pictures, cells_encoded, files_encoded, levels, size_of
from finetuning.data.splits import Examples
from finetuning.data.tables import CARVE, REMEDY, read_splits
from finetuning.metrics.segmentation import IGNORED
from pretraining.cli.configuration import as_run_errors
from pretraining.data.files import Paths, first_words, kind_of, say, walk
from pretraining.data.splits import SPLIT_ALIASES, by_split, described
from pretraining.image.data.decode import Encoded
from pretraining.image.modality import IMAGE


class Maps(Sequence):
    """Encoded label maps, each decoded to class numbers: int64 [H, W], `IGNORED` where no class is to be found."""

    def __init__(self, encoded: Encoded, values: list[int], ignore: list[int]) -> None:
        self.encoded = encoded
        self.table = np.full(max([*values, *ignore, 0]) + 1, IGNORED, np.int64)
        self.table[values] = np.arange(len(values))

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, row: int) -> np.ndarray:  # type: ignore[override]
        return self.table[levels(self.encoded.read(int(row)), self.encoded.names[int(row)])]


@dataclass(kw_only=True)
class LabelledMaps(LabelledData):
    """Images with label maps: whole numbers per pixel, of which `ignore` are not judged.

    In tables `columns` name both. In folders `files` are patterns of images and maps below `path`, whose `*` stands for
    the same text in both ("images/*.jpg", "annotations/*.png"), folders included; the splits are folders within it, or
    the lists `lists`/{train,val,test}.txt. `class_names` name the numbers 0, 1, ...; null: by those that occur.
    """

    modality = IMAGE
    path: Paths
    columns: dict[str, str] = field(default_factory=lambda: {"image": "image", "mask": "mask"})
    files: dict[str, str] = field(default_factory=lambda: {"image": "images/*.jpg", "mask": "annotations/*.png"})
    lists: str | None = None
    ignore: list[int] = field(default_factory=lambda: [255])
    channels: int = 3
    class_names: list[str] | None = None
    eval_batch_size: int = 16
    batch_size: int = 8

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Read and check the splits that are there; every map is looked at once."""
        self.refuse_missing()
        with as_run_errors():
            root = Path(self.path).expanduser() if isinstance(self.path, str) else None
            folder = (
                root if root and root.is_dir() and all(kind_of(file) != ".parquet" for file in walk(root)) else None
            )
            parts = self._tables() if folder is None else self._folders(folder)
            if not parts:
                lists = f", data.lists={self.lists}" * bool(self.lists)
                raise ValueError(f"data.path={self.path}{lists}: found no split: {REMEDY}")
            counts = {split: _values(*part) for split, part in parts.items()}
            values = self._class_values(counts)
            names = [self.class_names[value] if self.class_names else str(value) for value in values]
            return {split: self._examples(*part, values) for split, part in parts.items()}, names

    def _class_values(self, counts: Mapping[str, Counter]) -> list[int]:
        """List the numbers that are classes; others in any map are errors."""
        part, main = ("train", "training") if "train" in counts else (next(iter(counts)),) * 2
        train = sorted(value for value in counts[part] if value not in self.ignore)
        known = train if self.class_names is None else [n for n in range(len(self.class_names)) if n not in self.ignore]
        if len(known) < 2:
            raise ValueError(f"the {main} maps hold one class only ({known}): give others, or shorten data.ignore")
        for split, found in counts.items():
            unknown = sorted(set(found) - {*known, *self.ignore})
            if unknown:
                what = f"the maps of {split} hold the numbers {unknown[:8]}, but the classes are {known[:8]}"
                what += " ..." * (len(known) > 8)
                raise ValueError(
                    f"{what} and data.ignore={list(self.ignore)}: name them in data.class_names or data.ignore"
                )
        lacking = [value for value in known if value not in train]
        if lacking:
            listed = [self.class_names[value] if self.class_names else str(value) for value in lacking]
            say(f"classes that no pixel of the {main} maps has, so that they cannot be learnt: {', '.join(listed)}")
        return known

    def _examples(self, images: Encoded, maps: Encoded, values: list[int]) -> Examples:
        labels = Maps(maps, values, list(self.ignore))
        found = Examples.of(image=Pictures(images, self.channels), label=labels, name=list(images.names))
        return found._replace(source=lambda row: images.names[row])

    def _tables(self) -> dict[str, tuple[Encoded, Encoded]]:
        named = {f"data.columns.{key}": name for key, name in self.columns.items()}
        tables = read_splits(self.path, self.split.named, named)
        found = {}
        for split, table in tables.items():
            image, mask = (cells_encoded(table, table.columns[self.columns[key]]) for key in ("image", "mask"))
            found[split] = image, mask
        return found

    def _folders(self, root: Path) -> dict[str, tuple[Encoded, Encoded]]:
        images, maps = (_matching(root, self.files[key], f"data.files.{key}") for key in ("image", "mask"))
        both = sorted(images.keys() & maps.keys())
        if not both:
            what = f"data.files={dict(self.files)} matches {len(images)} images and {len(maps)} maps of other names"
            raise ValueError(
                f"{what} ({next(iter(images))!r}, {next(iter(maps))!r}): * must stand for the same in both"
            )
        alone = len(images) + len(maps) - 2 * len(both)
        if alone:
            say(f"data.path={self.path}: left out {alone} images without a map, or maps without an image")
        places = self._listed(root, both) if self.lists else self._by_folder(both)
        return {
            split: (files_encoded([images[place] for place in part]), files_encoded([maps[place] for place in part]))
            for split, part in places.items()
        }

    def _by_folder(self, places: list[str]) -> dict[str, list[str]]:
        named = {split: name for split, name in self.split.named.items() if name not in (None, CARVE)}
        chosen = {split: [p for p in places if name in PurePath(p).parts] for split, name in named.items()}
        empty = next((split for split, part in chosen.items() if not part), None)
        if empty is not None:
            raise ValueError(f"data.split.{empty}={named[empty]} is no folder of {self.files['image']}: {REMEDY}")
        taken = {place for part in chosen.values() for place in part}
        rest = [place for place in places if place not in taken]
        asked = {"where": f"data.path={self.path}", "remedy": REMEDY, "known": chosen}
        usual = by_split(rest, **asked, needs_train=False) if rest else {}  # type: ignore[arg-type]
        found = {split: part for split, part in usual.items() if self.split.named[split] is None} | chosen
        say(described(f"data.path={self.path}", found, []))
        return found

    def _listed(self, root: Path, places: list[str]) -> dict[str, list[str]]:
        there, found = set(places), {}
        for split, usual in SPLIT_ALIASES.items():
            files = [root / str(self.lists) / f"{name}.txt" for name in (self.split.named[split], *usual) if name]
            file = next((file for file in files if file.is_file()), None)
            if file is None or self.split.named[split] == CARVE:
                continue
            found[split] = first_words(file)
            lacking = next((place for place in found[split] if place not in there), None)
            if lacking is not None:
                raise ValueError(f"{file} lists {lacking}, of which there is no image with a map: complete the data")
        return found


def _matching(root: Path, pattern: str, key: str) -> dict[str, Path]:
    """Find the files of a pattern, by what its one `*` stands for."""
    before, star, after = pattern.partition("*")
    if not star or "*" in after:
        raise ValueError(f"{key}={pattern}: give a pattern with one *")
    found = {}
    for file in walk(root):
        place = file.relative_to(root).as_posix()
        if place.startswith(before) and place.endswith(after) and len(place) > len(before) + len(after):
            found[place[len(before) : len(place) - len(after)]] = file
    if not found:
        raise ValueError(f"{key}={pattern} matches no file below {root}: give the pattern of your files")
    return found


def _values(images: Encoded, maps: Encoded) -> Counter:
    """Count the numbers that occur in a split's maps; a map of another size than its image is an error."""
    counts: Counter = Counter()
    for row in range(len(images)):
        pixels, size = levels(maps.read(row), maps.names[row]), size_of(images.read(row), images.names[row])
        if pixels.shape != size:
            what = f"the map of {images.names[row]} has {pixels.shape[0]} x {pixels.shape[1]} pixels"
            raise ValueError(f"{what}, but its image has {size[0]} x {size[1]}: give maps of the images' size")
        numbers, found = np.unique(pixels, return_counts=True)
        counts.update(dict(zip(numbers.tolist(), found.tolist(), strict=True)))
    return counts
