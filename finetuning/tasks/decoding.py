"""How a language model writes: beam search or sampling, through transformers' own `generate`.

Shapes: B texts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pretraining.errors import RunError
from pretraining.random import Keys, uniform


@dataclass(kw_only=True)
class TextDecoding:
    """Beam search with `num_beams` (1: greedy), or sampling from the fewest tokens with `top_p` of the probability.

    `max_new_tokens` counts the end token; `length_penalty` above 0 favours long beams; no n-gram of the length
    `no_repeat_ngram_size` (0: none) occurs twice. A sample is a function of (`seed`, row, place), whatever the batch.
    """

    max_new_tokens: int = 64
    num_beams: int = 4
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.num_beams < 1:
            what = f"got task.decoding.max_new_tokens={self.max_new_tokens} and num_beams={self.num_beams}"
            raise RunError(f"{what}: give numbers of at least 1")
        if self.do_sample and self.num_beams > 1:
            what = f"got task.decoding.do_sample=true and num_beams={self.num_beams}"
            raise RunError(f"{what}: sample with num_beams=1, or search without sampling")
        if not self.temperature > 0 or not 0 < self.top_p <= 1:
            what = f"got task.decoding.temperature={self.temperature} and top_p={self.top_p}"
            raise RunError(f"{what}: give a temperature above 0 and a share up to 1")

    def config(self, model: Any) -> Any:
        """Make a transformers `GenerationConfig` of the model's token ids, these settings, and nothing else."""
        from transformers import GenerationConfig

        known = model.generation_config.to_dict()
        ids = {name: value for name, value in known.items() if name.endswith("token_id") and value is not None}
        if ids.get("pad_token_id") is None:
            end = ids["eos_token_id"]
            ids["pad_token_id"] = end[0] if isinstance(end, list) else end
        settings: dict[str, Any] = {name: getattr(self, name) for name in ("max_new_tokens", "no_repeat_ngram_size")}
        if self.do_sample:
            settings |= {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        elif self.num_beams > 1:
            settings |= {"num_beams": self.num_beams, "length_penalty": self.length_penalty}
        return GenerationConfig(**ids, **settings)

    @torch.no_grad()
    def write(self, model: Any, read: Mapping[str, Tensor], rows: Tensor, *, skipped: int = 1) -> Tensor:
        """Write after what the model has `read`, by `generate`'s names, padded on the left for causal models.

        Returns new tokens only: `generate` gives `skipped` before them, a decoder's start token or a whole prompt.
        """
        config = self.config(model)
        if self.do_sample:
            config.update(do_sample=False, temperature=None, top_p=None, top_k=None)
        chosen = self._processors(skipped, rows) if self.do_sample else None
        return model.generate(**read, generation_config=config, logits_processor=chosen)[:, skipped:]

    def _processors(self, skipped: int, rows: Tensor) -> Any:
        from transformers import LogitsProcessorList
        from transformers.generation import TemperatureLogitsWarper, TopPLogitsWarper

        warpers: list[Any] = [TemperatureLogitsWarper(self.temperature), TopPLogitsWarper(self.top_p)]
        return LogitsProcessorList([*warpers, KeyedSampling(self.seed, rows, skipped)])


class KeyedSampling:
    """Adds noise under which the best token is a sample of the distribution (Gumbel-max), drawn at (seed, row, place).

    transformers' own sampling draws from one generator for a whole batch: a text would depend on its neighbours.
    """

    def __init__(self, seed: int, rows: Tensor, skipped: int) -> None:
        self.seed, self.rows, self.skipped = seed, rows, skipped

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Add the noise of each row's place to scores [B, V]."""
        place = torch.full_like(self.rows, input_ids.shape[1] - self.skipped)
        draws = uniform(Keys(self.seed, "decoding", place, self.rows), "token", scores.shape[1])
        assert isinstance(draws, Tensor)
        return scores.float() - draws.clamp(min=2.0**-25).log().neg().log()
