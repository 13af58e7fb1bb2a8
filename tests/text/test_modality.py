"""What a run knows about its rows before training: their length, what they see, their padding, what is evaluated."""

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
from pretraining.text.cost import average_text_row
from pretraining.text.modality import TEXT
from pretraining.text.plan import PlannedText
from tests.objectives.text.small_text import corpus, keys_of, preprocess

MASKING = {"fraction": 0.15, "unit": "token", "mask_share": 0.8, "random_share": 0.1}


def collates():
    wordpiece, byte_bpe = preprocess("wordpiece"), preprocess("byte_bpe")
    return {
        "packed": ("wordpiece", MaskTokens(preprocess=wordpiece, max_tokens=64, **MASKING)),
        "pairs": ("wordpiece", PairSentences(preprocess=wordpiece, max_tokens=64, negatives="random", short_share=0.1)),
        "causal": ("byte_bpe", NextTokens(preprocess=byte_bpe, max_tokens=64)),
    }


def planned(collate, kind, directory):
    """A corpus as rows of the collate's plan; its entropy is none of these tests' matter."""
    tokens = corpus(kind, directory)
    tokens.unigram_entropy = lambda: 1.0
    return PlannedText(tokens, functools.partial(collate.plan, tokens, 1))


@pytest.mark.parametrize("name", ["packed", "pairs", "causal"])
def test_average_row_and_padding_are_those_of_the_batches(name, tmp_path):
    kind, collate = collates()[name]
    source = planned(collate, kind, tmp_path)
    rows = np.arange(source.count(0))
    batch = collate(source.read(0, rows), keys_of(rows))
    documents = batch["inputs"]["document_ids"].numpy()
    seen = [(row == number).sum() for row in documents for number in np.unique(row[row > 0])]
    row = average_text_row(source, collate, preprocess(kind))
    predicted = int((batch["labels"] >= 0).sum()) / len(rows) if "labels" in batch else 0.0
    size, seen_by_each = sum(seen) / len(rows), sum(size**2 for size in seen) / sum(seen)
    assert (row.read, row.seen, row.target_positions) == pytest.approx((size, seen_by_each, predicted))
    assert row.tokens == pytest.approx(row.read) and row.written_seen == 0
    facts = TEXT.facts(source, source, collate, preprocess(kind))
    assert facts["data/padding_share"] == pytest.approx((documents == 0).mean())


@pytest.mark.parametrize("kind", ["sentinel_bpe", "byte_bpe"])
def test_a_corrupted_row_is_read_and_written_in_parts(kind, tmp_path):
    infilling = Bart(noises=[TextInfilling(fraction=0.3, mean_length=3.5, random_share=0.1, whole_words=True)])
    corruption = SpanCorruption(density=0.15, mean_length=3.0) if kind == "sentinel_bpe" else infilling
    collate = DenoiseText(preprocess=preprocess(kind), max_tokens=64, corruption=corruption)
    source = planned(collate, kind, tmp_path)
    rows = np.arange(source.count(0))
    row = average_text_row(source, collate, preprocess(kind))
    batch = collate(source.read(0, rows), Keys(EVALUATION_SEED, "validation", np.zeros_like(rows), rows, 0.5))
    each = row.tokens * len(rows) / batch["units"]
    assert each == pytest.approx(1.0, rel=0.02)
    of_row = batch["target_positions"][batch["labels"] >= 0] // batch["decoder_input_ids"].shape[1]
    written = [int((of_row == number).sum()) for number in rows]
    assert row.read == pytest.approx(each * int((batch["inputs"]["document_ids"] > 0).sum()) / len(rows))
    assert row.target_positions == pytest.approx(each * sum(written) / len(rows))
    assert row.written_seen == pytest.approx(sum(size**2 for size in written) / sum(written))
    assert row.read < row.tokens


def test_an_average_row_counts_tokens_and_costs_what_the_objective_s_formula_says(tmp_path):
    class Measured:
        backbone = None

    class Counts(Measured):
        def forward_flops(self, row):
            return 2.0 * row.read

    kind, collate = collates()["packed"]
    source = planned(collate, kind, tmp_path)
    tokens = average_text_row(source, collate, preprocess(kind)).tokens
    counted, other = (TEXT.average_row(one, source, collate, preprocess(kind)) for one in (Counts(), Measured()))
    assert counted == (tokens, pytest.approx(2 * tokens)) and other == (tokens, None), (
        "without a formula it is measured"
    )
    assert TEXT.unit == "tokens"


def test_a_backbone_is_told_the_vocabulary_and_the_ids_around_a_text():
    words = preprocess("sentinel_bpe")
    told = TEXT.backbone_arguments(words)
    assert told == {"vocab_size": 500, "pad_id": 0, "frame_ids": {"bos": None, "eos": words.eos_id}}


def test_rows_are_shown_by_what_the_collate_says_of_them(tmp_path):
    kind, collate = collates()["packed"]
    source = planned(collate, kind, tmp_path)
    batch = collate(source.read(0, np.arange(4)), keys_of(range(4)))
    shown = TEXT.show(collate, batch, 2, tmp_path / "unused")
    assert [text.splitlines()[0] for text in shown] == ["example 1", "example 2"]
    assert all("  input   " in text and "  target  " in text for text in shown)
    assert TEXT.show(collates()["causal"][1], batch, 2, tmp_path) == [], "this collate describes nothing"


def test_span_corruption_has_no_padding(tmp_path):
    corruption = SpanCorruption(density=0.15, mean_length=3.0)
    collate = DenoiseText(preprocess=preprocess("sentinel_bpe"), max_tokens=64, corruption=corruption)
    source = planned(collate, "sentinel_bpe", tmp_path)
    facts = TEXT.facts(source, source, collate, preprocess("sentinel_bpe"))
    assert 0 <= facts["data/padding_share"] < 1 / source.count(0)


def test_evaluation_rows_do_not_depend_on_the_run_s_seed():
    class Data:
        def source(self, split, preprocess, plan, *, seed):
            return split, seed

    found = [TEXT.source(Data(), split, None, MaskTokens, seed=7) for split in ("train", "validation", "test")]
    assert found == [("train", 7), ("validation", EVALUATION_SEED), ("test", EVALUATION_SEED)]
