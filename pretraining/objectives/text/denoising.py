"""Denoising: an encoder reads corrupted text, a decoder writes what was there (Lewis et al. 2020; Raffel et al. 2020).

Shapes: B rows, T encoder tokens, U decoder tokens, K predictions of a micro-batch (padded), D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.text.corruption import Corruption, unpacked
from pretraining.objectives.text.vocabulary_loss import TextObjective, counted, padded_targets, vocabulary_loss
from pretraining.optim.optimizers import Optimizer
from pretraining.random import Keys
from pretraining.text.backbones.language_head import check_head
from pretraining.text.backbones.transformers_model import TransformersBackbone, matrix_entries
from pretraining.text.collate import TextCollate, padded_width, padding_of, text_batch
from pretraining.text.corpus.corpus import Corpus
from pretraining.text.cost import TextRow
from pretraining.text.plan import Rows, TextExamples, row_spans


@dataclass(kw_only=True, eq=False)
class DenoiseText(TextCollate):
    """Turns rows of text into corrupted inputs and clean targets, in BART's or T5's way: the collate of denoising."""

    corruption: Corruption

    def __post_init__(self) -> None:
        self.corruption.check(self.preprocess)

    def plan(self, corpus: Corpus, seed: int, epoch: int) -> Rows:
        """Lay an epoch's rows out as the corruption wants them."""
        return self.corruption.plan(corpus, self.preprocess, self.max_tokens, seed, epoch)

    def spans(self, rows: Rows) -> np.ndarray:
        """Measure each row before it is corrupted, special tokens included. int64 [B]."""
        return row_spans(rows, self.preprocess.specials_per_document)

    def __call__(self, examples: TextExamples, keys: Keys) -> Batch:
        """Corrupt rows and lay both sides out."""
        text = unpacked(examples, self.preprocess.starts_word)
        sides = self.corruption(text, self.preprocess, self.max_tokens, keys)
        input_ids, shown = self._padded(sides.inputs, sides.input_lengths)
        targets, written = self._padded(sides.targets, sides.target_lengths)
        decoder_input_ids = np.roll(targets, 1, axis=1)
        decoder_input_ids[:, 0] = self.corruption.start_id(self.preprocess)
        positions = np.flatnonzero(written)
        return {
            **text_batch(input_ids, shown),
            "decoder_input_ids": torch.from_numpy(decoder_input_ids),
            **padded_targets(positions, targets.reshape(-1)[positions]),
            "units": int(text.lengths.sum()) + len(text.lengths) * self.preprocess.specials_per_document,
        }

    def _padded(self, tokens: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pad rows to the batch's width: (tokens, which are real), [B, width] each."""
        width = padded_width(int(lengths.max(initial=1)))
        tokens = np.pad(tokens[:, :width], ((0, 0), (0, max(width - tokens.shape[1], 0))))
        real = np.arange(width) < lengths[:, None]
        return np.where(real, tokens, padding_of(self.preprocess)).astype(np.int64), real


class Denoising(TextObjective):
    """Cross-entropy in nats of every target token, given the corrupted text and the target before it."""

    def __init__(self, *, backbone: TransformersBackbone, optimizer: Optimizer) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        if backbone.architecture != "seq2seq":
            told = f"{backbone.model.config.model_type} is a model of architecture={backbone.architecture}"
            remedy = "choose backbone=bart_tiny, bart_base, t5_tiny or t5_small"
            raise ValueError(f"denoising needs an encoder and a decoder, but {told}: {remedy}")
        check_head(backbone)

    def loss(self, batch: Batch) -> Loss:
        """Predict the targets of a batch of `DenoiseText`."""
        decoded = self.backbone.decode(batch["decoder_input_ids"], self.backbone(**batch["inputs"]))
        hidden = decoded.flatten(0, 1).index_select(0, batch["target_positions"])
        return vocabulary_loss("denoising", self.backbone, hidden, batch["labels"], with_accuracy=not self.training)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the target tokens."""
        return {"denoising": counted(batch["labels"])}

    def forward_flops(self, row: TextRow) -> float:
        """Count the encoder on what it reads, the decoder and the head on what they write."""
        model = self.backbone.model
        decoder = model.get_decoder()
        over_memory = [part for name, part in decoder.named_modules() if _reads_memory(name)]
        once_per_token_read = sum(matrix_entries(part) for part in over_memory)
        once_per_token_written = matrix_entries(decoder, without={id(part) for part in over_memory})
        once_per_token_written += model.get_output_embeddings().weight.numel()
        layers = len(over_memory) // 2
        attention = 4.0 * layers * self.backbone.attention_width * (row.written_seen + row.seen)
        written = row.target_positions * (2.0 * once_per_token_written + attention)
        return self.backbone.forward_flops(row) + 2.0 * row.read * once_per_token_read + written


def _reads_memory(name: str) -> bool:
    """Tell by their names the decoder's projections of what the encoder says (keys and values), in BART and T5."""
    *path, last = name.split(".")
    return bool(path) and path[-1] in ("encoder_attn", "EncDecAttention") and last in ("k_proj", "v_proj", "k", "v")
