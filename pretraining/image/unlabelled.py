"""Images without labels: read from files and tables, or held by Python code, and made a network's pixels.

Shapes: B images, C channels, H height, W width, S size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pretraining.cli.configuration import as_run_errors
from pretraining.data.columns import named_rows, own_id
from pretraining.data.files import kind_of, say, walk
from pretraining.data.tables import content_of
from pretraining.data.unlabelled import Encoded, Reading
from pretraining.errors import RunError
from pretraining.image.data.decode import Decoding, as_pixels, decode
from pretraining.image.data.files import SUFFIXES
from pretraining.image.preprocess import ImagePreprocess

CHANNELS = (1, 3, 4)  # that the last axis of an array may have, else the first


def encoded_images(path: Path, column: Mapping[str, str]) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Read images as bytes, each with what is shown of it and what errors call it.

    `column` names that of tables, {setting: name}.
    """
    if not path.is_file() and not path.is_dir():
        raise RunError(f"got input={path} for a run on images: give a file or a directory that exists")
    there = [path] if path.is_file() else walk(path)
    tables = [file for file in there if kind_of(file) == ".parquet"]
    files = tables or [file for file in there if file == path or file.suffix.lower() in SUFFIXES]
    if len(files) < len(there):
        say(f"input={path}: {len(there) - len(files)} other files left aside")
    for number, file in enumerate(files):
        name = file.name if file == path else str(file.relative_to(path))
        if not tables:
            yield {"id": number, "file": name}, str(file), file.read_bytes()
            continue
        source = {"file": name} if len(files) > 1 else {}
        for own, row, (cell,) in named_rows(file, column):
            place = f"{file}, row {row}"
            yield {**source, "id": own}, place, content_of(cell, file.parent, place)


def images_of(
    given: Path | Sequence[Any], column: Mapping[str, str], decoding: Decoding
) -> Iterator[tuple[dict[str, Any], str, np.ndarray]]:
    """Decode images of files and tables, or take those of a list: what is shown, its name in errors, uint8 [C, H, W].

    An item of a list may be a row with the column.
    """
    with as_run_errors():
        if isinstance(given, Path):
            for shown, name, content in encoded_images(given, column):
                yield shown, name, decode(content, name, decoding)
            return
        (wanted,) = column.values()
        for number, item in enumerate(given):
            name = f"input {number}"
            yield (
                {"id": own_id(item, number)},
                name,
                taken(item.get(wanted) if isinstance(item, Mapping) else item, name, decoding),
            )


def taken(item: Any, name: str, decoding: Decoding) -> np.ndarray:
    """Take a PIL image, a uint8 array [H, W], [H, W, C] or [C, H, W], an image's path or content. uint8 [C, H, W]"""
    if isinstance(item, (str, os.PathLike)):
        try:
            content = Path(item).expanduser().read_bytes()
        except (OSError, ValueError) as error:
            what = f"{name} names the file {item}, which cannot be read"
            raise RunError(f"{what}: give one that exists") from error
        return decode(content, str(item), decoding)
    if isinstance(item, bytes):
        return decode(item, name, decoding)
    if isinstance(item, Image.Image):
        return as_pixels(item.copy(), decoding)
    if not isinstance(item, (np.ndarray, Tensor)):
        what = f"{name} is {type(item).__name__}, and this network reads images"
        raise RunError(f"{what}: give a PIL image, a uint8 array or a path")
    pixels = np.asarray(item)
    if pixels.ndim == 3 and pixels.shape[2] not in CHANNELS and pixels.shape[0] in CHANNELS:
        pixels = pixels.transpose(1, 2, 0)
    known = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in CHANNELS)
    if pixels.dtype != np.uint8 or not known or not pixels.size:
        what = f"{name} is an array {pixels.dtype} {list(pixels.shape)}"
        raise RunError(f"{what}: give uint8, [H, W], [H, W, channels] or [channels, H, W]")
    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    return as_pixels(Image.fromarray(np.ascontiguousarray(flat)), decoding)


@dataclass(kw_only=True)
class ReadImages(Reading):
    """Images of any size; `column` is that of tables."""

    ahead: ClassVar[int] = 256
    column: str = "image"

    def read(self, path: Path, preprocess: ImagePreprocess) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """Decode one image, all images in a directory and those below it, or those in tables."""
        for shown, _, pixels in images_of(path, {"inputs.column": self.column}, _decoding(preprocess)):
            yield shown, pixels

    def take(self, item: Any, name: str, preprocess: ImagePreprocess) -> np.ndarray:
        """Take a PIL image, a uint8 array [H, W], [H, W, C] or [C, H, W], or the path of an image."""
        return taken(item, name, _decoding(preprocess))

    def encode(
        self, values: Sequence[np.ndarray], names: Sequence[str], preprocess: ImagePreprocess, backbone: Any
    ) -> Encoded:
        """Leave the images as they are until they are stacked; those of one size are resized together."""

        def stack(rows: np.ndarray) -> dict[str, Tensor]:
            sizes = np.unique([values[row].shape[1:] for row in rows], axis=0, return_inverse=True)[1].reshape(-1)
            images = torch.empty(len(rows), preprocess.channels, preprocess.size, preprocess.size)
            for size in range(int(sizes.max()) + 1):
                alike = np.flatnonzero(sizes == size)
                images[alike] = preprocess(torch.from_numpy(np.stack([values[rows[place]] for place in alike])))
            return {"images": images}

        return Encoded(np.array([value[0].size for value in values]), stack)


def _decoding(preprocess: ImagePreprocess) -> Decoding:
    return Decoding(channels=preprocess.channels, size=None)
