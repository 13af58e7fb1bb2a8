"""How a text preprocess comes about: trained on the training split, or taken from somewhere else."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pretraining.cache import build_once, key
from pretraining.errors import RunError
from pretraining.runs.described import described
from pretraining.settings import check_fields
from pretraining.text.tokenizer import TextPreprocess

if TYPE_CHECKING:
    from pretraining.text.data.base import TextData

FRAMED = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}  # RoBERTa's special tokens
FORMAT = 2  # raised when the same recipe and text would give another tokenizer


@dataclass(kw_only=True)
class TrainedRecipe(ABC):
    """A tokenizer trained on `sample_bytes` of the training split, from all its files, and kept in the data's cache."""

    vocab_size: int = 8192
    lowercase: bool = False
    sample_bytes: int = 100_000_000

    def __post_init__(self) -> None:
        check_fields(self, "preprocess")

    @abstractmethod
    def train(self, texts: Iterator[str]) -> PreTrainedTokenizerFast:
        """Train on texts."""

    def fit(self, data: TextData) -> TextPreprocess:
        """Train, or read what was trained before from the same text."""
        if not hasattr(data, "fingerprint"):
            raise RunError(
                f"got {type(data).__name__} as data: give texts as TextFiles(path=...) and the like hold them"
            )
        parts = {"recipe": type(self).__name__, **vars(self), "data": data.fingerprint(), "format": FORMAT}
        directory = build_once(
            data.cache_dir / "tokenizers" / key(parts),
            lambda partial: TextPreprocess(tokenizer=self.train(data.sample("train", self.sample_bytes))).save(partial),
        )
        preprocess = TextPreprocess.load(directory)
        if not len(preprocess.ordinary_ids):
            beside = f"{len(preprocess.special_ids)} special tokens"
            raise ValueError(f"preprocess.vocab_size={self.vocab_size} leaves no token beside {beside}: raise it")
        preprocess.recipe = described(self)
        return preprocess


@dataclass(kw_only=True)
class WordPiece(TrainedRecipe):
    """BERT's scheme: its normaliser, words cut at punctuation and around Chinese characters, pieces marked with ##."""

    lowercase: bool = True

    def train(self, texts: Iterator[str]) -> PreTrainedTokenizerFast:
        """Train on texts.

        The library's trainer numbers continuing characters (##a) in the order of a randomly keyed hash table and breaks
        ties by number. So a first pass finds them, and a second gets them in order: equal text, equal vocabulary.
        """
        names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
        sample = list(texts)
        alphabet = self._alphabet(sample)
        characters = self._vocabulary(sample, alphabet, [], 0)
        continuing = sorted(token for token in characters if token.startswith("##") and len(token) == 3)
        vocabulary = self._vocabulary(sample, alphabet, [*names.values(), *continuing], self.vocab_size)
        return _wrapped(self._tokenizer(vocabulary), names)

    def _tokenizer(self, vocabulary: dict[str, int]) -> Tokenizer:
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=self.lowercase)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        return tokenizer

    def _alphabet(self, sample: list[str]) -> list[str]:
        """List the most frequent characters: each takes up to two places, so that they get half of the vocabulary."""
        normalise = normalizers.BertNormalizer(lowercase=self.lowercase).normalize_str
        counts: Counter[str] = Counter()
        for text in sample:
            counts.update(normalise(text))
        del counts[" "]
        return sorted(sorted(counts, key=lambda character: (-counts[character], character))[: self.vocab_size // 4])

    def _vocabulary(self, sample: list[str], alphabet: list[str], fixed: list[str], vocab_size: int) -> dict[str, int]:
        tokenizer = self._tokenizer({})
        kept: dict[str, Any] = {"special_tokens": fixed, "initial_alphabet": alphabet, "limit_alphabet": len(alphabet)}
        trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, **kept, show_progress=False)
        tokenizer.train_from_iterator(sample, trainer)
        return tokenizer.get_vocab()


class ByteBPE(TrainedRecipe):
    """RoBERTa's scheme: byte-pair encoding of UTF-8, where nothing is unknown; a space belongs to the word after it.

    Sentences are encoded one at a time, so each opens with a space.
    """

    def train(self, texts: Iterator[str]) -> PreTrainedTokenizerFast:
        """Train on texts."""
        tokenizer = self._merged(texts, self.vocab_size, list(FRAMED.values()))
        return _wrapped(tokenizer, {**FRAMED, "bos": "<s>", "eos": "</s>"})

    def _merged(self, texts: Iterator[str], vocab_size: int, special_tokens: list[str]) -> Tokenizer:
        """Learn the merges of bytes."""
        tokenizer = Tokenizer(models.BPE(unk_token=None))
        if self.lowercase:
            tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        kept: dict[str, Any] = {"special_tokens": special_tokens, "initial_alphabet": alphabet}
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, **kept, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        return tokenizer


@dataclass(kw_only=True)
class SentinelBPE(ByteBPE):
    """Byte-level BPE with T5's special tokens: <pad> 0, </s> 1, <unk> 2, <extra_id_0> last and the others before it.

    `vocab_size` counts the sentinels.
    """

    sentinels: int = 100

    def train(self, texts: Iterator[str]) -> PreTrainedTokenizerFast:
        """Train on texts."""
        tokenizer = self._merged(texts, self.vocab_size - self.sentinels, ["<pad>", "</s>", "<unk>"])
        names = [f"<extra_id_{number}>" for number in reversed(range(self.sentinels))]
        tokenizer.add_special_tokens(names)
        end = [("</s>", tokenizer.token_to_id("</s>"))]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=end
        )
        special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "extra_special_tokens": names}
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)


class Unigram(TrainedRecipe):
    """A unigram language model over pieces (Kudo 2018), as SentencePiece trains it: spaces are part of pieces ("▁")."""

    def train(self, texts: Iterator[str]) -> PreTrainedTokenizerFast:
        """Train on texts."""
        names, tokenizer = FRAMED, Tokenizer(models.Unigram())
        steps = [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        tokenizer.normalizer = normalizers.Sequence(steps if self.lowercase else steps[:-1])
        # The names of special tokens are pieces; cut behind its "<", no text has one whole.
        opening = Regex("<(?=" + "|".join(re.escape(name[1:]) for name in names.values()) + ")")
        cut = pre_tokenizers.Split(opening, "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), cut])
        tokenizer.decoder = decoders.Metaspace()
        kept: dict[str, Any] = {"special_tokens": list(names.values()), "unk_token": names["unk"]}
        trainer = trainers.UnigramTrainer(vocab_size=self.vocab_size, **kept, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        scores = dict(json.loads(tokenizer.to_str())["model"]["vocab"])
        special = [(name, scores.pop(name)) for name in names.values()]
        pieces, unknown = [*special, *_in_order(scores)], list(names).index("unk")
        tokenizer.model = models.Unigram(pieces, unk_id=unknown, byte_fallback=False)
        return _wrapped(tokenizer, {**names, "bos": "<s>", "eos": "</s>"})


def _in_order(scores: dict[str, float]) -> list[tuple[str, float]]:
    """Sort pieces from the most probable on, the same for the same text.

    The library's trainer keeps pieces in randomly keyed tables: sums differ in their last digits, and the characters
    that it adds to a vocabulary that lacks them get their scores, a ten-thousandth apart at the lower end, in any
    order. So scores are rounded, and the least probable characters are put in the order of the alphabet.
    """
    rounded = {piece: round(score, 6) for piece, score in scores.items()}
    characters = [piece for piece in rounded if len(piece) == 1]
    border = min((score for piece, score in rounded.items() if len(piece) > 1), default=0.0) + 1e-4 * len(characters)
    rare = sorted(piece for piece in characters if rounded[piece] <= border)
    rounded |= dict(zip(rare, sorted((rounded[piece] for piece in rare), reverse=True), strict=True))
    return sorted(rounded.items(), key=lambda item: (-item[1], item[0]))


@dataclass(kw_only=True)
class PretrainedTokenizer:
    """An existing fast tokenizer: a directory or a hub name. Needed to continue from a checkpoint."""

    path: str

    def fit(self, data: TextData) -> TextPreprocess:
        """Read it; the data has no say."""
        try:
            preprocess = TextPreprocess.load(self.path)
        except OSError as error:
            told = "no tokenizer there (a directory with tokenizer.json, or a hub name); transformers says"
            raise FileNotFoundError(f"preprocess.path={self.path}: {told}: {str(error).splitlines()[0]}") from error
        preprocess.recipe = described(self)
        return preprocess


def _wrapped(tokenizer: Tokenizer, names: dict[str, str]) -> PreTrainedTokenizerFast:
    """Wrap a trained tokenizer with BERT's template and the names of its special tokens."""
    cls, sep = names["cls"], names["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    special = {f"{role}_token": token for role, token in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)
