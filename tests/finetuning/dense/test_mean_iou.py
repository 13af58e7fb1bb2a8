"""Mean intersection over union is scikit-learn's, over all pixels of a set together."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from finetuning.metrics.segmentation import IGNORED, Confusions


def test_both_numbers_are_scikit_learn_s_over_the_whole_set():
    for seed in range(60):
        generator = np.random.default_rng(seed)
        classes = int(generator.integers(2, 9))
        own = generator.choice(classes, generator.integers(1, classes + 1), replace=False)  # some never occur
        shapes = [tuple(generator.integers(1, 30, 2)) for _ in range(generator.integers(1, 5))]
        truth = [generator.choice(own, shape) for shape in shapes]
        found = [
            np.where(generator.random(part.shape) < 0.5, part, generator.integers(0, classes, part.shape))
            for part in truth
        ]
        for part in truth:
            part[generator.random(part.shape) < 0.2] = IGNORED
        known, seen = (np.concatenate([part.reshape(-1) for part in parts]) for parts in (truth, found))
        judged = known != IGNORED
        if not judged.any():
            continue
        ours = Confusions(truth, found, classes)
        values = ours.numbers()
        assert values["miou"] == pytest.approx(jaccard_score(known[judged], seen[judged], average="macro"), abs=1e-12)
        assert values["pixel_accuracy"] == pytest.approx(accuracy_score(known[judged], seen[judged]), abs=1e-12)
        each = jaccard_score(known[judged], seen[judged], average=None, labels=np.arange(classes), zero_division=0)
        table = ours.table([str(number) for number in range(classes)])
        assert [row["iou"] or 0.0 for row in table.values()] == pytest.approx(each.tolist())
        assert sum(row["share"] for row in table.values()) == pytest.approx(1.0)


def test_it_is_not_the_mean_over_images():
    truth, found = [np.array([[0, 0]]), np.array([[0, 1]])], [np.array([[0, 0]]), np.array([[1, 1]])]
    # Over the set: class 0 has 2 of 3 pixels, class 1 has 1 of 2; over images it would be (1 + (0 + 1/2) / 2) / 2.
    assert Confusions(truth, found, 3).numbers() == {"miou": pytest.approx((2 / 3 + 1 / 2) / 2), "pixel_accuracy": 0.75}
    assert Confusions(truth, found, 3).table(["a", "b", "c"])["c"]["iou"] is None


def test_intervals_lie_around_the_number():
    generator = np.random.default_rng(0)
    truth = [generator.integers(0, 3, (6, 6)) for _ in range(50)]
    found = [np.where(generator.random((6, 6)) < generator.random(), part, 0) for part in truth]
    judged = Confusions(truth, found, 3)
    for name, (low, high) in judged.intervals().items():
        assert low < judged.numbers()[name] < high and high - low < 0.3, name
