"""Names of special tokens inside texts are text, as in pretraining: in every kind of input, and in what is exported."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers

from finetuning.data.splits import Examples
from finetuning.inputs.text import TextInputs
from finetuning.inputs.text_pairs import TextPairInputs
from finetuning.inputs.windows import WindowInputs
from finetuning.inputs.words import WordInputs
from pretraining.errors import RunError
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.tokenizer import TextPreprocess
from pretraining.text.tokenizer_recipes import ByteBPE, SentinelBPE, Unigram, WordPiece
from tests.finetuning.conftest import WORDS

BERT = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
BERT |= {"intermediate_size": 8, "max_position_embeddings": 128}
T5 = {"model_type": "t5", "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 1}
GPT = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 128}


def preprocess_of(recipe) -> TextPreprocess:
    own = {"sentinels": 4} if recipe is SentinelBPE else {}
    letters = "[]<>/|_ abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789"
    corpus = [*WORDS, letters, *("".join(pair) for pair in itertools.pairwise(letters))] * 3
    return TextPreprocess(tokenizer=recipe(vocab_size=400, lowercase=False, sample_bytes=1, **own).train(iter(corpus)))


def backbone_of(config: dict, preprocess: TextPreprocess) -> TransformersBackbone:
    kinds = {"bert": "encoder", "t5": "seq2seq", "gpt2": "causal"}
    given = {
        "config": config,
        "architecture": kinds[config["model_type"]],
        "frame_ids": {"bos": preprocess.bos_id, "eos": preprocess.eos_id},
    }
    return TransformersBackbone(**given, vocab_size=preprocess.vocab_size, pad_id=preprocess.pad_id)


def poisoned(preprocess: TextPreprocess) -> str:
    """Write every special token's name between words."""
    return "bada " + " ".join(preprocess.tokenizer.all_special_tokens) + " befe"


def specials_in(preprocess: TextPreprocess, ids) -> list[int]:
    unknown = preprocess.tokenizer.unk_token_id
    return [int(token) for token in ids if token in preprocess.special_ids and token != unknown]


def none(examples: Examples) -> list[np.ndarray]:
    return [np.zeros(1, np.int64)] * examples.size


@pytest.mark.parametrize("recipe", [WordPiece, ByteBPE, SentinelBPE, Unigram])
def test_a_text_is_what_pretraining_makes_of_it_within_its_frame(recipe, tmp_path: Path) -> None:
    preprocess = preprocess_of(recipe)
    text, config = poisoned(preprocess), T5 if recipe is SentinelBPE else GPT if recipe is ByteBPE else BERT
    backbone, inputs = backbone_of(config, preprocess), TextInputs(max_tokens=120)
    frame = inputs.encode(Examples.of(text=["bada"], label=[0]), [np.zeros(1)], preprocess, backbone).ids[0]
    expected = specials_in(preprocess, frame)
    (plain,) = preprocess.encode([text])
    assert not specials_in(preprocess, plain) and len(plain) > 8
    examples = Examples.of(text=[text], label=[0])
    (ids,) = inputs.encode(examples, none(examples), preprocess, backbone).ids
    assert specials_in(preprocess, ids) == expected
    first = len(expected) // 2
    assert ids[first : len(ids) - (len(expected) - first)].tolist() == plain.tolist()
    inputs.save_for_transformers(tmp_path, preprocess, backbone)
    exported = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert exported(text)["input_ids"] == ids.tolist()
    assert exported("bada befe")["input_ids"] == preprocess.tokenizer("bada befe")["input_ids"]


def test_pairs_windows_and_words_have_the_separators_of_their_frame_alone() -> None:
    preprocess = preprocess_of(WordPiece)
    text, backbone = poisoned(preprocess), backbone_of(BERT, preprocess)
    frame = [preprocess.cls_id, preprocess.sep_id, preprocess.sep_id]
    pairs = Examples.of(text=[text], text_pair=[text], label=[0])
    encoded = TextInputs(max_tokens=120).encode(pairs, none(pairs), preprocess, backbone)
    assert specials_in(preprocess, encoded.ids[0]) == frame
    assert encoded.types[0].sum() == len(preprocess.encode([text])[0]) + 1
    asked = Examples.of(question=[text], context=[" ".join([text] * 4)], label=[0])
    windows = WindowInputs(max_tokens=100, overlap=2).encode(asked, [np.array([-1, -1])], preprocess, backbone)
    assert len(windows.ids) > 1 and all(specials_in(preprocess, row) == frame for row in windows.ids)
    words = Examples.of(tokens=[["bada", "[SEP]", "befe"]], label=[0])
    tagged = WordInputs(max_tokens=40, align="first").encode(words, [np.arange(3)], preprocess, backbone)
    assert specials_in(preprocess, tagged.ids[0]) == frame[:2]
    assert tagged.targets[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("recipe", "config"), [(SentinelBPE, T5), (ByteBPE, GPT)])
def test_a_target_ends_once(recipe, config: dict) -> None:
    preprocess = preprocess_of(recipe)
    text, backbone = poisoned(preprocess), backbone_of(config, preprocess)
    inputs = TextPairInputs(max_tokens=100, prefix="", separator="\n", max_target_tokens=100)
    examples = Examples.of(source=[text], label=[[text]])
    pairs = inputs.encode(examples, [text], preprocess, backbone)
    assert specials_in(preprocess, pairs.targets[0]) == [preprocess.eos_id]
    assert pairs.targets[0][:-1].tolist() == preprocess.encode([text])[0].tolist()
    calm = inputs.encode(Examples.of(source=["bada"], label=[["b"]]), ["b"], preprocess, backbone)
    assert specials_in(preprocess, pairs.sources[0]) == specials_in(preprocess, calm.sources[0])


def test_a_tokenizer_whose_pieces_are_names_of_special_tokens_reads_them_as_text(tmp_path: Path) -> None:
    """As T5's and XLM-R's are, whose unigram models have "</s>" among their pieces, the most probable of all."""
    names = {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
    letters = [(letter, -9.0 - place / 100) for place, letter in enumerate("▁<>/abcdefghijklmnopqrstuvwxyz")]
    pieces = [*((name, 0.0) for name in names.values()), *letters, ("▁bada", -3.0), ("▁befe", -3.0)]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    frame = {"single": "$A </s>", "pair": "$A </s> $B </s>", "special_tokens": [("</s>", 1)]}
    backend.post_processor = tokenizers.processors.TemplateProcessing(**frame)
    special = {f"{name}_token": token for name, token in names.items()}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(tmp_path)
    preprocess = TextPreprocess.load(tmp_path)
    text = "bada </s> befe<pad></s>"
    assert not specials_in(preprocess, preprocess.encode([text])[0])
    ids = preprocess.tokenize([text])["input_ids"][0]
    assert specials_in(preprocess, ids) == [1] and ids[-1] == 1
    assert preprocess.encode(["bada befe"])[0].tolist() == [pieces.index(("▁bada", -3.0)), len(pieces) - 1]
    (tmp_path / "again").mkdir()
    preprocess.save(tmp_path / "again")
    assert TextPreprocess.load(tmp_path / "again").digest == preprocess.digest


@pytest.mark.parametrize("setting", ["prefix", "separator"])
def test_a_setting_that_names_a_special_token_is_refused(setting: str) -> None:
    preprocess = preprocess_of(ByteBPE)
    given = {"max_tokens": 90, "prefix": "", "separator": "\n", "max_target_tokens": 9, setting: "a </s>"}
    inputs = TextPairInputs(**given)
    with pytest.raises(RunError, match=rf"task.inputs.{setting}=a </s>.*the special token </s>"):
        inputs.encode(Examples.of(source=["a"], label=[["b"]]), ["b"], preprocess, backbone_of(GPT, preprocess))
