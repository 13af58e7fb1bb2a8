"""Objects in one image, as they are annotated or detected."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from finetuning.dense.masks import Mask


class Objects(NamedTuple):
    """The objects of one image. Shapes: n objects; boxes are (left, top, right, bottom) in pixels of the image."""

    boxes: np.ndarray  # float64 [n, 4]
    classes: np.ndarray  # int64 [n]
    scores: np.ndarray | None = None  # float64 [n], of detections
    crowd: np.ndarray | None = None  # bool [n]: a region of many, which any number of detections may fall on
    ignore: np.ndarray | None = None  # bool [n]: neither missed nor wrong (VOC's "difficult")
    masks: list[Mask] | None = None

    @classmethod
    def none(cls, *, masks: bool = False) -> Objects:
        """Make an image without objects that has no detections either."""
        return cls(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0), masks=[] if masks else None)

    @property
    def size(self) -> int:
        """Count the objects."""
        return len(self.classes)

    @property
    def left_out(self) -> np.ndarray:
        """Tell which are not to be found: crowds and ignored ones. bool [n]"""
        return _or_false(self.crowd, self.size) | _or_false(self.ignore, self.size)

    @property
    def crowds(self) -> np.ndarray:
        """Tell which are crowds. bool [n]"""
        return _or_false(self.crowd, self.size)

    def take(self, rows: np.ndarray) -> Objects:
        """Select some of them, by number or by a mask."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        masks = None if self.masks is None else [self.masks[row] for row in rows]
        crowd, ignore, scores = (
            None if part is None else part[rows] for part in (self.crowd, self.ignore, self.scores)
        )
        return Objects(self.boxes[rows], self.classes[rows], scores, crowd, ignore, masks)


def _or_false(flags: np.ndarray | None, count: int) -> np.ndarray:
    return np.zeros(count, bool) if flags is None else flags
