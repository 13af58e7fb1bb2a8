"""Texts written after texts: translation, summarization, whatever has a source and a target.

Shapes: B rows, T tokens read, U tokens written, N tokens predicted, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetuning.data.splits import Examples
from finetuning.inputs.base import Encoded
from finetuning.inputs.text_pairs import Pairs, Writing, prompts
from finetuning.metrics import generation as overlap
from finetuning.metrics.classification import Numbers
from finetuning.modes import Full, Mode
from finetuning.task import Judged, Task
from finetuning.tasks.decoding import TextDecoding
from pretraining.engine.batch import Batch, Term
from pretraining.engine.step import StepModule
from pretraining.errors import RunError
from pretraining.handoff import Handoff
from pretraining.optim.optimizers import Optimizer
from pretraining.text.backbones.language_head import check_head, scores
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.modality import TEXT

BY_LOSS = ("-loss", "-cross_entropy")


class Generation(Task):
    """Trains an encoder–decoder or a causal model, with its own language-model head, on each target token given those before it.

    Sources are cut at `max_tokens`. With `select=-loss` nothing is written until the test; any other selection metric is measured
    on texts written at each evaluation.
    """

    modality = TEXT
    cacheable = False
    backbone: TransformersBackbone

    def __init__(
        self,
        *,
        handoff: Handoff,
        labels: dict[str, Any],
        mode: Mode,
        optimizer: Optimizer,
        select: str,
        max_tokens: int,
        writing: Writing,
        decoding: TextDecoding,
    ) -> None:
        super().__init__(handoff=handoff, labels=labels, mode=mode, optimizer=optimizer, select=select)
        if self.backbone.architecture == "encoder":
            raise RunError(
                f"generation writes with a language-model head, but the hand-off {handoff.path or handoff.card['origin']['objective']} "
                f"holds an encoder ({self.backbone.model.config.model_type}): give one pretrained with objective=denoising_bart, "
                "denoising_t5 or causal_language, or hf:NAME of such a model"
            )
        if mode.frozen or (isinstance(mode, Full) and mode.head_steps):
            raise RunError(
                f"got mode={type(mode).__name__}, which trains a head alone, but this task's head is the language model's own: "
                "take mode=full (with head_steps=0), partial, gradual_unfreezing or lora"
            )
        check_head(self.backbone)
        self.max_tokens, self.writing, self.decoding = max_tokens, writing, decoding
        writing.check(self.backbone, max_tokens, decoding.max_new_tokens)
        self.head = nn.Identity()
        self.backbone.model.generation_config = decoding.config(self.backbone.model)  # saved beside the weights

    def blank(self) -> Any:
        """Give an empty reference."""
        return [""]

    def encode(self, examples: Examples) -> Pairs:
        """Tokenise sources and first references."""
        return self.writing.encode(examples, self.preprocess, self.backbone, self.max_tokens)

    def logits(self, batch: Batch) -> Tensor:
        """Score the vocabulary at each target token, the ones before it given. [N, V]"""
        hidden = self.backbone(**batch["inputs"]).positions
        if "decoder_input_ids" in batch:
            # Targets are padded at their ends, which a causal decoder's real positions never see: it needs no mask of its own.
            hidden = self.backbone.model.get_decoder()(
                input_ids=batch["decoder_input_ids"],
                encoder_hidden_states=hidden,
                encoder_attention_mask=batch["inputs"]["document_ids"],
                use_cache=False,
            ).last_hidden_state
        return scores(self.backbone, hidden.flatten(0, 1).index_select(0, batch["target_positions"]))

    def criterion(self, logits: Tensor, batch: Batch) -> Term:
        """Sum the cross-entropy over target tokens, special ones included."""
        smoothing = self.writing.label_smoothing if self.training else 0.0
        total = F.cross_entropy(logits, batch["targets"], reduction="sum", label_smoothing=smoothing)
        return Term(total, torch.tensor(float(len(logits)), device=logits.device))

    @torch.no_grad()
    def evaluate(self, loader: Any, prefix: str = "validation") -> Numbers:
        """Measure the loss, and what is written only where the selection asks for it."""
        if self.select not in BY_LOSS:
            return super().evaluate(loader, prefix)
        values = StepModule.evaluate(self, loader, prefix)
        if prefix == "validation":
            self._keep_best(values)
        return values

    def by_row(self, logits: Tensor, batch: Batch) -> Iterable[np.ndarray]:
        """Write a text for each row. Token ids, special ones included"""
        ids, mask = batch["inputs"]["input_ids"].to(self.device), batch["inputs"]["document_ids"].to(self.device)
        model = self.backbone.model
        if "prompt_tokens" in batch:
            ids, mask = prompts(ids, batch["prompt_tokens"].to(self.device), model.generation_config.pad_token_id)
        return list(self.decoding.write(model, ids, mask, batch["rows"].to(self.device)).cpu().numpy())

    def silence(self, encoded: Encoded) -> list[np.ndarray]:
        """Give empty texts."""
        return [np.zeros(0, np.int64) for _ in encoded.targets]

    def judge(self, outputs: list[np.ndarray], encoded: Encoded) -> Judged:
        """Turn tokens into text."""
        texts = [self.preprocess.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in outputs]
        return Judged(encoded.examples.column("label"), texts, encoded.examples.column("source"))

    def metrics(self, judged: Judged) -> Numbers:
        """Compute BLEU, chrF, ROUGE and exact match."""
        return overlap.summary(judged.labels, judged.predictions)

    def intervals(self, judged: Judged) -> dict[str, tuple[float, float]]:
        """Bootstrap all of them over examples."""
        return overlap.intervals(judged.labels, judged.predictions)

    def table(self, judged: Judged) -> dict[str, Any]:
        """Give each source, its references, what was written, and by chrF how well (0 to 100)."""
        quality = overlap.sentence_chrf(judged.labels, judged.predictions)
        return {"source": judged.scores, "label": judged.labels, "prediction": judged.predictions, "scores": quality}
