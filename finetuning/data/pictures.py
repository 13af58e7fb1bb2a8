"""Images and label maps of any size, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags

from pretraining.data.tables import Table
from pretraining.image.data.decode import Decoding, Encoded, decode, opened


class Pictures(Sequence):
    """Encoded images, each decoded as it is: uint8 [C, H, W]."""

    def __init__(self, encoded: Encoded, channels: int) -> None:
        self.encoded, self.decoding = encoded, Decoding(channels=channels, size=None)

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, row: int) -> np.ndarray:  # type: ignore[override]
        return decode(self.encoded.read(int(row)), self.encoded.names[int(row)], self.decoding)


def size_of(content: Any, name: str) -> tuple[int, int]:
    """Read an image's height and width, as it will be shown, from its first bytes; null or text is an error."""
    with opened(content, name) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # lies on its side
        return image.size if turned else (image.height, image.width)


def levels(content: Any, name: str) -> np.ndarray:
    """Decode a map of whole numbers, one per pixel, of 8 or 16 bits or with a palette. int32 [H, W]"""
    with opened(content, name, "map") as image:
        mode, pixels = image.mode, np.asarray(image)
    if pixels.ndim != 2 or pixels.dtype.kind not in "uib":
        raise ValueError(
            f"{name} is an image of mode {mode}, not a map of one whole number per pixel: write it as such"
        )
    return pixels.astype(np.int32)


def files_encoded(files: Sequence[Path]) -> Encoded:
    """Hold image files, to be read when asked for."""
    files = list(files)
    return Encoded([str(file) for file in files], lambda row: files[row].read_bytes())


def cells_encoded(table: Table, cells: Sequence[Any]) -> Encoded:
    """Hold a table's images, a cell each."""
    return Encoded([table.place(row) for row in range(table.size)], lambda row: table.content(cells[row], row))
