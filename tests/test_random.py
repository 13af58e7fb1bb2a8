"""Philox against the published known-answer vectors, and draws that depend on their place alone."""

import numpy as np
import pytest
import torch

from pretraining.random import Keys, bits, integers, permuted, philox, uniform, word


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
@pytest.mark.parametrize("array", [np.array, torch.tensor])
def test_philox_gives_the_published_answers(counter, key, expected, array):
    drawn = philox(tuple(array([part]) for part in counter), key)
    assert tuple(int(part[0]) for part in drawn) == expected


def keys_of(rows: int, *, seed: int = 3, epoch: int = 1, stream: str = "train") -> Keys:
    return Keys(seed, stream, np.full(rows, epoch), np.arange(rows))


def test_numpy_and_torch_draw_the_same_numbers():
    keys = keys_of(50)
    for draw in (bits, uniform):
        assert np.array_equal(draw(keys, "a", 7, view=2), draw(keys.to("cpu"), "a", 7, view=2).numpy())
    assert np.array_equal(integers(keys, "a", 10, 7), integers(keys.to("cpu"), "a", 10, 7).numpy())


def test_a_draw_does_not_depend_on_its_batch_nor_on_how_many_are_drawn():
    keys = keys_of(50)
    rows = np.array([40, 3])
    assert np.array_equal(bits(keys, "a", 9)[rows], bits(keys.select(rows), "a", 9))
    assert np.array_equal(bits(keys, "a", 9)[:, :2], bits(keys, "a", 2))


def test_every_part_of_the_place_changes_the_draw():
    base = keys_of(40)
    others = [
        bits(keys_of(40, seed=4), "a"),
        bits(keys_of(40, epoch=2), "a"),
        bits(keys_of(40, stream="validation"), "a"),
    ]
    others += [bits(base, "b"), bits(base, "a", view=1), bits(base._replace(index=base.index + (1 << 32)), "a")]
    draws = np.concatenate([bits(base, "a"), *others], 1).ravel()
    assert len(set(draws.tolist())) > 0.999 * draws.size


def test_uniform_has_the_moments_of_a_uniform():
    drawn = uniform(keys_of(4000), "moments", 100)
    assert abs(drawn.mean() - 0.5) < 4 * np.sqrt(1 / 12 / drawn.size)
    assert abs(drawn.var() - 1 / 12) < 1e-3
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.07
    assert drawn.min() >= 0 and drawn.max() < 1


@pytest.mark.parametrize("size", [1, 2, 3, 10, 97, 1000])
def test_the_order_of_an_epoch_is_a_permutation_that_changes_with_the_epoch(size):
    order = permuted(np.arange(size), size, seed=1, epoch=0, stream="train")
    assert sorted(order.tolist()) == list(range(size))
    assert np.array_equal(
        order[size // 2 :], permuted(np.arange(size // 2, size), size, seed=1, epoch=0, stream="train")
    )
    if size >= 97:
        assert not np.array_equal(order, permuted(np.arange(size), size, seed=1, epoch=1, stream="train"))


def test_each_place_of_a_short_order_is_equally_likely():
    orders = np.stack([permuted(np.arange(5), 5, seed=seed, epoch=0, stream="train") for seed in range(1000)])
    counts = np.stack([np.bincount(orders[:, place], minlength=5) for place in range(5)])
    expected = 1000 / 5
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 45  # 16 degrees of freedom: p about 1e-4


def test_slots_are_told_apart_by_name():
    names = ["mask.order", "mask.fate", "mask.random_id", "span.anchor", "span.length", "crop.area", "order"]
    assert len({word(name) for name in names}) == len(names)
