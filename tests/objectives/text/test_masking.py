"""Which tokens are predicted and what replaces them: exact counts, shares over 10^6 tokens, the same in any batch."""

import numpy as np
import pytest

from pretraining.objectives.text.masking import budgets, choose, corrupt, number_words, span_lengths
from pretraining.random import Keys

ROWS, TOKENS, SPECIAL, VOCABULARY = 8192, 128, 5, 1000
MASK = 4
ORDINARY = np.arange(SPECIAL, VOCABULARY)
UNITS = ("token", "whole_word", "span")


def keys_of(rows, epoch=0, seed=1, stream="train"):
    index = np.asarray(rows, dtype=np.int64)
    return Keys(seed, stream, np.full_like(index, epoch), index)


def batch(rows=ROWS, tokens=TOKENS, seed=0):
    """Rows like [CLS] document [SEP] [CLS] document [SEP] padding, three words in four of one token."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(SPECIAL, VOCABULARY, (rows, tokens))
    length = draw.integers(tokens // 2, tokens + 1, rows)
    border = (length * draw.uniform(0.2, 0.8, rows)).astype(int)
    place = np.arange(tokens)
    inside = place < length[:, None]
    candidates = inside & (place > 0) & (place != length[:, None] - 1)
    candidates &= (place != border[:, None]) & (place != border[:, None] + 1)
    return np.where(inside, ids, 0), candidates, draw.random((rows, tokens)) < 0.75


@pytest.mark.parametrize("unit", UNITS)
def test_every_row_predicts_its_rounded_share_of_candidates_and_nothing_special(unit):
    _, candidates, starts = batch(2048)
    chosen = choose(candidates, keys_of(range(2048)), fraction=0.15, unit=unit, word_starts=starts)
    wanted = budgets(candidates, 0.15)
    assert wanted.min() >= 9 and (wanted == np.rint(0.15 * candidates.sum(1))).all()
    assert not (chosen & ~candidates).any()
    if unit == "whole_word":
        assert (chosen.sum(1) <= wanted).all() and (chosen.sum(1) == wanted).mean() > 0.99
    else:
        assert (chosen.sum(1) == wanted).all()


@pytest.mark.parametrize("unit", UNITS)
def test_a_row_with_any_candidate_predicts_at_least_one_and_a_row_without_predicts_none(unit):
    candidates = np.zeros((3, 6), dtype=bool)
    candidates[0, 2] = True
    candidates[1, 1:4] = True  # one word of three tokens, budget 1
    starts = np.zeros((3, 6), dtype=bool)
    starts[1, 1] = True
    chosen = choose(candidates, keys_of(range(3)), fraction=0.15, unit=unit, word_starts=starts)
    assert chosen.sum(1).tolist() == [1, 1, 0]
    nothing = choose(np.zeros((2, 5), bool), keys_of(range(2)), fraction=0.15, unit=unit, word_starts=starts[:2, :5])
    assert not nothing.any()


@pytest.mark.parametrize("unit", UNITS)
def test_a_row_is_masked_the_same_in_any_batch_and_under_any_padding(unit):
    ids, candidates, starts = batch(64)
    rows = np.arange(100, 164)

    def run(part, extra=0):
        wide = ((0, 0), (0, extra))
        parts = (np.pad(array[part], wide) for array in (ids, candidates, starts))
        some, open_places, firsts = parts
        chosen = choose(open_places, keys_of(rows[part]), fraction=0.15, unit=unit, word_starts=firsts)
        seen = corrupt(some, chosen, keys_of(rows[part]), mask_id=MASK, ordinary_ids=ORDINARY, per_span=unit == "span")
        return chosen[:, :TOKENS], seen[:, :TOKENS]

    whole = run(slice(None))
    for part in (slice(0, 1), slice(5, 20), slice(63, 64)):
        for one, all_rows in zip(run(part, extra=37), whole, strict=True):
            assert np.array_equal(one, all_rows[part])


@pytest.mark.parametrize("unit", UNITS)
def test_masks_change_with_the_epoch_and_between_streams_but_not_between_calls(unit):
    _, candidates, starts = batch(64)

    def run(**which):
        return choose(candidates, keys_of(range(64), **which), fraction=0.15, unit=unit, word_starts=starts)

    assert np.array_equal(run(), run())
    for other in (run(epoch=1), run(seed=2), run(stream="validation")):
        assert (run() & other).sum() < 0.5 * run().sum()


@pytest.mark.parametrize("unit", ["token", "span"])
def test_shares_of_mask_random_and_kept_are_80_10_10_over_a_million_tokens(unit):
    ids, candidates, starts = batch()
    keys = keys_of(range(ROWS))
    assert (ids > 0).sum() > 750_000 and ids.size > 1_000_000
    chosen = choose(candidates, keys, fraction=0.15, unit=unit, word_starts=starts)
    before = ids.copy()
    seen = corrupt(ids, chosen, keys, mask_id=MASK, ordinary_ids=ORDINARY, per_span=unit == "span")
    assert np.array_equal(ids, before), "the cached tokens must not be touched"
    assert np.array_equal(seen[~chosen], ids[~chosen])
    masked, kept = (seen == MASK)[chosen].mean(), (seen == ids)[chosen].mean()
    # 120,000 predictions: three standard deviations are 0.0035, and about twice that for spans; 1 in 995 random draws
    # hits the same id.
    tolerance = 0.004 if unit == "token" else 0.009
    assert abs(masked - 0.8) < tolerance
    assert abs(kept - (0.1 + 0.1 / len(ORDINARY))) < tolerance


def test_other_shares_are_parameters():
    ids, candidates, _ = batch(256)
    chosen = choose(candidates, keys_of(range(256)), fraction=0.3)
    every = corrupt(ids, chosen, keys_of(range(256)), mask_id=MASK, ordinary_ids=ORDINARY, mask_share=1, random_share=0)
    assert (every[chosen] == MASK).all()
    drawn = corrupt(ids, chosen, keys_of(range(256)), mask_id=MASK, ordinary_ids=ORDINARY, mask_share=0, random_share=1)
    assert (drawn[chosen] != MASK).all() and (drawn[chosen] != ids[chosen]).mean() > 0.99


def test_random_replacements_cover_the_ordinary_tokens_evenly_and_no_special_one():
    ids, candidates, _ = batch(2048)
    chosen = choose(candidates, keys_of(range(2048)), fraction=0.5)
    some = np.arange(SPECIAL, 25)  # a vocabulary of 25, where drawing from all ids would give 20 % special ones
    drawn = corrupt(ids, chosen, keys_of(range(2048)), mask_id=MASK, ordinary_ids=some, mask_share=0, random_share=1)
    counts = np.bincount(drawn[chosen], minlength=25)
    assert counts[:SPECIAL].sum() == 0
    assert np.abs(counts[SPECIAL:] / counts.sum() - 1 / 20).max() < 0.004


def test_each_candidate_is_chosen_with_equal_probability():
    candidates = np.ones((20_000, 20), dtype=bool)
    chosen = choose(candidates, keys_of(range(20_000)), fraction=0.15)
    assert (chosen.sum(1) == 3).all()
    assert np.abs(chosen.mean(0) - 0.15).max() < 0.01  # four standard deviations


def test_whole_words_are_predicted_whole_or_not_at_all():
    _, candidates, starts = batch(512)
    words, _ = number_words(candidates, starts)
    chosen = choose(candidates, keys_of(range(512)), fraction=0.15, unit="whole_word", word_starts=starts)
    for row in range(512):
        sizes = np.bincount(words[row][candidates[row]])
        hit = np.bincount(words[row][chosen[row]], minlength=sizes.size)
        assert ((hit == 0) | (hit == sizes)).all()


def test_whole_words_follow_the_greedy_rule_that_skips_what_does_not_fit():
    from pretraining.objectives.text import masking

    _, candidates, _ = batch(64)
    starts = np.random.default_rng(3).random(candidates.shape) < 0.4  # long words: many do not fit
    words, _ = number_words(candidates, starts)
    keys = keys_of(range(64))
    chosen = choose(candidates, keys, fraction=0.1, unit="whole_word", word_starts=starts)
    budget = budgets(candidates, 0.1)
    for row in range(64):
        sizes = np.bincount(words[row][candidates[row]])
        order = np.argsort(masking.shuffled(np.ones((64, sizes.size), bool), keys, "mask.order")[row])
        taken, left = set(), budget[row]
        for word in order:
            if sizes[word] <= left:
                taken.add(word)
                left -= sizes[word]
        assert set(words[row][chosen[row]]) == taken


def test_span_lengths_are_geometric_renormalised_to_ten_words():
    lengths = span_lengths(keys_of(range(10_000)), "any", 100)
    law = 0.2 * 0.8 ** np.arange(10)
    law /= law.sum()
    assert lengths.min() == 1 and lengths.max() == 10
    assert abs((law * np.arange(1, 11)).sum() - 3.797) < 0.001
    assert abs(lengths.mean() - 3.797) < 0.01  # 10^6 draws: four standard deviations
    assert np.abs(np.bincount(lengths.ravel())[1:] / lengths.size - law).max() < 0.002


def test_spans_start_at_words_stay_inside_a_document_and_are_runs_of_several_words():
    _, candidates, starts = batch(2048)
    words, _ = number_words(candidates, starts)
    chosen = choose(candidates, keys_of(range(2048)), fraction=0.15, unit="span", word_starts=starts)
    opens = chosen.copy()
    opens[:, 1:] &= ~chosen[:, :-1]
    first_of_word = candidates.copy()
    first_of_word[:, 1:] &= words[:, 1:] != words[:, :-1]
    # Only a span that continues behind another one's cut end can open inside a word.
    assert (first_of_word[opens]).mean() > 0.97
    assert 3.0 < chosen.sum() / opens.sum() < 7.0  # words of 1.33 tokens, 3.8 words, less cuts, more where spans touch


def test_touching_tokens_of_a_span_share_their_fate():
    ids, candidates, starts = batch(512)
    keys = keys_of(range(512))
    chosen = choose(candidates, keys, fraction=0.15, unit="span", word_starts=starts)
    seen = corrupt(ids, chosen, keys, mask_id=MASK, ordinary_ids=ORDINARY, per_span=True)
    pairs = chosen[:, 1:] & chosen[:, :-1]
    assert pairs.sum() > 1000
    assert np.array_equal((seen[:, 1:] == MASK)[pairs], (seen[:, :-1] == MASK)[pairs])


def test_the_fraction_may_differ_per_row():
    candidates = np.ones((2, 100), dtype=bool)
    chosen = choose(candidates, keys_of(range(2)), fraction=np.array([0.1, 0.4]))
    assert chosen.sum(1).tolist() == [10, 40]


def test_a_unit_above_the_token_without_words_says_what_to_do():
    with pytest.raises(ValueError, match="needs word_starts: take a tokenizer that knows its words, or unit=token"):
        choose(np.ones((1, 4), bool), keys_of([0]), fraction=0.15, unit="span")
    with pytest.raises(ValueError, match="unknown masking unit 'word': choose token, whole_word or span"):
        choose(np.ones((1, 4), bool), keys_of([0]), fraction=0.15, unit="word", word_starts=np.ones((1, 4), bool))
