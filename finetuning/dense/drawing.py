"""Pictures of what was found, with what is there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from finetuning.dense.objects import Objects

LEAST, MOST = 256, 512  # pixels of a picture's longer side
SHOWN = 0.4  # the least score of detections that are drawn
VEIL = 0.5  # of a mask's colour over the image
FONT, LINE, GAP = 13, 18, 4  # pixels
HEADINGS = ("as annotated", "as found")


def colour(number: int) -> tuple[int, int, int]:
    """Give each class a colour of its own: hues a golden angle apart."""
    hue = number * 0.61803398875 % 1.0
    wheel = np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    red, green, blue = (int(255 * level) for level in np.clip(wheel, 0, 1) * 0.8 + 0.2)
    return red, green, blue


def shown(objects: Objects) -> Objects:
    """Take what is worth drawing: of detections those with a score worth it."""
    return objects if objects.scores is None else objects.take(objects.scores >= SHOWN)


def class_map(objects: Objects, size: tuple[int, int]) -> np.ndarray:
    """Paint the masks' classes into a map [H, W], the first ones last, on top; -1 where there is none."""
    painted = np.full(size, -1)
    for number, mask in reversed(list(zip(objects.classes, objects.masks or [], strict=True))):
        painted[mask.pixels()] = number
    return painted


def with_objects(image: np.ndarray, objects: Objects, names: Sequence[str]) -> Image.Image:
    """Draw boxes, masks, names and scores over an image [C, H, W]."""
    objects = shown(objects)
    painted = class_map(objects, image.shape[1:]) if objects.masks is not None else np.full(image.shape[1:], -1)
    picture = with_map(image, painted)
    scale = picture.width / image.shape[2]
    pen = ImageDraw.Draw(picture)
    for row in reversed(range(objects.size)):
        left, top, right, bottom = (float(edge) * scale for edge in objects.boxes[row])
        shade = colour(int(objects.classes[row]))
        pen.rectangle([left, top, max(left, right - 1), max(top, bottom - 1)], outline=shade, width=2)
        score = "" if objects.scores is None else f" {objects.scores[row]:.2f}"
        _write(pen, f"{names[objects.classes[row]]}{score}", (left + 2, max(0.0, top - FONT - 3)), shade)
    return picture


def with_map(image: np.ndarray, classes: np.ndarray) -> Image.Image:
    """Lay a map of class numbers [H, W] over an image [C, H, W]; where it is negative, nothing."""
    pixels = np.repeat(image, 3 // len(image), 0).transpose(1, 2, 0).astype(np.float32)
    for number in np.unique(classes[classes >= 0]):
        inside = classes == number
        pixels[inside] += VEIL * (np.array(colour(int(number)), np.float32) - pixels[inside])
    return _resized(Image.fromarray(pixels.round().astype(np.uint8)))


def in_one(pictures: Sequence[Image.Image], legend: Sequence[tuple[str, int]] = ()) -> Image.Image:
    """Put two pictures of one size, as annotated and as found, beside each other; wide ones above each other.

    `legend` names the numbers of classes below them.
    """
    width, height = pictures[0].size
    across = width <= height
    step = (width + GAP, 0) if across else (0, height + LINE + GAP)
    size = (width + step[0], height + LINE + step[1])
    rows = _laid_out(legend, size[0])
    whole = Image.new("RGB", (size[0], size[1] + LINE * len(rows) + (GAP if rows else 0)), "white")
    pen = ImageDraw.Draw(whole)
    for number, (picture, heading) in enumerate(zip(pictures, HEADINGS, strict=True)):
        left, top = (number * part for part in step)
        pen.text((left + 2, top), heading, fill="black", font=_font())
        whole.paste(picture, (left, top + LINE))
    for line, row in enumerate(rows):
        for left, name, number in row:
            top = size[1] + GAP + line * LINE
            pen.rectangle([left, top + 2, left + 11, top + 13], fill=colour(number))
            pen.text((left + 16, top), name, fill="black", font=_font())
    return whole


def _laid_out(legend: Sequence[tuple[str, int]], width: int) -> list[list[tuple[int, str, int]]]:
    """Break a legend into lines of a width: where each entry begins, its name, its number."""
    rows: list[list[tuple[int, str, int]]] = []
    left = width
    for name, number in legend:
        needs = 28 + round(_font().getlength(name))
        if not rows or left + needs > width:
            rows.append([])
            left = 2
        rows[-1].append((left, name, number))
        left += needs
    return rows


def _write(pen: ImageDraw.ImageDraw, text: str, place: tuple[float, float], shade: tuple[int, int, int]) -> None:
    pen.rectangle(pen.textbbox(place, text, font=_font()), fill=(0, 0, 0))
    pen.text(place, text, fill=shade, font=_font())


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT)


def _resized(picture: Image.Image) -> Image.Image:
    """Enlarge a small image by a whole number, pixel by pixel; shrink a large one."""
    longer = max(picture.size)
    if longer > MOST:
        return picture.resize([max(1, round(side * MOST / longer)) for side in picture.size], Image.Resampling.LANCZOS)
    scale = max(1, LEAST // longer)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
