"""Splits of any data: what sources call them, and what stands for those that are missing."""

import numpy as np
import pytest

from pretraining.data.splits import SPLIT_ALIASES, SPLITS, carved, missing_shares, names_of_splits, split_of, stratified

TEXTS = [f"text {number}" for number in range(2000)]


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (["train", "validation", "test"], {"train": "train", "validation": "validation", "test": "test"}),
        (["training", "dev", "other"], {"train": "training", "validation": "dev"}),
        ({"val": 1, "validation": 2, "valid": 3}, {"validation": "validation"}),
        (["testing", "train", "training"], {"train": "train", "test": "testing"}),
        ([], {}),
    ],
)
def test_a_source_s_splits_are_found_by_any_of_their_names_the_usual_one_first(there, found):
    assert names_of_splits(there) == found


def test_no_name_stands_for_two_splits_and_the_usual_one_is_ours():
    names = [name for aliases in SPLIT_ALIASES.values() for name in aliases]
    assert len(set(names)) == len(names) and tuple(aliases[0] for aliases in SPLIT_ALIASES.values()) == SPLITS


def test_shares_are_of_the_splits_that_are_missing():
    assert missing_shares([], validation=0.2, test=0.1) == {"validation_share": 0.2, "test_share": 0.1}
    assert missing_shares(["train", "test"], validation=0.2, test=0.1) == {"validation_share": 0.2, "test_share": 0.0}


def test_training_examples_are_parted_by_their_text_and_splits_that_are_given_are_whole():
    shares = missing_shares(["train", "test"], validation=0.2, test=0.1)
    train, validation = (list(carved(TEXTS, split, ["train", "test"], shares)) for split in ("train", "validation"))
    assert sorted(train + validation) == sorted(TEXTS)
    assert abs(len(validation) / len(TEXTS) - 0.2) < 4 * (0.2 * 0.8 / len(TEXTS)) ** 0.5
    assert list(carved(TEXTS, "test", ["train", "test"], shares)) == TEXTS
    pairs = [(number, text) for number, text in enumerate(TEXTS)]
    again = carved(pairs, "validation", ["train", "test"], shares, text=lambda pair: pair[1])
    assert [text for _, text in again] == validation


def test_a_text_is_in_the_split_that_its_hash_says_and_a_larger_share_keeps_what_a_smaller_one_had():
    small, large = ({t for t in TEXTS if split_of(t, validation_share=0.0, test_share=s) == "test"} for s in (0.1, 0.3))
    assert small < large
    assert all(split_of(f"  {text}\n", validation_share=0.0, test_share=0.1) == "test" for text in small)


def test_each_class_is_in_each_split_in_its_share():
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    rows = stratified(labels, validation_share=0.1, test_share=0.2)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(160))
    assert {split: np.bincount(labels[part]).tolist() for split, part in rows.items()} == {
        "train": [70, 35, 7],
        "validation": [10, 5, 1],
        "test": [20, 10, 2],
    }
