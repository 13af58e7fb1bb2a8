"""T5's span corruption: exact lengths, uniform cuts, and the edges of short rows."""

import itertools

import numpy as np
import pytest

from pretraining.objectives.text.span_corruption import choose_spans, corrupt_spans, lengths_for, span_counts
from pretraining.random import Keys

SENTINELS = np.arange(999, 899, -1)
EOS, PAD = 1, 0


def keys_of(rows, epoch=0):
    index = np.asarray(rows, dtype=np.int64)
    return Keys(1, "train", np.full_like(index, epoch), index)


def corrupted(lengths, rows=None, density=0.15, mean_length=3.0, tokens=None):
    lengths = np.asarray(lengths)
    keys = keys_of(range(len(lengths)) if rows is None else rows)
    width = lengths.max(initial=0)
    tokens = np.broadcast_to(np.arange(width) + 2, (len(lengths), width)) if tokens is None else tokens[:, :width]
    hidden, opens = choose_spans(lengths, keys, density=density, mean_length=mean_length, sentinels=len(SENTINELS))
    sides = corrupt_spans(tokens, hidden, opens, lengths, sentinel_ids=SENTINELS, eos_id=EOS, pad_id=PAD)
    return hidden, sides


@pytest.mark.parametrize(("inputs", "raw", "targets"), [(128, 141, 29), (512, 568, 114), (1024, 1137, 229)])
def test_the_raw_length_makes_inputs_exactly_full(inputs, raw, targets):
    found = lengths_for(inputs, density=0.15, mean_length=3.0)
    assert found == (raw, inputs, targets)
    _, sides = corrupted([raw] * 64)
    assert sides.inputs.shape == (64, inputs) and sides.targets.shape == (64, targets)
    assert (sides.input_lengths == inputs).all() and (sides.target_lengths == targets).all()


def test_over_a_million_tokens_fifteen_percent_are_hidden_in_spans_of_three():
    hidden, _ = corrupted([568] * 2000)
    assert hidden.size > 1_000_000
    assert (hidden.sum(1) == 85).all()  # round(568 * 0.15)
    opens = hidden.copy()
    opens[:, 1:] &= ~hidden[:, :-1]
    assert (opens.sum(1) == 28).all()  # round(85 / 3): the mean span is 3.04
    assert not hidden[:, 0].any() and hidden[:, -1].all()
    # Every composition of 85 into 28 parts is equally likely, so a span has length 1 with probability C(83, 26) / C(84,
    # 27) = 27 / 84. The share over 56,000 spans: three standard deviations are 0.006.
    ends = hidden.copy()
    ends[:, :-1] &= ~hidden[:, 1:]
    spans = np.nonzero(ends)[1] - np.nonzero(opens)[1] + 1
    assert abs((spans == 1).mean() - 27 / 84) < 0.006


def test_every_way_to_cut_is_equally_likely():
    hidden, _ = corrupted(
        [6] * 20_000, density=0.5, mean_length=1.5
    )  # 3 hidden in 2 spans, 3 visible in 2 runs: 2 x 2 ways
    codes = hidden @ (1 << np.arange(6))
    shares = np.unique(codes, return_counts=True)[1] / 20_000
    assert len(shares) == 4
    assert np.abs(shares - 0.25).max() < 0.012  # four standard deviations


def rebuilt(inputs, targets):
    """Put a target's spans back in place of the sentinels."""
    spans, current = {}, None
    for token in targets[:-1]:
        if token in SENTINELS:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    return list(
        itertools.chain.from_iterable(spans.pop(token) if token in SENTINELS else [token] for token in inputs[:-1])
    )


def test_inputs_and_targets_together_give_the_text_back():
    lengths = np.array([568, 141, 2, 3, 10, 567])
    _, sides = corrupted(lengths)
    for row, length in enumerate(lengths):
        inputs = sides.inputs[row][: sides.input_lengths[row]].tolist()
        targets = sides.targets[row][: sides.target_lengths[row]].tolist()
        assert inputs[-1] == EOS and targets[-1] == EOS
        assert (sides.inputs[row][sides.input_lengths[row] :] == PAD).all()
        assert rebuilt(inputs, targets) == list(range(2, 2 + length))
        shown = [token for token in inputs if token in SENTINELS]
        assert shown == SENTINELS[: len(shown)].tolist()  # from the highest id down
        assert targets[0] == SENTINELS[0] and targets[-2] not in SENTINELS  # no sentinel closes the target


def test_a_single_span_is_at_the_end():
    hidden, _ = corrupted([10] * 50)
    assert (hidden.sum(1) == 2).all() and hidden[:, -2:].all()


@pytest.mark.parametrize(("density", "mean_length"), [(0.15, 3.0), (0.5, 3.0), (0.8, 1.0), (0.15, 1.0)])
def test_spans_never_outnumber_hidden_or_visible_tokens_or_sentinels(density, mean_length):
    lengths = np.arange(0, 1500)
    hidden, spans = span_counts(lengths, density, mean_length, 100)
    assert (spans <= hidden).all() and (spans <= lengths - hidden).all() and (spans <= 100).all()
    assert (hidden[2:] >= 1).all() and (hidden[2:] <= lengths[2:] - 1).all() and (spans[2:] >= 1).all()
    assert spans.max() == 100 or lengths.max() * density / mean_length < 100


def test_a_row_of_one_or_no_token_hides_nothing():
    _, sides = corrupted([1, 0, 20])
    rows = [side[row][: lengths[row]].tolist() for row in (0, 1) for side, lengths in (sides[:2], sides[2:])]
    assert rows == [[2, EOS], [EOS], [EOS], [EOS]]


def test_a_row_is_corrupted_the_same_in_any_batch():
    lengths = np.array([568, 100, 300])
    whole, _ = corrupted(lengths, rows=[7, 8, 9])
    for row in range(3):
        alone, _ = corrupted(lengths[row : row + 1], rows=[7 + row])
        assert np.array_equal(alone[0], whole[row, : lengths[row]])


def test_too_few_inputs_say_so():
    with pytest.raises(ValueError, match=r"at least 3 tokens, got 2: raise collate\.max_tokens"):
        lengths_for(2, density=0.15, mean_length=3.0)
