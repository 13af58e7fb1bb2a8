"""Sentence pairs: the published walk reproduced step by step, its statistics, and what it refuses."""

import random
from types import SimpleNamespace

import numpy as np
import pytest

from pretraining.objectives.text.sentence_pairs import SPECIALS, heads, plan_pairs, truncated
from pretraining.random import Keys, bits, integers, uniform

SETTINGS = {"max_tokens": 64, "short_share": 0.1, "negatives": "random", "seed": 1, "epoch": 0}


def corpus_of(sentences_per_document, seed=0, longest=25):
    """A corpus of sentences of 3 to `longest` tokens, as offsets."""
    counts = np.asarray(sentences_per_document)
    lengths = np.random.default_rng(seed).integers(3, longest + 1, counts.sum())
    return SimpleNamespace(
        num_documents=len(counts),
        num_sentences=int(counts.sum()),
        sentence_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        document_offsets=np.concatenate([[0], np.cumsum(counts)]),
    )


def documents_of(count, most, seed=0):
    return corpus_of(np.random.default_rng(seed).integers(1, most + 1, count), seed)


def rows_of(rows):
    starts, lengths = np.asarray(rows.starts).reshape(-1, 2), np.asarray(rows.lengths).reshape(-1, 2)
    return starts, lengths, np.asarray(rows.columns["label"])


def flat(sentences):
    return [token for sentence in sentences for token in sentence]


def reference(corpus, *, max_tokens, short_share, negatives, seed, epoch):
    """The published walk, one document and one sentence at a time, on token positions; only the draws are shared."""
    tokens, documents = corpus.sentence_offsets, corpus.document_offsets

    def sentences(document):
        return [list(range(tokens[s], tokens[s + 1])) for s in range(documents[document], documents[document + 1])]

    def key(index):
        return Keys(seed, "sentence_pairs", np.array([epoch]), np.array([index]))

    most, result = max_tokens - SPECIALS, []
    for document in range(corpus.num_documents):
        target = most
        if uniform(key(document), "short")[0, 0] < short_share:
            target = 2 + int(integers(key(document), "target", most - 1)[0, 0])
        mine, chunk, place = sentences(document), [], 0
        while place < len(mine):
            chunk.append(mine[place])
            if place == len(mine) - 1 or sum(map(len, chunk)) >= target:
                keys = key(documents[document] + place - len(chunk) + 1)
                a_end = 1 if len(chunk) == 1 else 1 + int(integers(keys, "split", len(chunk) - 1)[0, 0])
                first = flat(chunk[:a_end])
                if len(chunk) == 1 or uniform(keys, "negative")[0, 0] < 0.5:
                    label, second = 1, []
                    other = int(integers(keys, "document", corpus.num_documents - 1)[0, 0])
                    other += other >= document
                    theirs = sentences(other)
                    start = int(integers(keys, "sentence", len(theirs))[0, 0])
                    for sentence in theirs[start:]:
                        second += sentence
                        if len(second) >= target - len(first):
                            break
                    place -= len(chunk) - a_end
                else:
                    label, second = 0, flat(chunk[a_end:])
                fronts = [0, 0]
                dropped = [0, 0]
                while len(first) - dropped[0] + len(second) - dropped[1] > most:
                    dropped[0 if len(first) - dropped[0] > len(second) - dropped[1] else 1] += 1
                for side, name in enumerate("ab"):
                    if dropped[side]:
                        drawn = bits(keys, f"truncate.{name}.0", 8)[0]
                        tosses = [int(drawn[toss // 32]) >> (toss % 32) & 1 for toss in range(dropped[side])]
                        fronts[side] = sum(tosses)
                pair = [
                    side[front : len(side) - drop + front]
                    for side, front, drop in zip((first, second), fronts, dropped, strict=True)
                ]
                result.append((pair[0][0], len(pair[0]), pair[1][0], len(pair[1]), label))
                chunk = []
            place += 1
    return result


@pytest.mark.parametrize("most", [1, 2, 6, 40])
def test_the_plan_is_the_published_walk_pair_by_pair(most):
    corpus = documents_of(60, most)
    if most == 1:
        corpus = corpus_of([1] * 59 + [2])
    starts, lengths, label = rows_of(plan_pairs(corpus, **SETTINGS))
    found = list(zip(starts[:, 0], lengths[:, 0], starts[:, 1], lengths[:, 1], label, strict=True))
    assert len(found) >= 60
    assert found == reference(corpus, **SETTINGS)


def test_short_documents_give_more_than_half_negatives_exactly_as_the_walk_implies():
    """Of two short sentences: a chunk is a negative with probability 1/2, which leaves another of one sentence."""
    rows = plan_pairs(corpus_of([2] * 50_000, longest=20), **{**SETTINGS, "short_share": 0.0})
    label = rows.columns["label"]
    # Per document: half give one positive, half give two negatives: 2/3 of the pairs. Three standard deviations are
    # 0.005.
    assert abs(label.mean() - 2 / 3) < 0.005
    alone = plan_pairs(corpus_of([1] * 1000 + [2]), **SETTINGS).columns["label"]
    assert alone[:-2].all()  # a chunk of one sentence is always a negative


def test_long_documents_give_the_share_of_negatives_of_an_independent_simulation():
    corpus = documents_of(4000, 60, seed=3)
    label = plan_pairs(corpus, **{**SETTINGS, "short_share": 0.0}).columns["label"]
    draw, negatives, total = random.Random(1), 0, 0
    lengths = np.diff(corpus.sentence_offsets).tolist()
    for first, last in zip(corpus.document_offsets[:-1].tolist(), corpus.document_offsets[1:].tolist(), strict=True):
        place = first
        while place < last:
            behind, size = place, 0
            while behind < last and size < 61:
                size, behind = size + lengths[behind], behind + 1
            a_end = draw.randint(1, behind - place - 1) if behind - place > 1 else 1
            negative = behind - place == 1 or draw.random() < 0.5
            negatives, total = negatives + negative, total + 1
            place = place + a_end if negative else behind
    assert total > 30_000
    assert 0.5 < label.mean() < 0.6
    assert abs(label.mean() - negatives / total) < 0.012  # three standard deviations of the difference
    assert abs(len(label) / total - 1) < 0.02


def test_a_positive_is_the_next_sentence_and_a_negative_comes_from_another_document():
    corpus = documents_of(500, 30)
    rows = plan_pairs(corpus, **{**SETTINGS, "max_tokens": 4096, "short_share": 0.0})  # nothing is truncated
    starts, lengths, label = rows_of(rows)
    borders = corpus.sentence_offsets[corpus.document_offsets]
    document = np.searchsorted(borders, starts, side="right") - 1
    next_to = starts[:, 0] + lengths[:, 0] == starts[:, 1]
    assert (document[label == 1, 0] != document[label == 1, 1]).all()
    assert (document[label == 0, 0] == document[label == 0, 1]).all() and next_to[label == 0].all()
    assert np.isin(starts, corpus.sentence_offsets).all() and np.isin(starts + lengths, corpus.sentence_offsets).all()
    assert (document[:, 0] == np.sort(document[:, 0])).all()


def test_pairs_fill_their_rows_and_never_more():
    _, lengths, _ = rows_of(plan_pairs(documents_of(2000, 60), **{**SETTINGS, "short_share": 0.0}))
    assert (lengths >= 1).all() and (lengths.sum(1) <= 61).all()
    assert (lengths.sum(1) == 61).mean() > 0.5


def test_documents_with_a_shorter_aim_are_as_many_as_asked():
    corpus = corpus_of([40] * 3000)
    borders = corpus.sentence_offsets[corpus.document_offsets]

    def pairs_per_document(short_share):
        starts, _, _ = rows_of(plan_pairs(corpus, **{**SETTINGS, "max_tokens": 512, "short_share": short_share}))
        return np.bincount(np.searchsorted(borders, starts[:, 0], side="right") - 1, minlength=3000)

    full, some, every = map(pairs_per_document, (0.0, 0.1, 1.0))
    assert every.mean() > 2 * full.mean()  # a short aim makes many pairs of a document
    changed = (every != full).mean()  # a short aim close to the full one may give as many
    assert abs((some != full).mean() - 0.1 * changed) < 0.017  # three standard deviations


def test_truncation_takes_from_the_longer_segment_one_token_at_a_time():
    draw = np.random.default_rng(0)
    for most in (2, 7, 20, 61):
        lengths = draw.integers(1, 60, (2000, 2))
        for (first, second), kept in zip(lengths, truncated(lengths, most), strict=True):
            while first + second > most:
                first, second = (first - 1, second) if first > second else (first, second - 1)
            assert kept.tolist() == [first, second]


def test_heads_are_binomial_for_few_and_for_very_many_tosses():
    index = np.arange(20_000)
    keys = Keys(0, "any", np.zeros_like(index), index)
    for tosses in (1, 31, 32, 33, 1000):
        counted = heads(keys, "toss", np.full(len(index), tosses))
        assert abs(counted.mean() - tosses / 2) < 4 * np.sqrt(tosses / 4 / len(index))
        assert abs(counted.std() / np.sqrt(tosses / 4) - 1) < 0.03
    assert heads(keys, "toss", np.zeros(len(index), int)).sum() == 0


def test_swapped_negatives_are_the_same_two_segments_in_the_other_order():
    corpus = documents_of(2000, 30)
    starts, _, label = rows_of(plan_pairs(corpus, **{**SETTINGS, "negatives": "swapped"}))
    borders = corpus.sentence_offsets[corpus.document_offsets]
    document = np.searchsorted(borders, starts, side="right") - 1
    assert (document[:, 0] == document[:, 1]).all()
    assert ((starts[:, 0] > starts[:, 1]) == (label == 1)).all()
    assert abs(label.mean() - 0.5) < 3 * np.sqrt(0.25 / len(label))


def test_pairs_are_a_pure_function_of_seed_and_epoch_and_of_each_document():
    corpus = documents_of(300, 20)

    def run(**changes):
        rows = plan_pairs(corpus, **{**SETTINGS, **changes})
        return np.asarray(rows.starts), np.asarray(rows.columns["label"])

    assert all(map(np.array_equal, run(), run()))
    for change in ({"epoch": 1}, {"seed": 2}):
        other = run(**change)
        assert len(other[0]) != len(run()[0]) or not np.array_equal(other[0], run()[0])


def test_documents_do_not_change_with_the_size_of_the_blocks_they_are_walked_in(monkeypatch):
    corpus = documents_of(300, 20)
    whole = plan_pairs(corpus, **SETTINGS)
    monkeypatch.setattr("pretraining.objectives.text.sentence_pairs._BLOCK", 7)
    parts = plan_pairs(corpus, **SETTINGS)
    assert all(map(np.array_equal, whole[:3], parts[:3])) and np.array_equal(
        whole.columns["label"], parts.columns["label"]
    )


def test_a_corpus_without_sentence_boundaries_is_refused():
    with pytest.raises(
        ValueError, match=r"needs sentence boundaries, but each of the 9 documents .* prepare the data with a sentence"
    ):
        plan_pairs(corpus_of([1] * 9), **SETTINGS)


def test_a_single_document_has_no_other_to_draw_from():
    with pytest.raises(ValueError, match=r"only one: mark where documents end, or set collate\.negatives=swapped"):
        plan_pairs(corpus_of([9]), **SETTINGS)
    assert len(plan_pairs(corpus_of([9]), **{**SETTINGS, "negatives": "swapped"}).columns["label"]) >= 1


def test_an_unknown_kind_of_negatives_names_the_choices():
    with pytest.raises(ValueError, match=r"collate\.negatives='hard' is unknown: choose random or swapped"):
        plan_pairs(corpus_of([9, 9]), **{**SETTINGS, "negatives": "hard"})
