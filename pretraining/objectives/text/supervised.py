"""Supervised pretraining on labelled texts. See `pretraining.objectives.supervised`.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import torch

from pretraining.engine.batch import Batch
from pretraining.objectives.supervised import Supervised
from pretraining.random import Keys
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.collate import TextCollate, assemble, describe_row, padded_width, text_batch
from pretraining.text.corpus.corpus import Corpus
from pretraining.text.cost import TextRow
from pretraining.text.data.labelled import first_tokens
from pretraining.text.modality import TEXT
from pretraining.text.plan import Rows, TextExamples


class LabelledTexts(TextCollate):
    """Turns labelled texts into rows of one document each, cut at `max_tokens`, padded to the batch's longest."""

    def plan(self, corpus: Corpus, seed: int, epoch: int) -> Rows:
        """Make a row of each document; the same rows each epoch, in another order."""
        return first_tokens(corpus, self.max_tokens, self.preprocess.specials_per_document)

    def __call__(self, examples: TextExamples, keys: Keys) -> Batch:
        """Lay rows out with their classes."""
        longest = int(examples.piece_lengths.max()) + self.preprocess.specials_per_document
        input_ids, document_ids, _ = assemble(examples, min(self.max_tokens, padded_width(longest)), self.preprocess)
        return text_batch(input_ids, document_ids) | {"labels": torch.from_numpy(examples.columns["labels"])}

    def describe(self, batch: Batch, count: int) -> list[str]:
        """Decode rows: what the model reads, and the number of its class."""
        labels = batch["labels"][:count].tolist()
        return [describe_row(self.preprocess, batch, row, f"class {label}") for row, label in enumerate(labels)]


class SupervisedText(Supervised):
    """Classes of texts."""

    modality = TEXT
    backbone: TransformersBackbone

    def forward_flops(self, row: TextRow) -> float:
        """Count the backbone and the linear layer."""
        return self.backbone.forward_flops(row) + 2.0 * self.head.weight.numel()
