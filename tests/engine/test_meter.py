"""What the log says of a loss's terms."""

import torch

from pretraining.engine.batch import Loss, Term
from pretraining.engine.meter import Meter


def term(total: float, count: float, weight: float = 1.0) -> Term:
    return Term(torch.tensor(total), torch.tensor(count), weight)


def test_means_are_sums_over_counts_and_what_counted_nothing_is_its_sum() -> None:
    """A detector's batch without objects has a loss, of what is not there; the step divides it by one, too."""
    meter = Meter()
    for _ in range(2):
        meter.add(Loss({"counted": term(3.0, 0.25, 2.0), "empty": term(1.5, 0.0)}))
    assert meter.read("train") == {"train/loss": 27.0, "train/counted": 12.0, "train/empty": 3.0}
    assert meter.read("train") == {}
