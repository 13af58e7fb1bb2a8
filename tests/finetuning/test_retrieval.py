"""Ranks and what is computed of them: by hand, and by definition."""

import math

import numpy as np
import pytest

from finetuning.metrics.retrieval import gains, intervals, ranks, retrieval
from finetuning.tasks.captions import swap_accuracy


def test_ranks_and_precision_by_hand():
    scores = np.array([[0.9, 0.5, 0.1], [0.2, 0.3, 0.4], [0.1, 0.2, 0.3]])
    right = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], bool)
    first, precision = ranks(scores, right)
    assert first.tolist() == [1, 2, 2]
    np.testing.assert_allclose(precision, [1.0, (1 / 2 + 2 / 3) / 2, 1 / 2])
    measured = retrieval(first, precision)
    assert measured["recall_1"] == pytest.approx(1 / 3) and measured["recall_5"] == 1.0
    assert measured["median_rank"] == 2.0 and measured["mean_average_precision"] == pytest.approx(np.mean(precision))


def test_who_tells_nothing_apart_finds_nothing():
    first, precision = ranks(np.zeros((4, 50)), np.eye(4, 50, dtype=bool))
    assert first.tolist() == [50] * 4 and precision.max() == 1 / 50


def test_ranks_are_those_of_a_slow_search():
    random = np.random.default_rng(0)
    scores, right = random.normal(size=(20, 30)), random.random((20, 30)) < 0.1
    right[np.arange(20), np.arange(20)] = True
    first, precision = ranks(scores, right)
    for row in range(20):
        listed = sorted(range(30), key=lambda place, row=row: -scores[row, place])
        hits = [number for number, place in enumerate(listed, start=1) if right[row, place]]
        assert first[row] == hits[0]
        assert precision[row] == pytest.approx(np.mean([(k + 1) / hit for k, hit in enumerate(hits)]))


def test_intervals_hold_what_they_are_of():
    first = np.array([1] * 30 + [20] * 70)
    found = intervals(first, 1.0 / first)
    low, high = found["recall_1"]
    assert 0.19 < low < 0.3 < high < 0.41 and found["median_rank"] == (20.0, 20.0)


def test_decisions_are_averaged_over_false_captions_and_by_kind():
    measured = swap_accuracy([{"colour": 1.0, "size": 0.0}, {"colour": 0.5}, {}])
    assert measured == {"swap_accuracy": 0.5, "swap_accuracy_colour": 0.75, "swap_accuracy_size": 0.0}


def test_gains_by_hand_and_of_a_slow_search():
    """Grades 3, 0, 2 in this order: (3 + 2 / log2 4) / (3 + 2 / log2 3)."""
    found = gains(np.array([[0.9, 0.5, 0.1]]), np.array([[3.0, 0.0, 2.0]]))
    assert found[0] == pytest.approx((3 + 2 / 2) / (3 + 2 / math.log2(3)))
    random = np.random.default_rng(0)
    scores, grades = random.normal(size=(20, 30)), random.integers(0, 4, (20, 30)).astype(float)
    for cutoff in (1, 10, 50):
        for row, value in enumerate(gains(scores, grades, cutoff)):
            listed = sorted(range(30), key=lambda place, row=row: -scores[row, place])[:cutoff]
            ideal = sorted(grades[row], reverse=True)[:cutoff]
            gained, best = (sum(grade / math.log2(place + 2) for place, grade in enumerate(order))
                            for order in ([grades[row, place] for place in listed], ideal))  # fmt: skip
            assert value == pytest.approx(gained / best)


def test_who_tells_nothing_apart_gains_nothing():
    assert gains(np.zeros((2, 30)), np.eye(2, 30)).tolist() == [0.0, 0.0]
    assert gains(np.zeros((1, 4)), np.array([[0.0, 1.0, 2.0, 0.0]]))[0] < 0.7  # both are last
