"""Labelled data that come with the installation."""

from __future__ import annotations

from finetuning.data.base import LabelledData
from finetuning.data.splits import SPLITS, Examples, Split
from pretraining.text.data.docs_topic import docs_topic
from pretraining.text.modality import TEXT


class DocsTopic(LabelledData):
    """Which family of the standard library a docstring is from; the splits are those of the pretraining data `stdlib_docs`."""

    modality = TEXT

    def __init__(self, *, cache_dir: str, split: Split, batch_size: int, eval_batch_size: int, workers: int) -> None:
        super().__init__(split=split, batch_size=batch_size, eval_batch_size=eval_batch_size, workers=workers)
        self.cache_dir = cache_dir

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Read the three splits."""
        parts = {name: docs_topic(name, cache_dir=self.cache_dir) for name in SPLITS}
        return {name: Examples.of(text=part.texts, label=part.labels) for name, part in parts.items()}, parts[
            "train"
        ].class_names
