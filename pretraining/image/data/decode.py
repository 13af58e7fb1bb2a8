"""From encoded images (png, jpeg, webp, ...) to uint8 pixels: once into a memory-mapped cache, or on demand.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pretraining.cache import build_once, key, reserve
from pretraining.errors import RunError, reason_of

MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How encoded images become arrays.

    `size`: the shorter side is resized to it and the centre square kept; null takes images as they are, which must then
    be of one size. `max_cache_gb`: a split that needs more is decoded whenever it is read, by the loading processes.
    """

    channels: int = 3
    size: int | None = 256
    max_cache_gb: float = 32.0

    def __post_init__(self) -> None:
        """Refuse channels that no image mode has."""
        if self.channels not in MODES:
            raise ValueError(f"data.decoding.channels={self.channels}: choose 1 (grey) or 3 (red, green, blue)")


@dataclass(frozen=True)
class Encoded:
    """Images that are still encoded: their names for errors, and how to get the bytes of one."""

    names: Sequence[str]
    read: Callable[[int], bytes]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.names)

    def subset(self, rows: np.ndarray) -> Encoded:
        """Select some of them."""
        return Encoded([self.names[row] for row in rows], lambda place: self.read(int(rows[place])))


def decode(content: bytes, name: str, decoding: Decoding) -> np.ndarray:
    """Decode one image. uint8 [C, H, W]; `name` is what errors call it."""
    with opened(content, name) as image:
        return as_pixels(image, decoding)


def as_pixels(image: Image.Image, decoding: Decoding) -> np.ndarray:
    """Make an array of an open image. uint8 [C, H, W]"""
    picture = _as_shown(image).convert(MODES[decoding.channels])
    if decoding.size is not None and picture.size != (decoding.size, decoding.size):
        picture = _centre_square(picture, decoding.size)
    pixels = np.asarray(picture)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


@contextlib.contextmanager
def opened(content: Any, name: str, what: str = "image") -> Iterator[Image.Image]:
    """Open an encoded image; what is none, or is damaged wherever it is read inside, is an error that names it.

    It is a `RunError`, since images that are decoded on demand are met in training.
    """
    if not isinstance(content, bytes):
        found = "is null" if content is None else f"is no encoded image but {content!r:.40}"
        raise RunError(f"{name} {found}: drop the row, or give bytes of png, jpeg, ... ({{bytes, path}} or binary)")
    try:
        with Image.open(io.BytesIO(content)) as image:
            yield image
    except Exception as error:  # decoders raise what they meet in damaged bytes: struct.error, IndexError, ...
        raise RunError(f"{name} is not a readable {what} ({reason_of(error)}): repair or remove it") from error


def _as_shown(image: Image.Image) -> Image.Image:
    """Bring an image to 8 bits as a viewer shows it: turned upright, deep greys scaled, on white where transparent."""
    with contextlib.suppress(Exception):  # of damaged notes on a picture that may be whole
        ImageOps.exif_transpose(image, in_place=True)
    picture = image
    if picture.mode == "F" or picture.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(picture)))
    if picture.has_transparency_data:
        drawn = picture.convert("RGBA")
        picture = Image.new("RGB", drawn.size, "white")
        picture.paste(drawn, mask=drawn.getchannel("A"))
    return picture


def _eight_bits(levels: np.ndarray) -> np.ndarray:
    """Scale grey levels: integers of 16 bits, or real numbers from 0 to 1."""
    most, kind = (1.0, "real numbers from 0 to 1") if levels.dtype.kind == "f" else (65535.0, "integers of 16 bits")
    if not (levels.min() >= 0 and levels.max() <= most):
        raise ValueError(f"its levels are {levels.min()} to {levels.max()}, and not {kind}: save it in 8 or 16 bits")
    return (levels.astype(np.float64) * (255 / most)).round().astype(np.uint8)


def _centre_square(picture: Image.Image, size: int) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    return picture.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


class DecodedOnDemand:
    """Looks like a uint8 array [N, C, H, W] and decodes the rows asked for."""

    def __init__(self, encoded: Encoded, decoding: Decoding, shape: tuple[int, ...]) -> None:
        self.encoded, self.decoding, self.shape = encoded, decoding, (len(encoded), *shape)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.encoded)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Decode rows. uint8 [B, C, H, W]"""
        return np.stack([_decoded_as(self.encoded, int(row), self.decoding, self.shape[1:]) for row in rows])


def pixels(encoded: Encoded, decoding: Decoding, *, cache_dir: Path, identity: str) -> np.ndarray | DecodedOnDemand:
    """Decode the pixels of all images. uint8 [N, C, H, W].

    They are a memory map of a file in the cache that all processes share, or decoded on demand where that would be too
    large. `identity` stands for the content of the images.
    """
    parts = {"images": identity, "channels": decoding.channels, "size": decoding.size, "format": 2}
    directory = cache_dir / "pixels" / key(parts)
    if not directory.exists():
        shape = decode(encoded.read(0), encoded.names[0], decoding).shape
        if len(encoded) * np.prod(shape) > decoding.max_cache_gb * 1e9:
            return DecodedOnDemand(encoded, decoding, shape)
        build_once(directory, lambda partial: _decode_all(encoded, decoding, shape, partial))
    return np.load(directory / "images.npy", mmap_mode="r", allow_pickle=False)


def _decode_all(encoded: Encoded, decoding: Decoding, shape: tuple[int, ...], directory: Path) -> None:
    """Decode in threads (the decoders release the interpreter lock) into one array file."""
    place, every = directory / "images.npy", (len(encoded), *shape)
    images = np.lib.format.open_memmap(place, mode="w+", dtype=np.uint8, shape=every)
    reserve(place)

    def fill(row: int) -> None:
        images[row] = _decoded_as(encoded, row, decoding, shape)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for _ in threads.map(fill, range(len(encoded))):
            pass
    images.flush()


def _decoded_as(encoded: Encoded, row: int, decoding: Decoding, shape: tuple[int, ...]) -> np.ndarray:
    image = decode(encoded.read(row), encoded.names[row], decoding)
    if image.shape != shape:
        what = f"{encoded.names[row]} has {image.shape[1]} x {image.shape[2]} pixels"
        what += f", but {encoded.names[0]} has {shape[1]} x {shape[2]}"
        side = min(*image.shape[1:], *shape[1:])
        raise RunError(f"{what}: set data.decoding.size to bring all images to one size, such as {side} here")
    return image
