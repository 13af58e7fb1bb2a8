"""COCO's json: images, annotations and categories in one file per split (cocodataset.org, "Data format")."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from finetuning.data.annotations import Part, Record, numbered
from finetuning.data.pictures import files_encoded, size_of
from finetuning.dense.masks import Mask, fill, from_coco
from pretraining.data.files import lines, parse_json
from pretraining.errors import reason_of

KEYS = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}


def read_coco(file: Path, root: Path, *, masks: bool) -> tuple[Part, list[str]]:
    """Read one split, and the names of its categories in the order of their ids."""
    content = _content(file)
    categories = sorted(content["categories"], key=lambda category: (isinstance(category["id"], str), category["id"]))
    names = [str(category["name"]) for category in categories]
    numbers = {category["id"]: number for number, category in enumerate(categories)}
    known = {image["id"] for image in content["images"]}
    each: dict[Any, list[dict]] = defaultdict(list)
    for annotation in content["annotations"]:
        if annotation["image_id"] not in known:
            what = f"{file}: annotation {annotation.get('id')} is of image {annotation['image_id']}, which is not there"
            raise ValueError(f"{what}: correct or drop it")
        each[annotation["image_id"]].append(annotation)
    folders = _folders(file, root)
    paths, records = [], []
    for image in content["images"]:
        paths.append(_path(str(image["file_name"]), folders, file))
        place, own = f"{file}, image {image['id']}", each[image["id"]]
        size = size_of(paths[-1].read_bytes(), str(paths[-1]))
        told = (image.get("height", size[0]), image.get("width", size[1]))
        if told != size:
            what = f"{place} is said to have {told[0]!r} x {told[1]!r} pixels"
            what += f", but {paths[-1]} has {size[0]} x {size[1]}"
            raise ValueError(f"{what}: boxes would not fit; correct either")
        records.append(
            Record(
                place,
                size,
                [_field(annotation, "bbox", place) for annotation in own],
                numbered([a["category_id"] for a in own], numbers, place, lambda: f"the ids {_some(numbers)}"),
                crowd=[_flag(annotation.get("iscrowd", 0), place) for annotation in own],
                masks=[_mask(annotation, size, place) for annotation in own] if masks else None,
                name=str(image["file_name"]),
            )
        )
    return Part(files_encoded(paths), records), names


def _content(file: Path) -> dict[str, list]:
    content = parse_json("".join(lines(file)), str(file))
    for name, keys in KEYS.items():
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise ValueError(f"{file} has no list {name!r}: give COCO's form, {{images, annotations, categories}}")
        seen = set()
        for record in content[name]:
            for key in keys:
                value, place = _field(record, key, f"{file}, {name}"), f"{file}, {name}"
                if isinstance(value, bool) or not isinstance(value, (int, str)):
                    raise ValueError(f"{place} has an entry whose {key} is {value!r:.60}: give a number or text")
                if key == "id":
                    if value in seen:
                        raise ValueError(f"{place} has the id {value!r} twice: give each its own")
                    seen.add(value)
    return content


def _field(record: Any, key: str, place: str) -> Any:
    if not isinstance(record, dict) or key not in record:
        raise ValueError(f"{place} has an entry without {key!r} ({str(record)[:60]}): complete it")
    return record[key]


def _flag(value: Any, place: str) -> bool:
    if value not in (0, 1):
        raise ValueError(f"{place} has an annotation whose iscrowd is {value!r:.60}: give 0 or 1")
    return bool(value)


def _folders(file: Path, root: Path) -> list[Path]:
    """List where a split's images may lie: beside the file, in the root, and in folders that its name contains."""
    below = sorted(part for part in root.iterdir() if part.is_dir())
    named = [part for part in below if part.name in file.stem or part.name in ("images", "JPEGImages")]
    return list(dict.fromkeys([file.parent, file.parent / "images", root, *named]))


def _path(name: str, folders: list[Path], file: Path) -> Path:
    found = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if found is None:
        looked = ", ".join(str(folder) for folder in folders)
        raise ValueError(f"{file} names the image {name}, which lies in none of {looked}: put the images there")
    return found


def _mask(annotation: dict[str, Any], size: tuple[int, int], place: str) -> Mask:
    shape, place = _field(annotation, "segmentation", place), f"{place}, annotation {annotation.get('id')}"
    if isinstance(shape, dict):
        return from_coco(shape, place)
    try:
        return fill(shape, size)
    except (TypeError, ValueError) as error:
        what = f"{place} has a segmentation that is neither polygons nor run lengths"
        raise ValueError(f"{what} ({reason_of(error)}): correct it") from error


def _some(numbers: dict[Any, int]) -> str:
    listed = list(map(str, numbers))
    return ", ".join(listed[:8]) + (" ..." if len(listed) > 8 else "")
