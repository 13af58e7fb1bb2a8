"""Words from the cache make the very ids that whole sentences make, and what is not words is encoded whole."""

import functools
import random

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pretraining.text.corpus import word_cache
from pretraining.text.corpus.word_cache import WordCache
from pretraining.text.tokenizer import encode_plain
from pretraining.text.tokenizer_recipes import ByteBPE, SentinelBPE, Unigram, WordPiece

TEXTS = [
    "The quick brown fox isn't lazy, it's 42 (forty-two) years old!",
    "Naïve café: 你好世界 don't stop_now…",
    "A dog; dogs; dogma.",
] * 4
ODD = [
    "",
    " ",
    "  two  spaces ",
    "tab\tinside",
    "no\u00a0break",
    "zero\u200bwidth",
    "line\nbreak",
    "'s starts 's",
    "▁low ▁",
    "Ġodd",
]
ODD += [
    "[MASK] <s> </s> <pad> <mask>",
    "ΣΊΣΥΦΟΣ Σ",
    "e\u0301 \u0301mark",
    "¨ ½ ﬁ",
    "🙂🙂 👩\u200d👩\u200d👧",
    "你好 世界。",
    "\x00\x1f x\x7fy",
]
ODD += ["a" * 300, "x \u3000 y", "٣٤ İI ı ß"]


@functools.cache
def tokenizer(kind):
    options = {"vocab_size": 400, "sample_bytes": 10**6}
    if kind == "gpt2":
        plain = Tokenizer(models.BPE())
        plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        plain.train_from_iterator(
            TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        )
        return plain
    recipes = {
        "cased": lambda: WordPiece(**options, lowercase=False),
        "uncased": lambda: WordPiece(**options, lowercase=True),
        "byte_bpe": lambda: ByteBPE(**options, lowercase=False),
        "sentinels": lambda: SentinelBPE(**options | {"vocab_size": 420}, lowercase=True, sentinels=20),
        "unigram": lambda: Unigram(**options | {"vocab_size": 120}, lowercase=True),
    }
    return recipes[kind]().train(iter(TEXTS)).backend_tokenizer


def sentences():
    draw = random.Random(0)
    letters = "abcdefgh'.,-_ÉéñÇ你世٣🙂½¨ \u0301\u00a0\t  Σσ"
    return ODD + TEXTS + ["".join(draw.choices(letters, k=draw.randint(1, 40))) for _ in range(3000)]


def encoded(cache, texts):
    tokens, lengths = cache(texts, "uint16")
    assert tokens.dtype == "uint16"
    return [part.tolist() for part in np.split(tokens, np.cumsum(lengths)[:-1])]


@pytest.mark.parametrize("kind", ["cased", "uncased", "byte_bpe", "sentinels", "unigram", "gpt2"])
def test_words_make_the_ids_of_sentences(kind, monkeypatch):
    monkeypatch.setattr(word_cache, "WORDS", 500)  # so that it is emptied in between
    cache, given = WordCache(tokenizer(kind)), sentences()
    assert cache._prefix is not None
    for start in range(0, len(given), 200):
        part = given[start : start + 200]
        for text, ours, plain in zip(part, encoded(cache, part), encode_plain(tokenizer(kind), part), strict=True):
            assert ours == plain, repr(text)


def test_nothing_and_only_odd_sentences_are_encoded_too():
    cache = WordCache(tokenizer("uncased"))
    assert [len(part) for part in cache([], "uint16")] == [0, 0]
    assert encoded(cache, ["", "  a  dog "]) == encode_plain(tokenizer("uncased"), ["", "  a  dog "])


def test_a_tokenizer_that_looks_across_spaces_encodes_whole_sentences():
    plain = Tokenizer(models.BPE(vocab={"a": 0, " ": 1, "a ": 2}, merges=[("a", " ")]))
    cache = WordCache(plain)
    assert cache._prefix is None and encoded(cache, ["a a"]) == [[2, 0]]


def test_an_added_token_with_a_space_inside_is_found():
    base = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer("cased").to_str()))
    base.add_tokens(["New York"])
    cache = WordCache(base.backend_tokenizer)
    assert encoded(cache, ["in New York now"]) == encode_plain(base.backend_tokenizer, ["in New York now"])
    assert len(base) - 1 in encoded(cache, ["in New York now"])[0]


def test_a_truncating_tokenizer_does_not_truncate_documents():
    cut = Tokenizer.from_str(tokenizer("cased").to_str())
    cut.enable_truncation(4)
    assert (
        encode_plain(cut, [TEXTS[0]]) == encode_plain(tokenizer("cased"), [TEXTS[0]])
        and len(encode_plain(cut, [TEXTS[0]])[0]) > 4
    )
