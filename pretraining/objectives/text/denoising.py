"""Denoising: an encoder reads a damaged text, a decoder writes what was there (Lewis et al. 2020, "BART"; Raffel et al. 2020, "T5").

Shapes: B rows, T encoder tokens, U decoder tokens, K predictions of a micro-batch (padded), D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pretraining.kernels.cross_entropy import NO_LABEL
from pretraining.objectives.base import Batch, Loss, Objective
from pretraining.objectives.text.corruption import Damage, Vocabulary, lay_out
from pretraining.objectives.text.vocabulary_loss import vocabulary_loss
from pretraining.optim.optimizers import Optimizer
from pretraining.random import Keys
from pretraining.text.backbones.language_head import check_head
from pretraining.text.backbones.transformers_model import TransformersBackbone, matrix_entries
from pretraining.text.corpus.corpus import Corpus
from pretraining.text.cost import TextRow
from pretraining.text.modality import TEXT
from pretraining.text.plan import Rows, TextExamples, row_spans
from pretraining.text.tokenizer import TextPreprocess

WIDTH_MULTIPLE = 8  # batches are padded to a multiple of it: few shapes, and aligned matrix products
PREDICTIONS_MULTIPLE = 64


class DenoiseText:
    """Turns rows of text into damaged inputs and clean targets: the collate of denoising. `damage` is BART's or T5's way."""

    def __init__(self, *, preprocess: TextPreprocess, max_tokens: int, damage: Damage) -> None:
        self.preprocess, self.max_tokens, self.damage = preprocess, max_tokens, damage
        self.vocabulary = Vocabulary.of(preprocess)
        damage.check(self.vocabulary)
        self.pad_id = 0 if preprocess.pad_id is None else preprocess.pad_id

    def plan(self, corpus: Corpus, seed: int, epoch: int) -> Rows:
        """Lay an epoch's rows out as the damage wants them."""
        return self.damage.plan(corpus, self.vocabulary, self.max_tokens, seed, epoch)

    def spans(self, rows: Rows) -> np.ndarray:
        """Give the tokens of each row before it is damaged, special ones included."""
        return row_spans(rows, self.vocabulary.specials)

    def __call__(self, examples: TextExamples, keys: Keys) -> Batch:
        """Damage rows and lay both sides out."""
        text = lay_out(examples, self.preprocess.starts_word)
        sides = self.damage(text, self.vocabulary, self.max_tokens, keys)
        input_ids, shown = self._padded(sides.inputs, sides.input_lengths)
        targets, written = self._padded(sides.targets, sides.target_lengths)
        decoder_input_ids = np.roll(targets, 1, axis=1)
        decoder_input_ids[:, 0] = self.damage.start_id(self.vocabulary)
        places = np.flatnonzero(written)
        padding = -len(places) % PREDICTIONS_MULTIPLE
        return {
            "inputs": {
                "input_ids": torch.from_numpy(input_ids),
                "document_ids": torch.from_numpy(shown.astype(np.int64)),
            },
            "decoder_input_ids": torch.from_numpy(decoder_input_ids),
            "target_positions": torch.from_numpy(np.pad(places, (0, padding))),
            "labels": torch.from_numpy(np.pad(targets.reshape(-1)[places], (0, padding), constant_values=NO_LABEL)),
            "units": int(text.lengths.sum()) + len(text.lengths) * self.vocabulary.specials,
        }

    def _padded(self, tokens: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pad rows to the batch's width: (tokens, which are real), [B, width] each."""
        width = -(-int(lengths.max(initial=1)) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
        tokens = np.pad(tokens[:, :width], ((0, 0), (0, max(width - tokens.shape[1], 0))))
        real = np.arange(width) < lengths[:, None]
        return np.where(real, tokens, self.pad_id).astype(np.int64), real


class Denoising(Objective):
    """Cross-entropy in nats of every target token, given the damaged text and the target before it."""

    modality = TEXT
    backbone: TransformersBackbone

    def __init__(self, *, backbone: TransformersBackbone, optimizer: Optimizer) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        if backbone.architecture != "seq2seq":
            raise ValueError(
                f"denoising needs an encoder and a decoder, but {backbone.model.config.model_type} is a model of architecture="
                f"{backbone.architecture}: choose backbone=bart_tiny, bart_base, t5_tiny or t5_small"
            )
        check_head(backbone)

    def loss(self, batch: Batch) -> Loss:
        """Predict the targets of a batch of `DenoiseText`."""
        memory = self.backbone(**batch["inputs"]).positions
        decoded = self.backbone.decode(batch["decoder_input_ids"], memory, batch["inputs"]["document_ids"])
        hidden = decoded.flatten(0, 1).index_select(0, batch["target_positions"])
        return vocabulary_loss("denoising", self.backbone, hidden, batch["labels"], with_accuracy=not self.training)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the target tokens."""
        return {"denoising": (batch["labels"] != NO_LABEL).sum()}

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
    """Tell the decoder's projections of what the encoder says (keys and values) by their names in BART's and T5's families."""
    *path, last = name.split(".")
    return bool(path) and path[-1] in ("encoder_attn", "EncDecAttention") and last in ("k_proj", "v_proj", "k", "v")
