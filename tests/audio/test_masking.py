"""Span masks: as much as published, only frames that are there, never all of them, and keyed by row."""

import numpy as np
import pytest

from pretraining.audio.masking import span_mask
from pretraining.random import Keys


def keys(count, seed=0):
    return Keys(seed, "train", np.zeros(count, np.int64), np.arange(count))


@pytest.mark.parametrize(("share", "covered"), [(0.65, 0.494), (0.8, 0.568)])
def test_spans_cover_what_is_published(share, covered):
    mask = span_mask(np.full(600, 499), keys(600), share=share, span=10)
    assert mask.mean() == pytest.approx(covered, abs=0.004)


def test_spans_are_never_shorter_than_asked_for_and_start_anywhere():
    mask = span_mask(np.full(400, 60), keys(400), share=0.3, span=10)
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(int), axis=1)
    runs = np.concatenate([np.flatnonzero(row == -1) - np.flatnonzero(row == 1) for row in edges])
    assert runs.min() == 10
    starts = np.nonzero(edges[:, :51] == 1)[1]
    assert set(starts) == set(range(51))  # of 60 frames


def test_no_frame_behind_a_row_is_hidden_and_no_row_as_a_whole():
    frames = np.concatenate([np.arange(3, 60), np.full(200, 20), np.full(200, 21), np.full(200, 12), [499]])
    for seed in range(5):
        mask = span_mask(frames, keys(len(frames), seed), share=0.8, span=10)
        assert not mask[np.arange(499) >= frames[:, None]].any()
        hidden = mask.sum(1)
        assert (hidden >= 1).all() and (hidden < frames).all()


def test_without_the_guard_rows_of_two_spans_would_be_hidden_as_a_whole():
    """What the test above is worth: two spans of 10 do cover 20 frames now and then."""
    starts = [(first, second) for first in range(11) for second in range(11) if first < second]
    assert (0, 10) in starts and len(starts) == 55  # 1 in 55 draws, and 200 rows with 2 spans in most of them


def test_a_row_s_mask_is_the_same_in_any_batch():
    frames = np.array([40, 80, 55, 99, 23])
    together = span_mask(frames, keys(5), share=0.65, span=10)
    for row in range(5):
        alone = span_mask(frames[row : row + 1], keys(5).select(np.array([row])), share=0.65, span=10)
        np.testing.assert_array_equal(alone[0], together[row, : frames[row]])
    assert not np.array_equal(span_mask(frames, keys(5, seed=1), share=0.65, span=10), together)
