"""What a run knows about its rows before training: their average length, what they see, their padding, and which rows are evaluated."""

import functools

import numpy as np
import pytest

from pretraining.data.loader import EVALUATION_SEED
from pretraining.objectives.text.causal_language import NextTokens
from pretraining.objectives.text.corruption import Bart, SpanCorruption
from pretraining.objectives.text.denoising import DenoiseText
from pretraining.objectives.text.masked_language import MaskTokens
from pretraining.objectives.text.next_sentence import PairSentences
from pretraining.objectives.text.noises import TextInfilling
from pretraining.random import Keys
from pretraining.text import modality
from pretraining.text.modality import TEXT
from pretraining.text.plan import PlannedText
from tests.objectives.small_text import corpus, keys_of, preprocess

MASKING = {"fraction": 0.15, "unit": "token", "mask_share": 0.8, "random_share": 0.1}


def collates():
    wordpiece, byte_bpe = preprocess("wordpiece"), preprocess("byte_bpe")
    return {
        "packed": ("wordpiece", MaskTokens(preprocess=wordpiece, max_tokens=64, **MASKING)),
        "pairs": ("wordpiece", PairSentences(preprocess=wordpiece, max_tokens=64, negatives="random", short_share=0.1)),
        "causal": ("byte_bpe", NextTokens(preprocess=byte_bpe, max_tokens=64)),
    }


@pytest.mark.parametrize("name", ["packed", "pairs", "causal"])
def test_average_row_and_padding_are_those_of_the_batches(name, tmp_path):
    kind, collate = collates()[name]
    tokens = corpus(kind, tmp_path)
    source = PlannedText(tokens, functools.partial(collate.plan, tokens, 1))
    rows = np.arange(source.count(0))
    batch = collate(source.read(0, rows), keys_of(rows))
    documents = batch["inputs"]["document_ids"].numpy()
    seen = [(row == number).sum() for row in documents for number in np.unique(row[row > 0])]
    shape = modality.average_shape(source, collate, preprocess(kind))
    target_positions = int((batch["labels"] >= 0).sum()) / len(rows) if "labels" in batch else 0.0
    expected = {
        "read": sum(seen) / len(rows),
        "seen": sum(size**2 for size in seen) / sum(seen),
        "target_positions": target_positions,
    }
    assert {name: getattr(shape, name) for name in expected} == pytest.approx(expected)
    assert shape.tokens == pytest.approx(shape.read) and shape.written_seen == 0
    tokens.unigram_entropy = lambda: 1.0
    facts = modality.facts(source, source, collate, preprocess(kind))
    assert facts["data/padding_share"] == pytest.approx((documents == 0).mean())


@pytest.mark.parametrize("kind", ["sentinel_bpe", "byte_bpe"])
def test_a_damaged_row_is_read_and_written_in_parts(kind, tmp_path):
    noises = Bart(noises=[TextInfilling(fraction=0.3, mean_length=3.5, random_share=0.1, whole_words=True)])
    damage = SpanCorruption(density=0.15, mean_length=3.0) if kind == "sentinel_bpe" else noises
    collate = DenoiseText(preprocess=preprocess(kind), max_tokens=64, damage=damage)
    tokens = corpus(kind, tmp_path)
    source = PlannedText(tokens, functools.partial(collate.plan, tokens, 1))
    rows = np.arange(source.count(0))
    shape = modality.average_shape(source, collate, preprocess(kind))
    batch = collate(source.read(0, rows), Keys(EVALUATION_SEED, "validation", np.zeros_like(rows), rows, 0.5))
    each = shape.tokens * len(rows) / batch["tokens"]
    assert each == pytest.approx(1.0, rel=0.02)
    written = [
        int((batch["target_positions"][batch["labels"] >= 0] // batch["decoder_input_ids"].shape[1] == row).sum())
        for row in rows
    ]
    assert shape.read == pytest.approx(each * int((batch["inputs"]["document_ids"] > 0).sum()) / len(rows))
    assert shape.target_positions == pytest.approx(each * sum(written) / len(rows))
    assert shape.written_seen == pytest.approx(sum(size**2 for size in written) / sum(written))
    assert shape.read < shape.tokens


def test_span_corruption_has_no_padding(tmp_path):
    collate = DenoiseText(
        preprocess=preprocess("sentinel_bpe"), max_tokens=64, damage=SpanCorruption(density=0.15, mean_length=3.0)
    )
    tokens = corpus("sentinel_bpe", tmp_path)
    tokens.unigram_entropy = lambda: 1.0
    source = PlannedText(tokens, functools.partial(collate.plan, tokens, 1))
    assert (
        0
        <= modality.facts(source, source, collate, preprocess("sentinel_bpe"))["data/padding_share"]
        < 1 / source.count(0)
    )


def test_evaluation_rows_do_not_depend_on_the_run_s_seed():
    class Data:
        modality = TEXT

        def source(self, split, preprocess, plan, *, seed):
            return split, seed

    found = [modality.source_of(Data(), split, None, MaskTokens, seed=7) for split in ("train", "validation", "test")]
    assert found == [("train", 7), ("validation", EVALUATION_SEED), ("test", EVALUATION_SEED)]
