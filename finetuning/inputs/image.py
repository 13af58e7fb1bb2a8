"""Images made ready for a backbone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from finetuning.data.splits import Examples
from finetuning.inputs.base import Encoded


class Images(Encoded):
    """Images as they were read, uint8 [C, H, W]."""

    def __init__(self, examples: Examples, targets: list[np.ndarray]) -> None:
        super().__init__(examples, targets)
        self.images = examples.columns["image"]

    def inputs(self, rows: np.ndarray) -> dict[str, Any]:
        """Stack to [B, C, H, W]."""
        return {"images": torch.from_numpy(np.stack([self.images[row] for row in self.examples.rows[rows]]))}
