"""Plans: every token once, rows as full as best fit makes them, laid out as if by hand."""

import pickle

import numpy as np
import pytest

from pretraining.text import plan as planning
from pretraining.text.collate import assemble
from pretraining.text.corpus.corpus import Corpus
from pretraining.text.corpus.shards import ShardWriter, Tokenized
from pretraining.text.packing import best_fit, cut
from pretraining.text.plan import (
    PlannedText,
    Rows,
    TextExamples,
    one_document_per_row,
    pack_documents,
    padding_share,
)


class Specials:
    pad_id, bos_id, eos_id = 0, 1, 2


def make_corpus(directory, documents):
    """Write documents, lists of sentence lengths, whose tokens count up from 10."""
    directory.mkdir(exist_ok=True)
    sentences = np.array([length for document in documents for length in document], np.int32)
    writer = ShardWriter(directory, dtype="uint16", vocab_size=60_000)
    tokens = np.arange(10, 10 + sentences.sum(), dtype=np.uint16)
    writer.add(Tokenized(tokens, sentences, np.array([len(document) for document in documents], np.int32)))
    writer.finish({"fingerprint": "made"})
    return Corpus(directory)


@pytest.fixture
def corpus(tmp_path):
    rng = np.random.default_rng(0)
    return make_corpus(tmp_path / "corpus", [rng.integers(1, 15, rng.integers(1, 12)).tolist() for _ in range(500)])


def slow_best_fit(sizes, capacity):
    """Place one piece at a time into the open row with the least room that holds it; gives the rooms left."""
    rooms = []
    for size in sorted(sizes, reverse=True):
        fitting = [row for row, room in enumerate(rooms) if room >= size]
        if fitting:
            rooms[min(fitting, key=rooms.__getitem__)] -= size
        else:
            rooms.append(capacity - size)
    return sorted(rooms)


@pytest.mark.parametrize("capacity", [7, 32, 100])
def test_packing_is_best_fit_decreasing(capacity):
    rng = np.random.default_rng(capacity)
    for count in (1, 2, 17, 300):
        sizes = rng.integers(1, capacity + 1, count) if count != 17 else rng.integers(1, 4, count)
        row_of = best_fit(sizes, capacity)
        rooms = np.sort(capacity - np.bincount(row_of, weights=sizes))
        assert rooms.tolist() == slow_best_fit(
            sizes.tolist(), capacity
        )  # equal rooms may hold different pieces: best fit has ties


def test_long_documents_are_cut_at_sentences_and_long_sentences_where_the_row_ends():
    sentence_offsets = np.array([0, 4, 8, 10, 13, 38, 40])
    document_offsets = np.array([0, 3, 6])  # 10 tokens, then 3 + 25 + 2
    starts, lengths = cut(sentence_offsets, document_offsets, 9)
    assert list(zip(starts.tolist(), lengths.tolist(), strict=True)) == [
        (0, 8),
        (8, 2),
        (10, 3),
        (13, 9),
        (22, 9),
        (31, 9),
    ]


@pytest.mark.parametrize("plan", [pack_documents, one_document_per_row])
def test_every_token_is_in_exactly_one_row_and_rows_fit(corpus, plan):
    rows = plan(corpus, 40)
    covered = np.concatenate(
        [np.arange(start, start + length) for start, length in zip(rows.starts, rows.lengths, strict=True)]
    )
    assert np.array_equal(np.sort(covered), np.arange(corpus.num_tokens))
    per_row = np.add.reduceat(rows.lengths + 2, rows.offsets[:-1])
    assert per_row.max() <= 40
    assert rows.offsets[-1] == len(rows.starts)


def test_whole_documents_stay_whole_when_they_fit(corpus):
    rows = pack_documents(corpus, 200)
    borders = corpus.sentence_offsets[corpus.document_offsets]
    assert np.array_equal(np.sort(rows.starts), borders[:-1])
    assert np.array_equal(np.sort(rows.starts + rows.lengths), borders[1:])


def test_packing_pads_little_and_reports_it(corpus):
    packed, single = pack_documents(corpus, 128), one_document_per_row(corpus, 128)
    share = 1 - (packed.lengths + 2).sum() / (128 * (len(packed.offsets) - 1))
    assert padding_share(packed, 128) == pytest.approx(share)
    assert padding_share(packed, 128) < 0.02 < 0.3 < padding_share(single, 128)


def test_a_plan_is_built_once_and_read_from_disk_after_that(corpus, monkeypatch):
    first = pack_documents(corpus, 64)
    monkeypatch.setattr(planning, "best_fit", None)  # not to be called
    second = pack_documents(Corpus(corpus.directory), 64)
    assert all(np.array_equal(a, b) for a, b in zip(first[:3], second[:3], strict=True))
    with pytest.raises(TypeError):
        pack_documents(corpus, 65)


def test_columns_of_a_plan_are_kept_and_served_with_its_rows(corpus):
    built = Rows(np.array([0, 2, 3]), np.array([5, 0, 20]), np.array([3, 2, 4]), {"label": np.array([7, 9])})
    rows = planning.cached_rows(corpus, {"plan": "pairs"}, lambda: built)
    examples = PlannedText(corpus, rows).read(0, np.array([1, 0, 1]))
    assert examples.tokens.tolist() == [30, 31, 32, 33, 15, 16, 17, 10, 11, 30, 31, 32, 33]
    assert examples.piece_lengths.tolist() == [4, 3, 2, 4]
    assert examples.row_pieces.tolist() == [1, 2, 1]
    assert examples.columns["label"].tolist() == [9, 7, 9]


def test_a_source_asks_for_a_plan_per_epoch_and_travels_to_other_processes(corpus):
    asked = []

    def plan(epoch):
        asked.append(epoch)
        return Rows(np.arange(epoch + 2), np.arange(epoch + 1), np.ones(epoch + 1, np.int64), {})

    source = PlannedText(corpus, plan)
    assert [source.count(0), source.count(0), source.count(3), len(source.read(3, np.array([3])).tokens)] == [
        1,
        1,
        4,
        1,
    ]
    assert asked == [0, 3]
    packed = PlannedText(corpus, pack_documents(corpus, 64))
    copy = pickle.loads(pickle.dumps(packed))
    assert np.array_equal(copy.read(0, np.arange(5)).tokens, packed.read(0, np.arange(5)).tokens)


def test_rows_are_laid_out_with_their_special_tokens_and_documents_numbered():
    examples = TextExamples(np.array([11, 12, 13, 14, 15, 16], np.uint16), np.array([2, 1, 3]), np.array([2, 1]), {})
    input_ids, documents, special = assemble(examples, 8, Specials())
    assert input_ids.tolist() == [[1, 11, 12, 2, 1, 13, 2, 0], [1, 14, 15, 16, 2, 0, 0, 0]]
    assert documents.tolist() == [[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 0, 0, 0]]
    assert np.array_equal(special, input_ids < 10)
    assert (input_ids.dtype, documents.dtype, special.dtype) == (np.int32, np.int32, np.bool_)


def test_a_tokenizer_without_opening_or_padding_token_is_laid_out_too():
    class EndOnly:
        pad_id, bos_id, eos_id = None, None, 2

    examples = TextExamples(np.array([11, 12, 13], np.uint16), np.array([2, 1]), np.array([2]), {})
    input_ids, documents, special = assemble(examples, 6, EndOnly())
    assert input_ids.tolist() == [[11, 12, 2, 13, 2, 0]]
    assert documents.tolist() == [[1, 1, 1, 2, 2, 0]]
    assert special.tolist() == [[False, False, True, False, True, True]]


def test_layout_equals_a_loop_on_random_rows(corpus):
    source = PlannedText(corpus, pack_documents(corpus, 50))
    examples = source.read(0, np.random.default_rng(1).integers(0, source.count(0), 64))
    input_ids, documents, _ = assemble(examples, 50, Specials())
    tokens, lengths = iter(examples.tokens.tolist()), iter(examples.piece_lengths.tolist())
    for row, pieces in enumerate(examples.row_pieces):
        ids, numbers = [], []
        for number in range(1, pieces + 1):
            piece = [1, *(next(tokens) for _ in range(next(lengths))), 2]
            ids += piece
            numbers += [number] * len(piece)
        padding = [0] * (50 - len(ids))
        assert input_ids[row].tolist() == ids + padding
        assert documents[row].tolist() == numbers + padding


def test_rows_too_long_and_rows_too_short_for_special_tokens_are_refused(corpus):
    examples = TextExamples(np.arange(9, dtype=np.uint16), np.array([9]), np.array([1]), {})
    with pytest.raises(ValueError, match="a row of 11 tokens, special ones included, does not fit into max_tokens=10"):
        assemble(examples, 10, Specials())
    with pytest.raises(ValueError, match=r"data\.max_tokens=2 leaves no room for text beside 2 special tokens"):
        pack_documents(corpus, 2)
