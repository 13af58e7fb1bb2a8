"""What the core asks of text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretraining.data.loader import EVALUATION_SEED
from pretraining.data.source import Source
from pretraining.modality import Function, Modality, Row, Tower, formula_of, named
from pretraining.text.cost import TextRow, average_text_row, spans_of


class Text(Modality):
    """Documents as rows of tokens, which the collate plans."""

    name = "text"
    unit = "tokens"
    readers = {"hf": "pretraining.text.backbones.checkpoints.read_checkpoint"}  # noqa: RUF012
    writers = {  # noqa: RUF012
        "transformers": "pretraining.text.transformers_form.write_transformers",
        "onnx": "pretraining.onnx_form.write_onnx",
        "sentence_transformers": "pretraining.text.sentence_transformers_form.write_sentence_transformers",
    }
    reads = "pretraining.text.unlabelled.ReadTexts"

    def source(self, data: Any, split: str, preprocess: Any, collate: Any, *, seed: int) -> Source:
        """Open a split as rows of the collate's plan."""
        return data.source(split, preprocess, collate.plan, seed=seed if split == "train" else EVALUATION_SEED)

    def backbone_arguments(self, preprocess: Any) -> dict[str, Any]:
        """Name the vocabulary's size and the ids that padding and the ends of a text have."""
        frame_ids = {"bos": preprocess.bos_id, "eos": preprocess.eos_id}
        return {"vocab_size": preprocess.vocab_size, "pad_id": preprocess.pad_id, "frame_ids": frame_ids}

    def average_row(self, objective: Any, source: Source, collate: Any, preprocess: Any) -> Row:
        """Count tokens, and the operations where the objective has a formula for unpadded documents."""
        limit = getattr(objective.backbone, "max_tokens", None)
        if limit is not None and collate.max_tokens > limit:
            what = f"data.max_tokens={collate.max_tokens}, but this backbone has positions for {limit}"
            raise ValueError(f"{what}: lower it, or raise the backbone's own (backbone.config.max_position_embeddings)")
        row = average_text_row(source, collate, preprocess)
        counter = formula_of(objective)
        return Row(row.tokens, None if counter is None else counter(row))

    def flops_as_laid_out(self, objective: Any, batch: Mapping[str, Any], row: Row) -> float:
        """Take the whole rectangle of tokens for read and seen, and every place of a label for predicted."""
        rows, width = batch["inputs"]["input_ids"].shape
        written = batch["decoder_input_ids"].shape[1] if "decoder_input_ids" in batch else 0.0
        predicted = written or len(batch.get("labels", ())) / rows
        return objective.forward_flops(TextRow(width, width, width, predicted, written))

    def facts(self, train: Any, validation: Any, collate: Any, preprocess: Any) -> dict[str, float]:
        """Measure the loss of a model that knows the frequencies of tokens alone, and the share of padding."""
        spans = spans_of(train.rows(0), collate, preprocess)
        # Span corruption shortens its rows before they reach the model, so the longest of them is what a row holds.
        row_tokens = max(collate.max_tokens, int(spans.max(initial=0)))
        return {
            "validation/unigram_entropy": validation.corpus.unigram_entropy(),
            "data/padding_share": 1.0 - float(spans.sum()) / max(train.count(0) * row_tokens, 1),
        }

    def function(self, tower: Tower) -> Function:
        """Take rows of one text each, as tokenizers make them."""
        return named("pretraining.text.single_texts.function_of")(tower)

    def show(self, collate: Any, batch: Mapping[str, Any], count: int, path: Path) -> list[str]:
        """Decode rows: what the model reads, and what it should answer."""
        examples = collate.describe(batch, count) if hasattr(collate, "describe") else []
        return [f"example {number + 1}\n{text}" for number, text in enumerate(examples)]


TEXT = Text()
