"""A tokenizer with sentinels, as span corruption needs it."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pretraining.text.tokenizer_recipes import TrainedRecipe


class SentinelBPE(TrainedRecipe):
    """Byte-level BPE with T5's special tokens: <pad> 0, </s> 1, <unk> 2, and <extra_id_0> downwards from the highest id.

    `vocab_size` counts the sentinels.
    """

    def __init__(self, *, vocab_size: int, lowercase: bool, sample_bytes: int, sentinels: int) -> None:
        super().__init__(vocab_size=vocab_size, lowercase=lowercase, sample_bytes=sample_bytes)
        self.sentinels = sentinels

    def train(self, texts: Iterator[str]) -> PreTrainedTokenizerFast:
        """Train on texts."""
        tokenizer = Tokenizer(models.BPE(unk_token=None))
        if self.lowercase:
            tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size - self.sentinels,
            special_tokens=["<pad>", "</s>", "<unk>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        names = [f"<extra_id_{number}>" for number in reversed(range(self.sentinels))]
        tokenizer.add_special_tokens(names)
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            clean_up_tokenization_spaces=False,
            pad_token="<pad>",
            eos_token="</s>",
            unk_token="<unk>",
            extra_special_tokens=names,
        )
