"""Texts written after texts: translation, summarization, whatever has a source and a target.

Shapes: N tokens predicted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from finetuning.data.splits import Examples, Splits
from finetuning.inputs.base import EncodedSplit, Inputs
from finetuning.inputs.text_pairs import TextPairInputs, prompts
from finetuning.metrics import generation as overlap
from finetuning.metrics.bootstrap import Intervals, Numbers
from finetuning.modes import Full
from finetuning.task import Predictions, Task, TaskParts
from finetuning.tasks.decoding import TextDecoding
from pretraining.backbones.base import Features
from pretraining.engine.batch import Batch
from pretraining.errors import RunError
from pretraining.text.backbones.language_head import check_head, scores
from pretraining.text.backbones.transformers_model import TransformersBackbone

BY_LOSS = ("-loss", "-cross_entropy")


class Generation(Task):
    """Trains an encoder–decoder or a causal model, with its own head, on each target token given those before it.

    `label_smoothing` is the share of each target's probability that is spread over the vocabulary, in training only.
    With `select=-loss` nothing is written until the test; any other metric has texts written at each evaluation.
    """

    cacheable = False
    own_head = True
    measures = ("loss", "bleu", "chrf", *overlap.ROUGE, "exact_match")
    placeholder: Any = ("",)
    backbone: TransformersBackbone
    inputs: TextPairInputs

    def __init__(
        self,
        parts: TaskParts,
        *,
        inputs: Inputs,
        select: str,
        decoding: TextDecoding = TextDecoding(),
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(parts, inputs=inputs, select=select)
        if not 0 <= label_smoothing < 1:
            raise RunError(f"got task.label_smoothing={label_smoothing}: give a share of at least 0 and below 1")
        self.decoding, self.label_smoothing = decoding, label_smoothing
        self.head = self.make_head(parts)
        self.writer.model.generation_config = decoding.config(self.writer.model)  # saved beside the weights

    @property
    def writer(self) -> TransformersBackbone:
        """The model that writes."""
        return self.backbone

    def make_head(self, parts: TaskParts) -> nn.Module:
        """Make nothing: the model has its own. One that has none, or would not learn, is an error."""
        handoff, mode = parts.handoff, parts.mode
        if self.backbone.architecture == "encoder":
            where, kind = handoff.path or handoff.card["origin"]["objective"], self.backbone.model.config.model_type
            cure = "give one pretrained with objective=denoising_bart, denoising_t5 or causal_language, or hf: of such"
            raise RunError(f"the hand-off {where} holds an encoder ({kind}), which has no head that writes: {cure}")
        if mode.frozen or (isinstance(mode, Full) and mode.head_steps):
            what = f"got mode={type(mode).__name__}, which trains a head alone; this task's is the language model's"
            raise RunError(f"{what}: take mode=full (with head_steps=0), partial, gradual_unfreezing or lora")
        check_head(self.backbone)
        self.inputs.check_lengths(self.backbone, self.decoding.max_new_tokens)
        return nn.Identity()

    @classmethod
    def collect_labels(cls, splits: Splits) -> dict[str, Any]:
        """Collect nothing; that texts can be judged is checked before a run begins."""
        overlap.check_libraries()
        return {}

    def targets(self, examples: Examples) -> list[str]:
        """Take first references, which alone are learnt."""
        return [references[0] for references in examples.column("label")]

    def score(self, features: Features, batch: Batch) -> Tensor:
        """Score the vocabulary at each target token, the ones before it given. [N, V]"""
        hidden = features.positions
        if "decoder_input_ids" in batch:
            hidden = self.backbone.decode(batch["decoder_input_ids"], features)
        return scores(self.backbone, hidden.flatten(0, 1).index_select(0, batch["target_positions"]))

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum the cross-entropy over target tokens, special ones included."""
        smoothing = self.label_smoothing if self.training else 0.0
        return F.cross_entropy(logits, batch["targets"], reduction="sum", label_smoothing=smoothing)

    def validate(self, loader: Any) -> Numbers:
        """Measure the loss, and what is written only where the selection asks for it."""
        if self.select not in BY_LOSS:
            return super().validate(loader)
        values = self.evaluate(loader)
        self.keep_best(values)
        return values

    def by_row(self, logits: Tensor, batch: Batch) -> Iterable[np.ndarray]:
        """Write a text for each row: token ids, special ones included."""
        model, rows = self.writer.model, batch["rows"].to(self.device)
        read, skipped = prompts(batch, model.generation_config.pad_token_id, self.device)
        return list(self.decoding.write(model, read, rows, skipped=skipped).cpu().numpy())

    def zero_outputs(self, split: EncodedSplit) -> list[np.ndarray]:
        """Write nothing."""
        return [np.zeros(0, np.int64) for _ in split.targets]

    def predict(self, outputs: list[np.ndarray], split: EncodedSplit) -> Predictions:
        """Turn tokens into text."""
        texts = [self.preprocess.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in outputs]
        return Predictions(split.examples.column("label"), texts, split.examples.column("source"))

    def metrics(self, predictions: Predictions) -> Numbers:
        """Compute BLEU, chrF, ROUGE and exact match."""
        return overlap.summary(predictions.labels, predictions.predictions)

    def intervals(self, predictions: Predictions) -> Intervals:
        """Bootstrap all of them over examples."""
        return overlap.intervals(predictions.labels, predictions.predictions)

    def table(self, predictions: Predictions) -> dict[str, Any]:
        """Name each source, its references, what was written, and by chrF how well (0 to 100)."""
        labels, texts, sources = predictions
        quality = overlap.sentence_chrf(labels, texts)
        return {"source": sources, "label": labels, "prediction": texts, "scores": quality}

    def unlabelled_table(self, predictions: Predictions) -> dict[str, Any]:
        """Give what was written: how well, nobody knows."""
        return {"prediction": predictions.predictions}
