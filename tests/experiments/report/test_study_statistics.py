import itertools
import math

import numpy as np
import pytest
import scipy.stats

from experiments.report.statistics import (
    average_rank,
    holm,
    mean_interval,
    nested_bootstrap,
    p_values,
    paired_difference,
    seeds_to_test,
    sign_flip_p,
    within_pretraining,
)


def test_the_mean_interval_equals_scipys():
    values = [0.61, 0.64, 0.58, 0.66, 0.6]
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = mean_interval(values)
    assert found.n == 5
    assert found.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_one_value_has_a_mean_and_no_interval():
    found = mean_interval([0.5])
    assert (found.mean, found.n) == (0.5, 1)
    assert math.isnan(found.low)
    assert not found.clear_of_zero


def test_no_values_are_an_error():
    with pytest.raises(ValueError, match="got no values"):
        mean_interval([])


def test_a_paired_difference_equals_scipys_related_t_interval():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=8), rng.normal(size=8)
    expected = scipy.stats.ttest_rel(first, second).confidence_interval(0.95)
    found = paired_difference(dict(enumerate(first)), dict(enumerate(second)) | {99: 0.0})
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_without_a_shared_seed_there_is_no_paired_difference():
    assert paired_difference({1: 0.5}, {2: 0.5}) is None


def test_the_sign_flip_p_equals_scipys_permutation_test():
    d = np.random.default_rng(1).normal(0.4, 1, size=9)
    expected = scipy.stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip_p(d) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [6, 7, 10])
def test_all_differences_positive_give_the_smallest_p_there_is(n):
    assert sign_flip_p([0.1 * (i + 1) for i in range(n)]) == 2 / 2**n


def test_equal_differences_are_counted_exactly_despite_rounding():
    # 0.1 + 0.2 - 0.3 is not 0 in floats; by hand: |sum| is 0.6 for 2 of 8 patterns.
    assert sign_flip_p([0.1, 0.2, 0.3]) == 2 / 8


def test_the_drawn_sign_flip_p_agrees_with_the_exact_one():
    d = np.random.default_rng(2).normal(0.3, 1, size=17)
    signs = np.array(list(itertools.product((1, -1), repeat=17)))
    exact = np.mean(np.abs(signs @ d) >= abs(d.sum()) - 1e-12)
    assert sign_flip_p(d) == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 100_000))


def test_holm_equals_the_worked_example():
    # 4 * 0.005, 3 * 0.01, 2 * 0.03, and then monotone: max(0.06, 1 * 0.04).
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_average_rank_shares_ties():
    scores = {"a": {"x": 0.9, "y": 0.5}, "b": {"x": 0.8, "y": 0.5}, "c": {"x": 0.7, "y": 0.4, "z": 1.0}}
    expected = scipy.stats.rankdata([[-0.9, -0.8, -0.7], [-0.5, -0.5, -0.4]], axis=1).mean(axis=0)
    assert list(average_rank(scores).values()) == pytest.approx(expected)


def test_finetuning_seeds_are_averaged_within_their_pretraining():
    assert within_pretraining({(1, 1): 0.2, (1, 2): 0.4, (2, 1): 0.5}) == {1: pytest.approx(0.3), 2: 0.5}


def test_the_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(3)
    for n in (3, 5, 10):
        found = [mean_interval(row) for row in rng.normal(1.0, 2.0, size=(4000, n))]
        covered = np.mean([x.low <= 1.0 <= x.high for x in found])
        assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


def test_the_sign_flip_test_finds_nothing_where_nothing_is_no_more_often_than_it_says():
    rng = np.random.default_rng(4)
    found = np.mean([sign_flip_p(row) <= 0.05 for row in rng.normal(size=(2000, 8))])
    assert found <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 2000)


def test_the_nested_bootstrap_covers_seeds_and_examples():
    rng = np.random.default_rng(5)
    covered = []
    for _ in range(60):
        rates = np.clip(rng.normal(0.7, 0.05, size=12), 0, 1)
        scores = [rng.random(100) < rate for rate in rates]
        found = nested_bootstrap(scores, draws=200)
        covered.append(found.low <= 0.7 <= found.high)
    # Resampling both levels errs to the wide side; 12 seeds cost a little of it again.
    assert np.mean(covered) >= 0.88


def test_the_nested_bootstrap_is_wider_than_examples_alone_when_seeds_differ():
    rng = np.random.default_rng(6)
    apart = [rng.random(400) < rate for rate in (0.5, 0.6, 0.7, 0.8, 0.9)]
    pooled = [np.concatenate(apart)]
    both, examples = nested_bootstrap(apart), nested_bootstrap(pooled)
    assert both.high - both.low > 2 * (examples.high - examples.low)


def test_examples_that_all_replicates_share_do_not_average_out():
    rng = np.random.default_rng(8)
    covered = {shared: [] for shared in (True, False)}
    for _ in range(60):
        hard = rng.random(60) < 0.4  # 40 % of the examples are hard for every seed, in a test set drawn anew
        scores = [np.where(hard, rng.random(60) < 0.1, rng.random(60) < 0.9) for _ in range(8)]
        truth = 0.4 * 0.1 + 0.6 * 0.9
        for shared, found in covered.items():
            interval = nested_bootstrap(scores, shared_examples=shared, draws=200)
            found.append(interval.low <= truth <= interval.high)
    assert np.mean(covered[True]) >= 0.85 > np.mean(covered[False])
    with pytest.raises(ValueError, match="shared ones are as many in each"):
        nested_bootstrap([[1.0], [1.0, 0.0]], shared_examples=True)


def test_a_planted_difference_is_found_and_a_planted_null_is_not():
    rng = np.random.default_rng(7)
    differences = {
        "planted": list(rng.normal(0.05, 0.01, size=8)),
        "null": [0.01, -0.02, 0.015, -0.01, 0.02, -0.012, 0.003, -0.004],
    }
    found = p_values(differences)
    assert found["planted"] <= 0.05 < found["null"]


def test_fewer_than_six_seeds_are_not_tested():
    assert p_values({"a": [0.1] * 6, "b": [0.1] * 5}) is None
    assert p_values({"a": [0.1] * 6}) == {"a": 2 / 64}


@pytest.mark.parametrize("comparisons", [1, 2, 3, 8, 234])
def test_so_many_comparisons_are_tested_from_as_few_seeds_on_as_can_decide_one(comparisons):
    """All signs alike give the smallest p that there is, 2 / 2^R; Holm multiplies it by the number of comparisons."""
    least = seeds_to_test(comparisons)
    assert p_values({row: [1.0 + seed for seed in range(least - 1)] for row in range(comparisons)}) is None
    found = p_values({row: [1.0 + seed for seed in range(least)] for row in range(comparisons)})
    assert found is not None and max(found.values()) == pytest.approx(comparisons * 2 / 2**least)
    assert comparisons * 2 / 2**least <= 0.05 < comparisons * 2 / 2 ** (least - 1)
