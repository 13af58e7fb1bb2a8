"""Images with boxes and masks as W&B's viewers take them (docs.wandb.ai, "Log media and objects", "Image overlays").

Class numbers begin at 1 there: in a mask, 0 is where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetuning.dense.drawing import class_map, shown
from finetuning.dense.objects import Objects

TRUTH, FOUND = "ground_truth", "predictions"  # as its documentation calls them
MOST_CLASSES = 255  # in its masks, of one byte per pixel


def with_boxes(image: np.ndarray, name: str, pair: Sequence[Objects], names: Sequence[str]) -> dict[str, Any]:
    """Describe an image [C, H, W] with what is annotated and what was found; masks, where there are any, by class."""
    parts = {key: shown(objects) for key, objects in zip((TRUTH, FOUND), pair, strict=True)}
    boxes = {key: {"box_data": _boxes(part, names), "class_labels": _labels(names)} for key, part in parts.items()}
    maps = {key: class_map(part, image.shape[1:]) for key, part in parts.items() if part.masks is not None}
    return {**_picture(image, name), "boxes": boxes, **_masks(maps, names)}


def with_masks(image: np.ndarray, name: str, pair: Sequence[np.ndarray], names: Sequence[str]) -> dict[str, Any]:
    """Describe an image [C, H, W] with two maps of class numbers [H, W], negative where there is none."""
    return {**_picture(image, name), **_masks(dict(zip((TRUTH, FOUND), pair, strict=True)), names)}


def _picture(image: np.ndarray, name: str) -> dict[str, Any]:
    pixels = image.transpose(1, 2, 0)
    return {"data_or_path": pixels[..., 0] if pixels.shape[2] == 1 else pixels, "caption": name}


def _labels(names: Sequence[str]) -> dict[int, str]:
    return dict(enumerate(names, 1))


def _boxes(objects: Objects, names: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for row, (number, box) in enumerate(zip(objects.classes.tolist(), objects.boxes.tolist(), strict=True)):
        left, top, right, bottom = box
        position = {"minX": left, "minY": top, "maxX": right, "maxY": bottom}
        drawn: dict[str, Any] = {"position": position, "domain": "pixel", "class_id": number + 1}
        score = None if objects.scores is None else float(objects.scores[row])
        caption = names[number] if score is None else f"{names[number]} {score:.2f}"
        found.append({**drawn, "box_caption": caption, **({} if score is None else {"scores": {"score": score}})})
    return found


def _masks(maps: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, Any]:
    if not maps or len(names) > MOST_CLASSES:
        return {}
    labels = {0: "none"} | _labels(names)
    return {"masks": {key: {"mask_data": part + 1, "class_labels": labels} for key, part in maps.items()}}
