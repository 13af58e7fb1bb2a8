"""BART's noises: published rates over 10^6 tokens, exact counts, free combination, and independence of the batch."""

import math

import numpy as np
import pytest

from pretraining.objectives.text.noises import (
    DocumentBatch,
    DocumentRotation,
    Draws,
    SentencePermutation,
    TextInfilling,
    TokenDeletion,
    TokenInsertion,
    TokenMasking,
    TokenReplacement,
    poisson_cdf,
)
from pretraining.random import Keys

SPECIAL, VOCABULARY, MASK = 5, 1000, 4
ORDINARY = np.arange(SPECIAL, VOCABULARY)
EVERY = [
    TokenMasking(fraction=0.15, random_share=0.1),
    TokenReplacement(fraction=0.1),
    TokenDeletion(fraction=0.15),
    TokenInsertion(fraction=0.1, random_share=0.1),
    SentencePermutation(fraction=0.5),
    DocumentRotation(probability=0.5),
    TextInfilling(fraction=0.3, mean_length=3.0, random_share=0.1),
]


def keys_of(rows, epoch=0):
    index = np.asarray(rows, dtype=np.int64)
    return Keys(1, "train", np.full_like(index, epoch), index)


def draws(rows, epoch=0, view=0):
    return Draws(keys_of(rows, epoch), view, MASK, ORDINARY)


def documents(rows, tokens, seed=0, ragged=False):
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, tokens + 1, rows) if ragged else np.full(rows, tokens)
    ids = np.where(np.arange(tokens) < lengths[:, None], draw.integers(SPECIAL, VOCABULARY, (rows, tokens)), 0)
    return DocumentBatch(ids, lengths, draw.random((rows, tokens)) < 0.75, draw.random((rows, tokens)) < 0.05)


def row_of(noised, row):
    return noised.tokens[row, : noised.lengths[row]].tolist()


def reference_infilling(length, fraction, mean, draw):
    """Text infilling token by token, as published code does it: masks shown, and share of the document hidden."""
    budget = math.ceil(length * fraction)
    lengths = draw.poisson(mean, budget)
    while lengths.sum() < budget:
        lengths = np.concatenate([lengths, draw.poisson(mean, budget)])
    reach = np.cumsum(lengths)
    last = int(np.argmax(reach >= budget))
    lengths = lengths[: last + 1].copy()
    lengths[last] -= reach[last] - budget
    filled = lengths[lengths > 0]
    starts = draw.permutation(length)[: len(filled)]
    deleted, hidden = np.zeros(length, bool), np.zeros(length, bool)
    for start, size in zip(starts, filled, strict=True):
        deleted[start + 1 : start + size] = True
        hidden[start : start + size] = True
    return (~deleted[starts]).sum() + (lengths == 0).sum(), hidden.mean()


@pytest.mark.parametrize(("mean", "masks", "hidden"), [(3.0, 42.8, 0.268), (3.5, 35.9, 0.266)])
def test_infilling_hides_as_much_of_510_tokens_behind_as_many_masks_as_published_code(mean, masks, hidden):
    rows = 2000  # 1,020,000 tokens
    noise = TextInfilling(fraction=0.3, mean_length=mean, random_share=0.0, whole_words=False)
    noised = noise(documents(rows, 510), draws(range(rows)))
    shown = ((noised.tokens == MASK) & noised.inside()).sum(1)
    share = 1 - (noised.lengths - shown) / 510
    assert abs(shown.mean() - masks) < 0.02 * masks
    assert abs(share.mean() - hidden) < 0.0015
    draw = np.random.default_rng(2)
    slow = np.array([reference_infilling(510, 0.3, mean, draw) for _ in range(rows)])
    assert abs(shown.mean() - slow[:, 0].mean()) < 0.5  # three standard deviations of the difference are 0.43
    assert abs(share.mean() - slow[:, 1].mean()) < 0.001
    assert abs(shown.std() - slow[:, 0].std()) < 0.4


def test_infilling_hides_whole_words_and_keeps_every_other_token_in_order():
    before = documents(200, 100)
    before.tokens[:] = np.arange(SPECIAL, SPECIAL + 100)  # no two alike, so that what is left says where it was
    noised = TextInfilling(fraction=0.3, mean_length=3.0, random_share=0.0)(before, draws(range(200)))
    for row in range(200):
        left = [token for token in row_of(noised, row) if token != MASK]
        text, starts = row_of(before, row), before.word_starts[row].copy()
        starts[0] = True
        assert left == sorted(left)
        for word in np.split(np.array(text), np.flatnonzero(starts)[1:]):
            assert set(word) <= set(left) or not set(word) & set(left)


def test_poisson_lengths_have_the_probabilities_of_the_law():
    below = poisson_cdf(3.0)
    assert abs(below[0] - math.exp(-3)) < 1e-6  # P(0) = 0.0498
    assert abs(np.diff(below)[2] - math.exp(-3) * 27 / 6) < 1e-6


@pytest.mark.parametrize("mean", [0.05, 0.5, 20.0])
def test_infilling_spans_fill_the_budget_exactly_for_any_mean(mean):
    noise = TextInfilling(fraction=0.3, mean_length=mean, random_share=0.0)
    spans = noise.span_lengths(np.array([0, 1, 30, 150]), keys_of(range(4)), 0)
    assert np.maximum(spans, 0).sum(1).tolist() == [0, 1, 30, 150]


def test_infilling_with_only_empty_spans_would_never_end_and_is_refused():
    with pytest.raises(ValueError, match="mean span length above 0, got 0: for insertions take TokenInsertion"):
        TextInfilling(fraction=0.3, mean_length=0, random_share=0.0)


def test_masking_and_replacement_hit_an_exact_share_and_never_draw_a_special_token():
    before = documents(2000, 510)
    masked = TokenMasking(fraction=0.15, random_share=0.1)(before, draws(range(2000)))
    changed = masked.tokens != before.tokens
    assert (masked.lengths == 510).all()
    assert np.abs(changed.sum(1) - 77).max() <= 2  # ceil(510 * 0.15), less random tokens that equal the old ones
    assert (
        abs((masked.tokens == MASK).sum() / (2000 * 77) - 0.9) < 0.003
    )  # 154,000 draws: three standard deviations are 0.0023
    replaced = TokenReplacement(fraction=0.15)(before, draws(range(2000)))
    assert replaced.tokens.min() >= SPECIAL


def test_deletion_takes_an_exact_share_and_keeps_the_order():
    before = documents(500, 200)
    noised = TokenDeletion(fraction=0.15)(before, draws(range(500)))
    assert (noised.lengths == 170).all()
    for row in range(20):
        rest = iter(row_of(before, row))
        assert all(token in rest for token in row_of(noised, row))


def test_insertion_adds_an_exact_share_at_uniform_places_and_keeps_the_rest():
    rows, length = 5000, 20
    before = documents(rows, length)
    noised = TokenInsertion(fraction=0.1)(before, draws(range(rows)))
    assert (noised.lengths == 22).all()
    new = noised.tokens == MASK
    assert (new.sum(1) == 2).all()
    assert np.array_equal(noised.tokens[~new].reshape(rows, length), before.tokens)
    assert np.abs(new.mean(0) - 2 / 22).max() < 0.017  # four standard deviations
    random = TokenInsertion(fraction=0.5, random_share=0.25)(before, draws(range(rows)))
    assert ((random.tokens == MASK).sum(1) == 7).all()  # ten new ones, ceil(2.5) of them random


def test_the_share_of_a_count_is_not_raised_by_float_error():
    before = documents(1, 100)
    for percent in range(1, 100):
        noised = TokenInsertion(fraction=percent / 100)(before, draws([0]))
        assert noised.lengths[0] == 100 + percent


def sentences_of(noised, row):
    starts = noised.sentence_starts[row, : noised.lengths[row]].copy()
    starts[0] = True
    return [part.tolist() for part in np.split(np.array(row_of(noised, row)), np.flatnonzero(starts)[1:])]


def test_sentence_permutation_moves_whole_sentences_and_only_as_many_as_asked():
    before = documents(300, 200)
    before.sentence_starts[:, 0] = True
    for fraction in (0.3, 1.0):
        noised = SentencePermutation(fraction=fraction)(before, draws(range(300)))
        moved = 0
        for row in range(300):
            old, new = sentences_of(before, row), sentences_of(noised, row)
            assert sorted(map(tuple, old)) == sorted(map(tuple, new))
            stayed = sum(map(list.__eq__, old, new))
            assert len(old) - stayed <= math.ceil(fraction * len(old))
            moved += stayed < len(old)
        assert moved > 200


def test_every_order_of_three_sentences_is_equally_likely():
    rows = 12_000
    tokens = np.broadcast_to(np.array([10, 11, 12]), (rows, 3)).copy()
    whole = np.ones((rows, 3), bool)
    before = DocumentBatch(tokens, np.full(rows, 3), whole, whole)
    noised = SentencePermutation(fraction=1.0)(before, draws(range(rows)))
    shares = np.unique(noised.tokens @ [100, 10, 1], return_counts=True)[1] / rows
    assert len(shares) == 6 and np.abs(shares - 1 / 6).max() < 0.014  # four standard deviations


def test_rotation_starts_at_a_uniform_token_and_happens_as_often_as_asked():
    rows = 12_000
    tokens = np.broadcast_to(np.arange(10, 16), (rows, 6)).copy()
    before = DocumentBatch(tokens, np.full(rows, 6), np.ones((rows, 6), bool), np.ones((rows, 6), bool))
    noised = DocumentRotation(probability=1.0)(before, draws(range(rows)))
    assert np.abs(np.bincount(noised.tokens[:, 0] - 10) / rows - 1 / 6).max() < 0.014
    assert ((np.diff(noised.tokens, axis=1) % 6) == 1).all()
    half = DocumentRotation(probability=0.5)(before, draws(range(rows)))
    assert abs((half.tokens[:, 0] == 10).mean() - (0.5 + 0.5 / 6)) < 0.018


def run(noises, before, keys):
    for view, noise in enumerate(noises):
        before = noise(before, Draws(keys, view, MASK, ORDINARY))
    return before


@pytest.mark.parametrize("noises", [*([noise] for noise in EVERY), EVERY, EVERY[::-1]])
def test_a_document_is_corrupted_the_same_in_any_batch_and_its_input_is_left_alone(noises):
    before = documents(40, 60, ragged=True)
    copies = [part.copy() for part in before]
    whole = run(noises, before, keys_of(range(40)))
    assert all(map(np.array_equal, before, copies))
    for some in ([0], [3, 17, 39], list(range(10, 20))):
        width = int(before.lengths[some].max())
        part = DocumentBatch(*(array[some][:, :width] if array.ndim == 2 else array[some] for array in before))
        noised = run(noises, part, keys_of(some))
        assert [row_of(noised, place) for place in range(len(some))] == [row_of(whole, row) for row in some]


def test_a_noise_listed_twice_draws_anew():
    before = documents(10, 100)
    once = run([TokenDeletion(fraction=0.2)], before, keys_of(range(10)))
    again = TokenDeletion(fraction=0.2)(before, draws(range(10), view=1))
    assert not np.array_equal(once.tokens, again.tokens)


@pytest.mark.parametrize("noise", EVERY, ids=lambda noise: type(noise).__name__)
def test_documents_of_one_token_and_of_none_survive(noise):
    before = DocumentBatch(np.array([[7], [0]]), np.array([1, 0]), np.ones((2, 1), bool), np.ones((2, 1), bool))
    for epoch in range(20):
        noised = noise(before, draws([0, 1], epoch))
        assert noised.lengths[1] == 0 and 0 <= noised.lengths[0] <= 2
        assert all(token == MASK or token >= SPECIAL for token in row_of(noised, 0))
