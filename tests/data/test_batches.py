"""Steps by length: of rows that are about as long, as many as a step holds; a function of seed and place alone."""

import itertools

import numpy as np
import pytest
import torch

from pretraining.data.batches import GROUPS, LengthBatches, groups_by_length
from pretraining.data.loader import StepLoader
from pretraining.random import uniform
from tests.data.test_loader import Numbers, assert_same, served

MOST = 30.0
LENGTHS = np.random.default_rng(3).uniform(1.0, 10.0, 203)


class Lengthy:
    """Rows that are their numbers, and have lengths."""

    def __init__(self, lengths=LENGTHS, most=MOST):
        self.lengths, self.batches = lengths, LengthBatches(lengths, most, "data.batch_seconds")

    def count(self, epoch):
        return len(self.lengths)

    def read(self, epoch, rows):
        return Numbers(rows + 1000 * epoch)


def collate(examples, keys):
    drawn = torch.from_numpy(uniform(keys, "test", 2))
    rows = examples.values % 1000
    return {"values": torch.from_numpy(examples.values), "drawn": drawn, "units": float(LENGTHS[rows].sum())}


def loader(**options):
    return StepLoader(Lengthy(), collate, **{"batch_size": 4, "max_steps": 120, "seed": 7, **options})


PER_EPOCH = int(Lengthy().batches.behind[-1])


def test_every_epoch_serves_every_row_once():
    values = [np.array(chunk) for _, chunk, _ in served(loader(max_steps=2 * PER_EPOCH))]
    for epoch in range(2):
        part = np.concatenate(values[epoch * PER_EPOCH : (epoch + 1) * PER_EPOCH])
        assert sorted(part) == [1000 * epoch + row for row in range(len(LENGTHS))]


def test_no_step_holds_more_than_it_may_padding_included_and_few_hold_much_less():
    lengths = [LENGTHS[np.array(chunk) % 1000] for _, chunk, _ in served(loader(max_steps=PER_EPOCH))]
    padded = np.array([part.max() * len(part) for part in lengths])
    assert padded.max() <= MOST and np.median(padded) > 0.75 * MOST
    whole, random = LENGTHS.sum() / padded.sum(), LENGTHS.mean() / 10.0
    assert whole > 0.9 > 0.6 > random  # of what is computed is no padding
    assert max(part.max() - part.min() for part in lengths) < 3.5
    assert 1.3 * LENGTHS.sum() / MOST > PER_EPOCH


def test_groups_hold_about_as_much_each_and_all_rows():
    groups = groups_by_length(LENGTHS, MOST)
    sums = np.array([LENGTHS[group].sum() for group in groups])
    assert 2 <= len(groups) <= GROUPS and np.ptp(sums) < 20.0 + 10.0
    np.testing.assert_array_equal(np.sort(np.concatenate(groups)), np.arange(len(LENGTHS)))
    borders = [(LENGTHS[group].min(), LENGTHS[group].max()) for group in groups]
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(borders))
    assert [len(part) for part in groups_by_length(np.ones(3), 100.0)] == [3]


def test_neighbours_and_the_order_of_steps_change_with_epoch_and_seed():
    steps = [frozenset(value % 1000 for value in chunk) for _, chunk, _ in served(loader(max_steps=2 * PER_EPOCH))]
    first, second = steps[:PER_EPOCH], steps[PER_EPOCH:]
    assert len(set(first) & set(second)) < PER_EPOCH / 4
    longest = [LENGTHS[list(step)].max() for step in first]
    assert np.abs(np.corrcoef(longest, np.arange(PER_EPOCH))[0, 1]) < 0.5  # neither shortest nor longest first
    assert served(loader())[0][1] != served(loader(seed=8))[0][1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, PER_EPOCH - 1, PER_EPOCH, PER_EPOCH + 5])
def test_a_resumed_loader_serves_what_remained(stop, workers):
    first = loader(workers=workers, max_steps=PER_EPOCH + 20)
    iterator = iter(first)
    before = served([next(iterator) for _ in range(stop)])
    second = loader(max_steps=PER_EPOCH + 20)
    second.load_state_dict(first.state_dict())
    assert_same(served(loader(max_steps=PER_EPOCH + 20)), before + served(second))


def test_ranks_and_micro_batches_share_the_same_rows_in_equally_many_batches():
    whole = list(loader())
    parts = [list(loader(ranks=(rank, 2))) for rank in range(2)]
    cut = list(loader(accumulate=2))
    for number, step in enumerate(whole):
        values = step.micro_batches[0]["values"]
        shares = [part[number].micro_batches for part in parts]
        assert [len(share) for share in shares] == [1, 1] and all(len(share[0]["values"]) for share in shares)
        assert torch.equal(torch.cat([share[0]["values"] for share in shares]), values)
        assert torch.equal(torch.cat([batch["values"] for batch in cut[number].micro_batches]), values)
        assert sum(part[number].units for part in parts) == pytest.approx(step.units)
        assert sum(part[number].examples for part in parts) == step.examples == len(values)


def test_rows_per_step_are_those_of_an_epoch():
    batches = Lengthy().batches
    assert batches.rows_per_step == pytest.approx(len(LENGTHS) / PER_EPOCH)
    assert batches.batch_size == round(len(LENGTHS) / PER_EPOCH)


def test_steps_of_fewer_rows_than_micro_batches_are_refused():
    told = (
        r"data\.batch_seconds holds only 2 of the longest rows, fewer than 2 rank\(s\) x trainer\.accumulate=2: raise"
    )
    with pytest.raises(ValueError, match=told):
        StepLoader(Lengthy(), collate, batch_size=4, max_steps=9, seed=1, accumulate=2, ranks=(0, 2))
