"""Supervised pretraining on labelled texts. See `supervised.py`.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretraining.data.labelled_text import first_tokens
from pretraining.data.plan import Rows, TextExamples, assemble
from pretraining.objectives.base import Batch
from pretraining.objectives.supervised import Supervised
from pretraining.preprocess.text import TextPreprocess
from pretraining.random import Keys


class LabelledTexts:
    """Turns labelled texts into rows of one document each, cut at `max_tokens`, padded to the longest of their batch."""

    def __init__(self, *, preprocess: TextPreprocess, max_tokens: int) -> None:
        self.preprocess, self.max_tokens = preprocess, max_tokens

    def plan(self, corpus: Any, seed: int, epoch: int) -> Rows:
        """Give each document a row; the same rows each epoch, in another order."""
        return first_tokens(corpus, self.max_tokens, self.preprocess.specials_per_document)

    def __call__(self, examples: TextExamples, keys: Keys) -> Batch:
        """Lay rows out with their classes."""
        longest = int(examples.piece_lengths.max()) + self.preprocess.specials_per_document
        input_ids, documents, _ = assemble(examples, min(self.max_tokens, -(-longest // 8) * 8), self.preprocess)
        return {
            "input_ids": torch.from_numpy(input_ids.astype(np.int64)),
            "documents": torch.from_numpy(documents.astype(np.int64)),
            "labels": torch.from_numpy(examples.columns["labels"]),
            "tokens": int((documents > 0).sum()),
        }

    def describe(self, batch: Batch, count: int) -> list[str]:
        """Decode rows: what the model reads, and the number of its class."""
        texts = []
        for ids, documents, label in zip(batch["input_ids"][:count], batch["documents"], batch["labels"], strict=False):
            texts.append(f"  input   {self.preprocess.tokenizer.decode(ids[documents > 0])}\n  target  class {int(label)}")
        return texts


class SupervisedText(Supervised):
    """Classes of texts."""

    modality = "text"

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the texts."""
        return {"cross_entropy": torch.tensor(len(batch["labels"]))}

    def pooled(self, batch: Batch) -> Tensor:
        """Compute a vector per text."""
        return self.backbone(input_ids=batch["input_ids"], documents=batch["documents"]).pooled
