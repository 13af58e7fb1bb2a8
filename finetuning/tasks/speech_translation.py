"""Texts written after recordings: the encoder of one hand-off listens, the decoder of another one writes.

Shapes: B recordings, T frames, U tokens written, N tokens predicted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from finetuning.data.splits import Examples
from finetuning.inputs.audio import SpokenSourceInputs
from finetuning.inputs.base import EncodedSplit
from finetuning.task import Predictions, TaskParts
from finetuning.tasks.decoding import TextDecoding
from finetuning.tasks.generation import Generation
from pretraining import handoff
from pretraining.backbones.base import Features
from pretraining.engine.batch import Batch
from pretraining.errors import HandoffError, RunError
from pretraining.text.backbones.language_head import check_head, scores
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.modality import TEXT


class SpeechTranslation(Generation):
    """Trains a pretrained decoder of texts to read a pretrained encoder's frames, through a linear layer.

    `decoder` is the hand-off of an encoder–decoder of texts, whose encoder is left out (Li et al. 2021, "Multilingual
    speech translation with efficient finetuning of pretrained models"). What is written may be the words in another
    language, or in the same one. A frozen `mode` trains the decoder and the linear layer.
    """

    own_head = False
    per_position = True
    placeholder: Any = ""
    inputs: SpokenSourceInputs  # type: ignore[assignment]
    head: Writer

    def __init__(
        self,
        parts: TaskParts,
        *,
        inputs: SpokenSourceInputs,
        select: str,
        decoder: str,
        dropout: float = 0.1,
        decoding: TextDecoding = TextDecoding(),
        label_smoothing: float = 0.0,
    ) -> None:
        self.decoder, self.dropout = decoder, dropout
        super().__init__(parts, inputs=inputs, select=select, decoding=decoding, label_smoothing=label_smoothing)

    @property
    def writer(self) -> TransformersBackbone:
        """The model that writes."""
        return self.head.decoder

    def make_head(self, parts: TaskParts) -> nn.Module:
        """Read the decoder; one that cannot write, or not the one that a finished run was trained with, is an error."""
        try:
            given = handoff.read(self.decoder, modality=TEXT)
        except HandoffError as error:
            raise RunError(f"task.decoder: {error}") from error
        found: Any = given.backbone
        self.words = given.preprocess
        if getattr(found, "architecture", None) != "seq2seq":
            told = f"got task.decoder={self.decoder}, which holds no encoder–decoder"
            raise RunError(f"{told}: give a hand-off of objective=denoising_bart or denoising_t5, or hf: BART or T5")
        check_head(found)
        limit, longest = found.max_tokens, max(self.inputs.max_target_tokens, self.decoding.max_new_tokens)
        if limit is not None and longest > limit:
            what = f"got task.inputs.max_target_tokens={self.inputs.max_target_tokens} and task.decoding.max_new_tokens"
            raise RunError(
                f"{what}={self.decoding.max_new_tokens}, but the decoder has positions for {limit}: lower them"
            )
        if self.labels.setdefault("decoder", given.digest) != given.digest:
            told = f"task.decoder={self.decoder} is not the hand-off that this model was trained with"
            raise RunError(f"{told}, whose tokens it writes: put that one back")
        return Writer(self.layers.head(found.dim, self.dropout), found)

    def targets(self, examples: Examples) -> list[np.ndarray]:  # type: ignore[override]
        """Tokenise the texts, with their special tokens; too long ones are cut at their end, and counted."""
        texts = examples.column("label")
        odd = next((text for text in texts if not isinstance(text, str)), None)
        if odd is not None:
            raise RunError(f"got {str(odd)[:60]!r} as a text to write: name a column of texts with data.label")
        return self.inputs.tokenise(texts, self.words)

    def read(self, features: Features) -> Features:
        """Bring frames to the decoder's width. [B, T, D]"""
        frames = self.head.projection(features.positions)
        every = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        return features._replace(positions=frames, valid=every if features.valid is None else features.valid)

    def score(self, features: Features, batch: Batch) -> Tensor:
        """Score the vocabulary at each target token, the ones before it given. [N, V]"""
        config, lengths = self.writer.model.config, batch["targets_per_row"]
        rows = batch["targets"].split(lengths.tolist())
        shifted = [F.pad(row[:-1], (1, 0), value=config.decoder_start_token_id) for row in rows]
        written = pad_sequence(shifted, batch_first=True, padding_value=config.pad_token_id)  # [B, U]
        there = torch.arange(written.shape[1], device=written.device) < lengths[:, None]
        return scores(self.writer, self.writer.decode(written, self.read(features))[there])

    def by_row(self, logits: Tensor, batch: Batch) -> Iterable[np.ndarray]:
        """Write a text for each row: token ids, special ones included."""
        from transformers.modeling_outputs import BaseModelOutput

        moved = {name: part.to(self.device) for name, part in batch["inputs"].items()}
        read = self.read(self.features(batch | {"inputs": moved}))
        assert read.valid is not None
        given: dict[str, Any] = {
            "encoder_outputs": BaseModelOutput(read.positions),
            "attention_mask": read.valid.long(),
        }
        return list(self.decoding.write(self.writer.model, given, batch["keys"].index.to(self.device)).cpu().numpy())

    def predict(self, outputs: list[np.ndarray], split: EncodedSplit) -> Predictions:
        """Turn tokens into text."""
        texts = [self.words.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in outputs]
        return Predictions([[text] for text in split.examples.column("label")], texts)

    def table(self, predictions: Predictions) -> dict[str, Any]:
        """Name the text of each recording, what was written, and by chrF how well (0 to 100)."""
        return {name: part for name, part in super().table(predictions).items() if name != "source"}


class Writer(nn.Module):
    """What is trained beside the encoder: a projection of its frames, and the decoder that reads them."""

    def __init__(self, projection: nn.Module, decoder: TransformersBackbone) -> None:
        super().__init__()
        self.projection, self.decoder = projection, decoder
        encoder = decoder.model.get_encoder()
        for part in encoder.children():
            if isinstance(part, nn.ModuleList):
                del part[:]  # its layers, the bulk of it
        written_with = {*decoder.model.get_decoder().parameters(), *decoder.model.get_output_embeddings().parameters()}
        for parameter in {*encoder.parameters()} - written_with:
            parameter.requires_grad_(False)
