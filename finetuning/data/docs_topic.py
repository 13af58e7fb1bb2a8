"""Labelled data that come with the installation."""

from __future__ import annotations

from dataclasses import dataclass, field

from finetuning.data.base import LabelledData
from finetuning.data.splits import Examples
from pretraining.cache import default_cache
from pretraining.data.splits import SPLITS
from pretraining.text.data.docs_topic import docs_topic
from pretraining.text.modality import TEXT


@dataclass(kw_only=True)
class DocsTopic(LabelledData):
    """Which family of the standard library a docstring is from, in the splits of the pretraining data `stdlib_docs`."""

    modality = TEXT
    cache_dir: str = field(default_factory=default_cache)
    eval_batch_size: int = 64

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Read the three splits."""
        self.refuse_names()
        parts = {name: docs_topic(name, cache_dir=self.cache_dir) for name in SPLITS}
        found = {name: Examples.of(text=part.texts, label=part.labels) for name, part in parts.items()}
        return found, parts["train"].class_names
