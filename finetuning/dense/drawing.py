"""Pictures of what was found, beside what is there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from finetuning.dense.objects import Objects

LEAST = 256  # pixels of a picture's longer side
SHOWN = 0.3  # the least score of detections that are drawn
VEIL = 0.5  # of a mask's colour over the image


def colour(number: int) -> tuple[int, int, int]:
    """Give each class a colour of its own: hues a golden angle apart."""
    hue = number * 0.61803398875 % 1.0
    wheel = np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    red, green, blue = (int(255 * level) for level in np.clip(wheel, 0, 1) * 0.8 + 0.2)
    return red, green, blue


def with_objects(image: np.ndarray, objects: Objects, names: Sequence[str]) -> Image.Image:
    """Draw boxes, masks, names and scores over an image [C, H, W]; of detections those with a score worth it."""
    if objects.scores is not None:
        objects = objects.take(objects.scores >= SHOWN)
    pixels = _coloured(image).astype(np.float32)
    masks = zip(objects.classes, objects.masks, strict=True) if objects.masks is not None else ()
    for number, mask in masks:
        inside = mask.pixels()
        pixels[inside] += VEIL * (np.array(colour(int(number)), np.float32) - pixels[inside])
    picture, scale = _enlarged(pixels.round().astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for row, (number, box) in enumerate(zip(objects.classes, objects.boxes, strict=True)):
        left, top, right, bottom = (float(edge) * scale for edge in box)
        pen.rectangle([left, top, max(left, right - 1), max(top, bottom - 1)], outline=colour(int(number)), width=2)
        score = "" if objects.scores is None else f" {objects.scores[row]:.2f}"
        text, place = f"{names[number]}{score}", (left + 2, max(0.0, top - 12))
        pen.rectangle(pen.textbbox(place, text), fill=(0, 0, 0))
        pen.text(place, text, fill=colour(int(number)))
    return picture


def with_map(image: np.ndarray, classes: np.ndarray) -> Image.Image:
    """Lay a map of class numbers [H, W] over an image [C, H, W]; where it is negative, nothing."""
    pixels = _coloured(image).astype(np.float32)
    for number in np.unique(classes[classes >= 0]):
        inside = classes == number
        pixels[inside] += VEIL * (np.array(colour(int(number)), np.float32) - pixels[inside])
    return _enlarged(pixels.round().astype(np.uint8))[0]


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures of one size beside each other, with a little room between them."""
    width, height = pictures[0].size
    whole = Image.new("RGB", (len(pictures) * (width + 4) - 4, height), "white")
    for number, picture in enumerate(pictures):
        whole.paste(picture, (number * (width + 4), 0))
    return whole


def _coloured(image: np.ndarray) -> np.ndarray:
    """Turn an image into red, green and blue. uint8 [H, W, 3]"""
    return np.repeat(image, 3 // len(image), 0).transpose(1, 2, 0)


def _enlarged(pixels: np.ndarray) -> tuple[Image.Image, int]:
    """Enlarge a small image by a whole number, pixel by pixel."""
    scale = max(1, LEAST // max(pixels.shape[:2]))
    return Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1)), scale
