"""Sources of anything in given shares: each row of them once before any again, the same however it is asked for."""

from typing import NamedTuple

import numpy as np
import pytest

from pretraining.data.loader import StepLoader
from pretraining.data.mixture import MixedRows


class Signals(NamedTuple):
    values: np.ndarray  # [B, 2]
    labels: np.ndarray | None


class Source:
    """Rows that say which source, epoch and number they are; later epochs have a row more."""

    def __init__(self, name, rows):
        self.name, self.rows = name, rows

    def count(self, epoch):
        return self.rows + epoch

    def read(self, epoch, rows):
        return Signals(np.stack([np.full_like(rows, self.name), np.full_like(rows, epoch), rows], 1), None)


def take(examples, rows):
    return Signals(examples.values[rows], None)


def mixed(seed=1):
    return MixedRows([Source(0, 60), Source(1, 600)], np.array([0.7, 0.3]), seed=seed, take=take)


def test_an_epoch_is_as_long_as_the_scarcest_source_allows_and_has_each_in_its_share():
    source = mixed()
    values = source.read(0, np.arange(source.count(0))).values
    assert source.count(0) == 85 and np.bincount(values[:, 0]).tolist() == [60, 25]
    assert len(np.unique(values, axis=0)) == 85


def test_a_source_goes_on_where_it_was_until_all_of_it_was_served():
    source = mixed()
    epochs = [source.read(epoch, np.arange(85)).values for epoch in range(24)]
    served = np.concatenate(epochs)
    first = served[(served[:, 0] == 1) & (served[:, 1] == 0)][:, 2]
    assert sorted(first) == list(range(600)), "24 epochs of 25 rows are the 600 that it has"
    assert [np.unique(part[part[:, 0] == 0][:, 1]).tolist() for part in epochs[:3]] == [[0], [1], [2]]


def test_rows_come_in_the_order_asked_for_and_do_not_depend_on_one_another():
    source, rows = mixed(), np.random.default_rng(0).permutation(85)
    together = source.read(3, rows).values
    assert all(np.array_equal(together[[place]], source.read(3, rows[[place]]).values) for place in range(85))
    assert not np.array_equal(together, mixed(seed=2).read(3, rows).values)


def test_a_loader_serves_it_like_any_source():
    loader = StepLoader(mixed(), lambda examples, keys: {"values": examples.values}, batch_size=17, max_steps=5, seed=1)
    values = np.concatenate([step.micro_batches[0]["values"] for step in loader])
    assert len(np.unique(values, axis=0)) == 85 and np.bincount(values[:, 0]).tolist() == [60, 25]


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.001, 0.999]])
def test_every_source_has_a_row_at_least(weights):
    source = MixedRows([Source(0, 3), Source(1, 5)], np.array(weights), seed=1, take=take)
    assert set(source.read(0, np.arange(source.count(0))).values[:, 0]) == {0, 1}
