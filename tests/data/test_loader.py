"""Which examples a step holds is decided by its place in the run: not by workers, ranks, micro-batches or the past."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from pretraining.data.batches import check_batch_size
from pretraining.data.loader import EvalLoader, StepLoader
from pretraining.data.source import FirstRows
from pretraining.random import uniform


class Numbers(NamedTuple):
    values: np.ndarray


class Counting:
    """A source whose rows are their numbers; epoch e has 10 + e % 3 rows, as plans of pairs have different counts."""

    def count(self, epoch):
        return 10 + epoch % 3

    def read(self, epoch, rows):
        return Numbers(rows + 1000 * epoch)


def collate(examples, keys):
    return {
        "values": torch.from_numpy(examples.values),
        "drawn": torch.from_numpy(uniform(keys, "test", 2)),
        "units": len(examples.values),
    }


def loader(**options):
    return StepLoader(Counting(), collate, **{"batch_size": 4, "max_steps": 20, "seed": 7, **options})


def served(steps):
    """List (number, values, draws) of steps, micro-batches one after the other."""
    return [
        (
            step.number,
            torch.cat([b["values"] for b in step.micro_batches]).tolist(),
            torch.cat([b["drawn"] for b in step.micro_batches]),
        )
        for step in steps
    ]


def assert_same(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert one[:2] == other[:2] and torch.equal(one[2], other[2])


def test_every_row_of_an_epoch_is_served_once_and_none_is_dropped():
    values = [value for _, chunk, _ in served(loader()) for value in chunk]
    position = 0
    for epoch in range(6):
        size = 10 + epoch % 3
        part = values[position : position + size]
        assert sorted(part) == [1000 * epoch + row for row in range(size)][: len(part)] or len(part) < size
        position += size
    assert len(values) == 80


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(workers):
    assert_same(served(loader()), served(loader(workers=workers)))


def test_micro_batches_cut_the_same_examples():
    assert_same(served(loader()), served(loader(accumulate=2)))
    assert [len(step.micro_batches) for step in loader(accumulate=2, max_steps=1)] == [2]


def test_ranks_share_each_chunk_of_the_same_examples():
    whole = served(loader(accumulate=2))
    parts = [list(loader(accumulate=2, ranks=(rank, 2))) for rank in range(2)]
    for number, (_, values, _) in enumerate(whole):
        chunks = [
            torch.cat([parts[rank][number].micro_batches[chunk]["values"] for rank in range(2)]) for chunk in range(2)
        ]
        assert torch.cat(chunks).tolist() == values


@pytest.mark.parametrize("stop", [1, 5, 13])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_loader_serves_what_remained(stop, workers):
    first = loader(workers=workers)
    iterator = iter(first)
    before = served([next(iterator) for _ in range(stop)])
    state = first.state_dict()
    assert state["step"] == stop
    second = loader(workers=2 - workers)
    second.load_state_dict(state)
    assert_same(served(loader()), before + served(second))


def test_another_seed_is_another_order():
    assert served(loader())[0][1] != served(loader(seed=8))[0][1]


def test_evaluation_sees_each_row_once_in_equally_many_batches_per_rank():
    for full, expected in ((False, 10), (True, 8)):
        rows, numbers = [], set()
        for rank in range(3):
            batches = list(EvalLoader(Counting(), collate, batch_size=4, ranks=(rank, 3), full_batches=full))
            numbers.add(len(batches))
            rows += [value for batch, share in batches if share for value in batch["values"].tolist()]
        assert len(numbers) == 1 and sorted(rows) == list(range(expected))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_what_is_compared_may_be_served_in_pieces(ranks):
    """10 rows in comparisons of 4, each in two pieces; a rank without one of its own repeats the last, not counted."""
    whole = list(EvalLoader(Counting(), collate, batch_size=4, full_batches=True))
    compared = {}
    for rank in range(ranks):
        served = EvalLoader(Counting(), collate, batch_size=4, full_batches=True, pieces=2, ranks=(rank, ranks))
        pieces = [(batch["values"].tolist(), share) for batch, share in served]
        assert len(pieces) == 2 * len(served) and served.pieces == 2
        for number, ((first, counted), (second, again)) in enumerate(zip(pieces[::2], pieces[1::2], strict=True)):
            assert len(first) == len(second) == 2 and counted == again
            if counted:
                compared[number * ranks + rank] = first + second
    assert compared == {number: batch["values"].tolist() for number, (batch, _) in enumerate(whole)}


def test_one_example_alone_cannot_be_compared():
    with pytest.raises(ValueError, match="has 1 row, and this objective compares examples: give at least 2"):
        EvalLoader(FirstRows(Counting(), 1), collate, batch_size=4, full_batches=True)


def test_evaluation_draws_do_not_depend_on_a_run():
    first, second = (next(iter(EvalLoader(Counting(), collate, batch_size=4)))[0]["drawn"] for _ in range(2))
    assert torch.equal(first, second)


def test_a_batch_size_that_does_not_divide_names_those_that_do():
    divides = (
        r"data\.batch_size=10 does not divide into 2 rank\(s\) x trainer\.accumulate=4: set data\.batch_size to 8 or 16"
    )
    with pytest.raises(ValueError, match=divides):
        check_batch_size(10, 4, 2)
