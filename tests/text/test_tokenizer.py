"""Tokenizers: trained ones are the same each time, and transformers reads what we save."""

import subprocess
import sys

import numpy as np
import pytest
from transformers import AutoTokenizer, BertConfig, GPT2TokenizerFast, RobertaConfig

from pretraining.text.tokenizer import TextPreprocess
from pretraining.text.tokenizer_recipes import ByteBPE, PretrainedTokenizer, WordPiece

TEXTS = [
    "The quick brown fox jumps over the lazy dog, again and again.",
    "Unbelievable jumpers were jumping; a jumper jumped quickly!",
    "Naïve café 你好世界 don't stop_now",
    "Foxes and dogs and foxtrots and dogmas.",
] * 3


class Texts:
    """What a recipe asks of data."""

    def __init__(self, cache_dir):
        self.cache_dir, self.samples = cache_dir, 0

    def fingerprint(self):
        return "these texts"

    def sample(self, split, max_bytes):
        assert split == "train"
        self.samples += 1
        return iter(TEXTS)


@pytest.fixture(
    params=[(WordPiece, True), (WordPiece, False), (ByteBPE, False)], ids=["wordpiece", "cased", "byte_bpe"]
)
def preprocess(request, tmp_path):
    recipe, lowercase = request.param
    return recipe(vocab_size=400, lowercase=lowercase, sample_bytes=10**6).fit(Texts(tmp_path))


def test_transformers_reads_what_is_saved_and_gives_the_same_ids(preprocess, tmp_path):
    preprocess.save(tmp_path / "handoff")
    for config in (None, BertConfig(), RobertaConfig()):  # a config.json of either kind beside it changes nothing
        if config:
            config.save_pretrained(tmp_path / "handoff")
        theirs = AutoTokenizer.from_pretrained(tmp_path / "handoff")
        for text in [*TEXTS[:4], "something unseen: Ωmega"]:
            ids = preprocess.encode([text])[0].tolist()
            assert theirs(text)["input_ids"] == [preprocess.bos_id, *ids, preprocess.eos_id]
        assert theirs(TEXTS[0], TEXTS[1])["input_ids"].count(preprocess.sep_id) == 2
        assert TextPreprocess.load(tmp_path / "handoff").digest == preprocess.digest


def test_text_comes_back_from_its_tokens(preprocess):
    ids = preprocess.encode(["a quick fox again"])[0]
    assert preprocess.tokenizer.decode(ids).strip() == "a quick fox again"


def test_ids_are_known_and_special_ids_are_sorted_and_never_made_from_text(preprocess):
    assert preprocess.vocab_size == len(preprocess.tokenizer)
    assert None not in (preprocess.pad_id, preprocess.cls_id, preprocess.sep_id, preprocess.mask_id)
    assert np.array_equal(preprocess.special_ids, np.unique(preprocess.special_ids))
    assert (preprocess.bos_id, preprocess.eos_id, preprocess.specials_per_document) == (
        preprocess.cls_id,
        preprocess.sep_id,
        2,
    )
    unknown = preprocess.tokenizer.unk_token_id
    hostile = preprocess.encode(["a [MASK] b [SEP] <s> c </s> <mask> <pad> [PAD]"])[0]
    assert not (set(preprocess.special_ids.tolist()) - {unknown}) & set(hostile.tolist())


def test_word_starts_agree_with_the_words_that_transformers_counts(preprocess):
    text = "unbelievably jumpy foxtail quickly again"
    encoding = preprocess.tokenizer(text, add_special_tokens=False)
    words = encoding.word_ids()
    expected = [i == 0 or words[i] != words[i - 1] for i in range(len(words))]
    assert preprocess.starts_word[encoding["input_ids"]].tolist() == expected
    assert len(words) > expected.count(True) == 5
    assert preprocess.starts_word[preprocess.special_ids].all()


def test_a_tokenizer_is_trained_once_per_text_and_recipe(tmp_path):
    data = Texts(tmp_path)
    first, second = (WordPiece(vocab_size=300, lowercase=True, sample_bytes=10**6).fit(data) for _ in range(2))
    assert data.samples == 1
    assert first.digest == second.digest
    WordPiece(vocab_size=301, lowercase=True, sample_bytes=10**6).fit(data)
    assert data.samples == 2


def test_training_in_another_process_gives_the_same_tokenizer():
    script = (
        "from pretraining.text.tokenizer_recipes import *\nfrom tests.text.test_tokenizer import TEXTS\n"
        "for recipe in (WordPiece, ByteBPE):\n"
        "    tokenizer = recipe(vocab_size=400, lowercase=True, sample_bytes=1).train(iter(TEXTS))\n"
        "    print(TextPreprocess(tokenizer=tokenizer).digest)"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    here = [
        TextPreprocess(tokenizer=recipe(vocab_size=400, lowercase=True, sample_bytes=1).train(iter(TEXTS))).digest
        for recipe in (WordPiece, ByteBPE)
    ]
    assert printed == here


def test_rare_characters_leave_half_of_the_vocabulary_to_words():
    many = [" ".join(chr(0x4E00 + i) for i in range(2000)), *TEXTS * 50]
    tokenizer = WordPiece(vocab_size=400, lowercase=True, sample_bytes=1).train(iter(many))
    assert "fox" in tokenizer.get_vocab()
    assert sum(0x4E00 <= ord(token[-1]) < 0x9FFF for token in tokenizer.get_vocab()) <= 100


def test_an_existing_tokenizer_is_taken_as_it_is(preprocess, tmp_path):
    preprocess.save(tmp_path / "existing")
    assert PretrainedTokenizer(path=str(tmp_path / "existing")).fit(None).digest == preprocess.digest
    with pytest.raises(FileNotFoundError, match=r"preprocess\.path=.*nowhere: no tokenizer there"):
        PretrainedTokenizer(path=str(tmp_path / "nowhere")).fit(None)


def test_a_tokenizer_with_only_an_end_of_text_token_closes_documents_with_it():
    vocabulary = {"<|endoftext|>": 0, "a": 1, "Ġ": 2, "b": 3, "Ġb": 4}
    preprocess = TextPreprocess(tokenizer=GPT2TokenizerFast(vocab=vocabulary, merges=[("Ġ", "b")]))
    assert (preprocess.cls_id, preprocess.mask_id, preprocess.pad_id) == (None, None, None)
    assert (preprocess.bos_id, preprocess.eos_id, preprocess.specials_per_document) == (None, 0, 1)
    assert preprocess.starts_word.tolist() == [True, False, True, False, True]


def test_unigram_pieces_carry_their_space_and_are_the_same_each_time(tmp_path):
    from pretraining.text.tokenizer_recipes import Unigram

    recipe = Unigram(vocab_size=80, lowercase=False, sample_bytes=10**6)
    first, second = (TextPreprocess(tokenizer=recipe.train(iter(TEXTS))) for _ in range(2))
    assert first.digest == second.digest
    (ids,) = first.encode(["The lazy fox"])
    pieces = first.tokenizer.convert_ids_to_tokens(ids.tolist())
    assert "".join(pieces).replace("▁", " ").strip() == "The lazy fox"
    assert first.starts_word[ids].tolist() == [piece.startswith("▁") for piece in pieces]
    assert (first.bos_id, first.pad_id, first.eos_id, first.mask_id) == (0, 1, 2, 4)
    first.save(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("The lazy fox")["input_ids"] == [0, *ids.tolist(), 2]


def test_a_broken_tokenizer_file_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "WordPiece", "vo')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    for content in (None, "{}"):
        if content is not None:
            (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ValueError, match=rf"{tmp_path}.*tokenizer\.json") as caught:
            TextPreprocess.load(tmp_path)
        assert "\n" not in str(caught.value)
