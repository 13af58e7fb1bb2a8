"""From a corpus to batches: plans lose nothing, rows look as published, and batches do not depend on their cuts."""

import numpy as np
import pytest
import torch

from pretraining.objectives.text.bert import MaskPairs
from pretraining.objectives.text.causal_language import NextTokens
from pretraining.objectives.text.corruption import Bart, SpanCorruption, cut_at_sentences
from pretraining.objectives.text.denoising import DenoiseText
from pretraining.objectives.text.masked_language import NO_LABEL
from pretraining.objectives.text.next_sentence import PairSentences
from pretraining.objectives.text.noises import SentencePermutation, TextInfilling, TokenDeletion, TokenInsertion
from pretraining.text.plan import PlannedText, Rows, continuous_rows, cut_stream
from tests.objectives.text.small_text import batches, corpus, keys_of, preprocess

PAIRS = {"max_tokens": 48, "negatives": "random", "short_share": 0.1}
MASKING = {"fraction": 0.15, "unit": "whole_word", "mask_share": 0.8, "random_share": 0.1}


def pairs():
    return PairSentences(preprocess=preprocess("wordpiece"), **PAIRS), "wordpiece"


def masked_pairs():
    return MaskPairs(preprocess=preprocess("wordpiece"), **PAIRS, **MASKING), "wordpiece"


def bart(*noises):
    noises = noises or (
        SentencePermutation(fraction=1.0),
        TextInfilling(fraction=0.3, mean_length=3.5, random_share=0.0),
    )
    return DenoiseText(preprocess=preprocess("byte_bpe"), max_tokens=64, corruption=Bart(noises=noises)), "byte_bpe"


def t5():
    corruption = SpanCorruption(density=0.15, mean_length=3.0)
    return DenoiseText(preprocess=preprocess("sentinel_bpe"), max_tokens=64, corruption=corruption), "sentinel_bpe"


def next_tokens():
    return NextTokens(preprocess=preprocess("byte_bpe"), max_tokens=64), "byte_bpe"


EVERY = [pairs, masked_pairs, bart, t5, next_tokens]


def plain(rows, number, source):
    """The tokens of a row of a plan."""
    pieces = slice(rows.offsets[number], rows.offsets[number + 1])
    return source.read(rows.starts[pieces], rows.lengths[pieces])


def laid_out(batch):
    """List the tensors of a batch that have a row per example."""
    decoder = [batch["decoder_input_ids"]] if "decoder_input_ids" in batch else []
    return [*batch["inputs"].values(), *decoder]


@pytest.mark.parametrize("build", EVERY)
def test_a_row_becomes_the_same_in_any_batch(tmp_path, build):
    collate, kind = build()
    source = corpus(kind, tmp_path)
    (whole,) = batches(collate, source, range(12))
    parts = batches(collate, source, range(12), parts=6)
    for rows, *cut in zip(laid_out(whole), *map(laid_out, parts), strict=True):
        for number, part in enumerate(cut):
            assert torch.equal(rows[2 * number : 2 * number + 2, : part.shape[1]], part)
    if "labels" in whole:
        joined = torch.cat([part["labels"][part["labels"] != NO_LABEL] for part in parts])
        assert torch.equal(whole["labels"][whole["labels"] != NO_LABEL], joined)
    assert whole["units"] == sum(part["units"] for part in parts)


@pytest.mark.parametrize("build", [masked_pairs, bart, t5])
def test_an_epoch_is_corrupted_anew_and_the_same_epoch_alike(tmp_path, build):
    collate, kind = build()
    text = PlannedText(source := corpus(kind, tmp_path), collate.plan(source, 1, 0))
    first, again, later = (collate(text.read(0, np.arange(8)), keys_of(range(8), epoch)) for epoch in (0, 0, 1))
    assert torch.equal(first["inputs"]["input_ids"], again["inputs"]["input_ids"])
    assert first["inputs"]["input_ids"].shape != later["inputs"]["input_ids"].shape or not torch.equal(
        first["inputs"]["input_ids"], later["inputs"]["input_ids"]
    )


def test_pairs_are_laid_out_as_cls_a_sep_b_sep(tmp_path):
    collate, kind = pairs()
    source, words = corpus(kind, tmp_path), preprocess(kind)
    rows = collate.plan(source, 1, 0)
    (batch,) = batches(collate, source, range(20))
    for number in range(20):
        first, second = (
            source.read(rows.starts[[p]], rows.lengths[[p]]).tolist() for p in (2 * number, 2 * number + 1)
        )
        wanted = [words.cls_id, *first, words.sep_id, *second, words.sep_id]
        padding = [words.pad_id] * (48 - len(wanted))
        assert batch["inputs"]["input_ids"][number].tolist() == wanted + padding
        types = [0] * (len(first) + 2) + [1] * (len(second) + 1) + [0] * len(padding)
        assert batch["inputs"]["token_type_ids"][number].tolist() == types
        assert batch["inputs"]["document_ids"][number].tolist() == [1] * len(wanted) + [0] * len(padding)
    assert batch["is_random"].tolist() == rows.columns["label"][:20].tolist()


def test_pairs_change_with_the_epoch_and_are_kept_on_disk(tmp_path):
    collate, kind = pairs()
    source = corpus(kind, tmp_path)
    first, later = (collate.plan(source, 1, epoch) for epoch in (0, 1))
    assert len(first.starts) != len(later.starts) or not np.array_equal(first.starts, later.starts)
    kept = collate.plan(source, 1, 0)
    assert isinstance(kept.starts.base, np.memmap) and np.array_equal(kept.starts, first.starts)


def test_masks_never_touch_special_tokens_of_pairs(tmp_path):
    collate, kind = masked_pairs()
    source, words = corpus(kind, tmp_path), preprocess(kind)
    (clean,) = batches(pairs()[0], source, range(40))
    (batch,) = batches(collate, source, range(40))
    special = torch.isin(clean["inputs"]["input_ids"], torch.from_numpy(words.special_ids))
    assert torch.equal(batch["inputs"]["input_ids"][special], clean["inputs"]["input_ids"][special])
    real = batch["labels"] != NO_LABEL
    places = batch["target_positions"][real]
    assert not special.flatten()[places].any() and len(places.unique()) == len(places)
    assert torch.equal(clean["inputs"]["input_ids"].flatten()[places], batch["labels"][real])
    assert (torch.bincount(places // 48, minlength=40) >= 1).all()


def test_bart_reads_the_corrupted_document_and_writes_the_whole_one(tmp_path):
    collate, kind = bart()
    source, words = corpus(kind, tmp_path), preprocess(kind)
    rows = collate.plan(source, 1, 0)
    (batch,) = batches(collate, source, range(20))
    shape, real = batch["decoder_input_ids"].shape, batch["labels"] != NO_LABEL
    targets = torch.full((shape[0] * shape[1],), words.pad_id)
    targets[batch["target_positions"][real]] = batch["labels"][real]
    for number, target in enumerate(targets.view(shape).tolist()):
        document = [words.bos_id, *plain(rows, number, source).tolist(), words.eos_id]
        assert target == document + [words.pad_id] * (shape[1] - len(document))
        assert batch["decoder_input_ids"][number].tolist() == [words.eos_id, *target[:-1]]
        read = batch["inputs"]["input_ids"][number][batch["inputs"]["document_ids"][number] > 0].tolist()
        assert read[0] == words.bos_id and read[-1] == words.eos_id and read.count(words.mask_id) >= 1
        assert len(read) < len(document) or len(document) < 12
    assert shape[1] % 8 == 0 and batch["inputs"]["input_ids"].shape[1] % 8 == 0


def test_inputs_that_grew_beyond_the_row_are_cut(tmp_path):
    collate, kind = bart(TokenInsertion(fraction=1.0))
    (batch,) = batches(collate, corpus(kind, tmp_path), range(20))
    lengths = (batch["inputs"]["document_ids"] > 0).sum(1)
    assert lengths.max() == 64
    assert (batch["inputs"]["input_ids"].gather(1, lengths[:, None] - 1) == preprocess(kind).eos_id).all()


def test_a_document_whose_every_token_was_deleted_is_an_empty_input(tmp_path):
    collate, kind = bart(TokenDeletion(fraction=1.0))
    (batch,) = batches(collate, corpus(kind, tmp_path), range(3))
    assert batch["inputs"]["document_ids"].sum(1).tolist() == [2, 2, 2]


def test_sentences_are_pieces_only_where_they_are_permuted(tmp_path):
    source = corpus("byte_bpe", tmp_path)
    whole = bart(TextInfilling(fraction=0.3, mean_length=3.0, random_share=0.0))[0].plan(source, 1, 0)
    cut = bart()[0].plan(source, 1, 0)
    assert len(whole.starts) == len(whole.offsets) - 1 == len(cut.offsets) - 1 < len(cut.starts)
    for number in range(len(whole.starts)):
        assert np.array_equal(plain(whole, number, source), plain(cut, number, source))
    inside = ~np.isin(cut.starts, whole.starts)
    assert np.isin(cut.starts[inside], source.sentence_offsets).all()
    borders = np.isin(source.sentence_offsets[:-1], cut.starts)
    assert borders.all()


def test_cutting_at_sentences_keeps_rows_of_several_and_of_partial_pieces():
    rows = Rows(np.array([0, 2, 3]), np.array([5, 40, 10]), np.array([10, 5, 10]), {"label": np.array([7, 8])})
    cut = cut_at_sentences(rows, np.array([0, 5, 8, 10, 20, 42, 50]))
    assert cut.starts.tolist() == [5, 8, 10, 40, 42, 10]
    assert cut.lengths.tolist() == [3, 2, 5, 2, 3, 10]
    assert cut.offsets.tolist() == [0, 5, 6] and cut.columns["label"].tolist() == [7, 8]


def test_t5_rows_are_exactly_full_on_both_sides(tmp_path):
    collate, kind = t5()
    source, words = corpus(kind, tmp_path), preprocess(kind)
    (batch,) = batches(collate, source, range(16))
    assert batch["inputs"]["input_ids"].shape == (16, 64) and (batch["inputs"]["document_ids"] == 1).all()
    real = batch["labels"] != NO_LABEL
    assert int(real.sum()) % 16 == 0  # the same number of targets in each row
    per_row = int(real.sum()) // 16
    labels = batch["labels"][real].view(16, per_row)
    assert (labels[:, -1] == words.eos_id).all() and (labels[:, 0] == words.vocab_size - 1).all()
    assert (batch["decoder_input_ids"][:, 0] == words.pad_id).all()
    assert torch.equal(batch["decoder_input_ids"][:, 1:per_row], labels[:, :-1])
    assert not torch.isin(labels, torch.tensor([words.pad_id])).any()


@pytest.mark.parametrize("row_tokens", [1, 7, 64, 10**6])
def test_continuous_rows_hold_each_token_once_and_only_the_last_is_shorter(tmp_path, row_tokens):
    source = corpus("byte_bpe", tmp_path)
    rows = continuous_rows(source, row_tokens, seed=1, epoch=0)
    sizes = np.add.reduceat(rows.lengths, rows.offsets[:-1])
    assert (sizes[:-1] == row_tokens).all() and 0 < sizes[-1] <= row_tokens
    places = np.concatenate(
        [np.arange(start, start + length) for start, length in zip(rows.starts, rows.lengths, strict=True)]
    )
    assert np.array_equal(np.sort(places), np.arange(source.num_tokens))
    borders = source.sentence_offsets[source.document_offsets]
    assert (
        np.searchsorted(borders, rows.starts, "right") == np.searchsorted(borders, rows.starts + rows.lengths, "left")
    ).all()


def test_continuous_rows_have_other_neighbours_each_epoch_and_survive_empty_documents(tmp_path):
    source = corpus("byte_bpe", tmp_path)
    first, later = (continuous_rows(source, 64, seed=1, epoch=epoch) for epoch in (0, 1))
    assert not np.array_equal(first.starts, later.starts)
    empty = cut_stream(np.array([0, 5, 5, 9, 9]), 4, seed=0, epoch=0)
    assert empty.lengths.sum() == 9 and (empty.lengths > 0).all() and len(empty.offsets) == 4
    assert len(cut_stream(np.array([0]), 4, seed=0, epoch=0).offsets) == 1


def test_causal_rows_predict_each_next_token_of_the_same_document(tmp_path):
    collate, kind = next_tokens()
    source, words = corpus(kind, tmp_path), preprocess(kind)
    rows = len(collate.plan(source, 1, 0).offsets) - 1
    (batch,) = batches(collate, source, range(rows - 10, rows))
    real = batch["labels"] != NO_LABEL
    found = dict(zip(batch["target_positions"][real].tolist(), batch["labels"][real].tolist(), strict=True))
    ids, documents = batch["inputs"]["input_ids"], batch["inputs"]["document_ids"]
    for row in range(10):
        for place in range(64):
            follows = place < 63 and documents[row, place] > 0 and documents[row, place] == documents[row, place + 1]
            assert found.get(row * 64 + place) == (int(ids[row, place + 1]) if follows else None)
    ends = int(documents.amax(1).sum())
    assert sum(label == words.eos_id for label in found.values()) == ends
    assert len(found) == int((documents > 0).sum()) - ends  # a document's first token is not predicted


def test_a_tokenizer_without_the_tokens_that_are_needed_is_refused():
    with pytest.raises(
        ValueError, match=r"span corruption needs a tokenizer with sentinels .*choose preprocess=sentinel_bpe"
    ):
        DenoiseText(
            preprocess=preprocess("byte_bpe"), max_tokens=64, corruption=SpanCorruption(density=0.15, mean_length=3.0)
        )
    with pytest.raises(ValueError, match="need a tokenizer with a mask and an end token: choose preprocess=byte_bpe"):
        DenoiseText(
            preprocess=preprocess("sentinel_bpe"), max_tokens=64, corruption=Bart(noises=[TokenDeletion(fraction=0.1)])
        )
    with pytest.raises(ValueError, match="pairs of segments need a tokenizer with a first and a separating token"):
        PairSentences(preprocess=preprocess("sentinel_bpe"), **PAIRS)


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="noises is empty: list at least one noise"):
        Bart(noises=[])
    with pytest.raises(ValueError, match=r"density=1\.5 must lie between 0 and 1"):
        SpanCorruption(density=1.5, mean_length=3.0)
    with pytest.raises(ValueError, match=r"needs at least 5 tokens, got collate\.max_tokens=4"):
        PairSentences(preprocess=preprocess("wordpiece"), max_tokens=4, negatives="random", short_share=0.1)


def test_sentinel_ids_descend_from_the_end_of_the_vocabulary_as_in_t5():
    words = preprocess("sentinel_bpe")
    assert words.vocab_size == 500 and (words.pad_id, words.eos_id) == (0, 1) and words.bos_id is None
    assert words.sentinel_ids.tolist() == list(range(499, 399, -1))
    assert np.isin(words.sentinel_ids, words.special_ids).all()
    assert sorted([*words.ordinary_ids, *words.special_ids]) == list(range(500))
    assert preprocess("byte_bpe").sentinel_ids.tolist() == []
