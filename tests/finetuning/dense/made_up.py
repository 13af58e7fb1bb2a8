"""Scenes of digits, written in each form that data sets come in."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from finetuning.dense.masks import encode
from pretraining.image.data.scenes import DigitScenes

SPLITS = {"train": 6, "validation": 3, "test": 3}
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def drawn(size=48):
    """Draw scenes whose every class is in the training split, since it is the one class of things."""
    scenes = DigitScenes(size=size, most=2)
    return {split: scenes.draw(split, range(count)) for split, count in SPLITS.items()}


def png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pictures(root: Path, splits) -> None:
    for split, scenes in splits.items():
        (root / split).mkdir(parents=True, exist_ok=True)
        for row, scene in enumerate(scenes):
            (root / split / f"{row}.png").write_bytes(png(scene.image.transpose(1, 2, 0)))


def write_coco(root: Path, change=lambda content: None) -> Path:
    """Write images in a folder per split, and a json per split whose masks are run lengths."""
    splits = drawn()
    pictures(root, splits)
    (root / "annotations").mkdir()
    for split, scenes in splits.items():
        annotations = []
        for row, scene in enumerate(scenes):
            for number, (left, top, right, bottom) in enumerate(scene.boxes.tolist()):
                mask = encode(scene.instances == number + 1)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": 7 * row,
                        "category_id": 10 * int(scene.classes[number] + 1),
                        "bbox": [left, top, right - left, bottom - top],
                        "iscrowd": 0,
                        "segmentation": mask.as_coco(),
                    }
                )
        images = [{"id": 7 * row, "file_name": f"{row}.png", "height": 48, "width": 48} for row in range(len(scenes))]
        categories = [{"id": 10 * (number + 1), "name": name} for number, name in enumerate(NAMES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        if split == "train":
            change(content)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def write_voc(root: Path, change=lambda text: text) -> Path:
    """Write VOC's folders and lists."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, scenes in drawn().items():
        stems = []
        for row, scene in enumerate(scenes):
            stems.append(f"{split}_{row}")
            (root / "JPEGImages" / f"{stems[-1]}.png").write_bytes(png(scene.image.transpose(1, 2, 0)))
            objects = "".join(
                f"<object><name>{NAMES[scene.classes[number]]}</name><difficult>0</difficult><bndbox>"
                f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
                "</bndbox></object>"
                for number, (left, top, right, bottom) in enumerate(scene.boxes.tolist())
            )
            size = "<size><width>48</width><height>48</height><depth>3</depth></size>"
            text = f"<annotation><filename>{stems[-1]}.png</filename>{size}{objects}</annotation>"
            (root / "Annotations" / f"{stems[-1]}.xml").write_text(change(text) if split == "train" else text)
        (root / "ImageSets" / "Main" / f"{split if split != 'validation' else 'val'}.txt").write_text("\n".join(stems))
    return root


def write_tables(root: Path, change=lambda columns: None) -> Path:
    """Write parquet tables: images, boxes, names, maps of objects and of classes."""
    root.mkdir()
    for split, scenes in drawn().items():
        columns = {
            "image": [{"bytes": png(scene.image.transpose(1, 2, 0)), "path": None} for scene in scenes],
            "objects": [
                {"bbox": scene.boxes.tolist(), "category": [NAMES[number] for number in scene.classes]}
                for scene in scenes
            ],
            "instances": [png(scene.instances) for scene in scenes],
            "mask": [png(scene.semantic) for scene in scenes],
        }
        if split == "train":
            change(columns)
        pq.write_table(pa.table(columns), root / f"{split}.parquet")
    return root


def write_maps(root: Path, change=lambda pixels: pixels, *, endings=("jpg.png", "_labels.png"), names=None, flat=False):
    """Write images and label maps in folders of their own, the latter with a palette."""
    names = names or {}
    for split, scenes in drawn().items():
        for row, scene in enumerate(scenes):
            for folder, ending, pixels in (
                ("images", endings[0], scene.image.transpose(1, 2, 0)),
                ("annotations", endings[1], scene.semantic),
            ):
                within = f"{split}_{row}" if flat else f"{names.get(split, split)}/{row}"
                path = root / names.get(folder, folder) / f"{within}{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = Image.fromarray(change(pixels) if folder == "annotations" and split == "train" else pixels)
                if image.mode == "L":
                    image.putpalette(np.arange(768, dtype=np.uint8).tobytes())
                image.save(path)
    return root


BLOCKS = [([0, 0, 16, 32], 1), ([32, 0, 48, 16], 2), ([16, 32, 48, 48], 1)]  # box, class


def blocks():
    """Draw an image of coloured blocks, and the maps of its classes and objects."""
    image, classes = np.full((48, 48, 3), 40, np.uint8), np.zeros((48, 48), np.uint8)
    instances = np.zeros((48, 48), np.uint8)
    for number, ((left, top, right, bottom), kind) in enumerate(BLOCKS):
        window = (slice(top, bottom), slice(left, right))
        image[window], classes[window], instances[window] = ((200, 60, 60), (60, 60, 200))[kind - 1], kind, number + 1
    return image, classes, instances


def write_picture(path: Path) -> None:
    """Write that image alone."""
    path.parent.mkdir(parents=True)
    path.write_bytes(png(blocks()[0]))


def write_one(root: Path, change=lambda columns: None) -> Path:
    """Write that image as all three splits: two classes of objects on a canvas."""
    root.mkdir()
    image, classes, instances = blocks()
    columns = {
        "image": [{"bytes": png(image), "path": None}],
        "objects": [{"bbox": [box for box, _ in BLOCKS], "category": ["red", "blue", "red"]}],
        "instances": [png(instances)],
        "mask": [png(classes)],
    }
    change(columns)
    for split in SPLITS:
        pq.write_table(pa.table(columns), root / f"{split}.parquet")
    return root
