"""Images, prepared as the hand-off says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetuning.data.splits import Examples
from finetuning.data.tables import rows_of
from finetuning.inputs.base import EncodedSplit, Inputs, Unlabelled
from pretraining.backbones.base import Backbone
from pretraining.cli.configuration import as_run_errors, instantiate
from pretraining.data.files import kind_of, say, walk
from pretraining.engine.batch import Batch
from pretraining.errors import RunError
from pretraining.image.data.decode import Decoding, decode
from pretraining.image.data.files import SUFFIXES
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess


class Images(EncodedSplit):
    """Images as they were read, uint8 [C, H, W]."""

    def stack(self, rows: np.ndarray) -> Batch:
        """Stack to [B, C, H, W]."""
        images = self.examples.columns["image"]
        return {"inputs": {"images": torch.from_numpy(np.stack([images[row] for row in self.examples.rows[rows]]))}}


class ImageInputs(Inputs):
    """Images whose pixels stay as they are until they reach the device, where they are resized and normalised."""

    modality = IMAGE
    columns = ("image",)

    def encode(
        self, examples: Examples, targets: list[np.ndarray], preprocess: ImagePreprocess, backbone: Backbone
    ) -> Images:
        """Leave the images as they are."""
        return Images(examples, targets)

    def on_device(self, inputs: dict[str, Tensor], preprocess: ImagePreprocess) -> dict[str, Tensor]:
        """Resize and normalise."""
        return {"images": preprocess(inputs["images"])}

    def read(self, path: Path, named: Mapping[str, Any], preprocess: ImagePreprocess) -> Iterator[Unlabelled]:
        """Decode one image, all images in a directory and those below it, or those in tables, as the run's data are."""
        if not path.is_file() and not path.is_dir():
            raise RunError(f"got input={path} for a run on images: give a file or a directory that exists")
        kept = named.get("decoding")
        decoding = Decoding(channels=preprocess.channels, size=None) if kept is None else instantiate(kept)
        with as_run_errors():
            for shown, name, content in _encoded(path, named.get("columns", {}).get("image", "image")):
                yield Unlabelled(shown, {"image": decode(content, name, decoding)})


def _encoded(path: Path, column: str) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Read images as bytes, each with what is shown of it and what errors call it."""
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
        for row, (cell,) in rows_of(file, {"data.columns.image": column}):
            yield {**source, "id": row}, f"{file}, row {row}", cell["bytes"] if isinstance(cell, dict) else cell
