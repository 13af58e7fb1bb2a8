"""Pascal VOC's form: an xml file per image (Everingham et al. 2010, development kit, "annotation")."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from finetuning.data.annotations import Part, Record
from finetuning.data.pictures import files_encoded, size_of
from pretraining.errors import reason_of
from pretraining.image.data.files import SUFFIXES


def read_voc(files: list[Path], root: Path) -> tuple[Part, list[list[str]]]:
    """Read one split's images and objects; classes are given as the names of each image's objects.

    Coordinates count from 1 and include the last pixel, so that left and top become one less. "Difficult" objects are
    ignored: neither missed nor wrong.
    """
    paths, records, names = [], [], []
    for file in files:
        tree = _tree(file)
        path = _image_of(file, tree, root)
        size = size_of(path.read_bytes(), str(path))
        told = tuple(
            _number(tree, f"size/{name}", file) if tree.findtext(f"size/{name}") else float(side)
            for name, side in zip(("height", "width"), size, strict=True)
        )
        if told != size and told != (0, 0):
            what = f"{file} says {told[0]:g} x {told[1]:g} pixels, but {path} has {size[0]} x {size[1]}"
            raise ValueError(f"{what}: boxes would not fit; correct either")
        objects = tree.findall("object")
        names.append([_text(thing, "name", file) for thing in objects])
        boxes = [
            [_number(thing, f"bndbox/{edge}", file) for edge in ("xmin", "ymin", "xmax", "ymax")] for thing in objects
        ]
        boxes = [[left - 1, top - 1, right, bottom] for left, top, right, bottom in boxes]
        difficult = [(thing.findtext("difficult") or "0").strip() == "1" for thing in objects]
        paths.append(path)
        records.append(Record(str(file), size, boxes, [0] * len(boxes), ignore=difficult, name=path.name))
    return Part(files_encoded(paths), records), names


def _tree(file: Path) -> ElementTree.Element:
    content = file.read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ValueError(f"{file} declares entities, which annotations have no use for: remove the declaration")
    try:
        tree = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the others of unknown encodings
        raise ValueError(f"{file} is not readable as xml ({reason_of(error)}): correct or remove it") from error
    if tree.tag != "annotation":
        raise ValueError(f"{file} begins with <{tree.tag}>, not <annotation>: give files in Pascal VOC's form")
    return tree


def _image_of(file: Path, tree: ElementTree.Element, root: Path) -> Path:
    """Find the image: by the name that the file gives, or its own; beside it, or in JPEGImages."""
    given = (tree.findtext("filename") or "").strip()
    names = [*([Path(given).name] if given else []), *(f"{file.stem}{suffix}" for suffix in SUFFIXES)]
    folders = [file.parent, *(base / "JPEGImages" for base in (file.parent.parent, root))]
    found = next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)
    if found is None:
        looked = ", ".join(dict.fromkeys(map(str, folders)))
        raise ValueError(f"{file} is of the image {names[0]}, which lies in none of {looked}: put it there")
    return found


def _text(thing: ElementTree.Element, name: str, file: Path) -> str:
    text = (thing.findtext(name) or "").strip()
    if not text:
        raise ValueError(f"{file} has an {thing.tag} without {name}: complete it")
    return text


def _number(thing: ElementTree.Element, name: str, file: Path) -> float:
    text = _text(thing, name, file)
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{file} has {name}={text!r}, which is no number: correct it") from error
