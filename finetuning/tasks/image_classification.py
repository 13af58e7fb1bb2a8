"""Classes of images."""

from __future__ import annotations

from torch import Tensor

from finetuning.data.splits import Examples
from finetuning.inputs.image import Images
from finetuning.tasks.classification import Classification
from pretraining.engine.batch import Batch
from pretraining.image.modality import IMAGE


class ImageClassification(Classification):
    """Classes of images, prepared as the hand-off says."""

    modality = IMAGE
    top = 5

    def encode(self, examples: Examples) -> Images:
        """Number the classes; pixels stay as they are until they reach the device."""
        return Images(examples, self.target_rows(examples))

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Resize and normalise."""
        return {"images": self.preprocess(batch["images"])}
