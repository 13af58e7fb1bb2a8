"""Masked units: cross-entropy over hidden frames alone, the same however a step is split."""

import math

import pytest
import torch
from torch.nn import functional as F

from tests.objectives.audio.small_audio import batch_of, codebook, masked_units
from tests.one_step import assert_same_gradient, gradient_of


def batch(rows):
    return batch_of(rows, codebook=codebook())


def test_the_loss_is_plain_cross_entropy_of_cosines_at_hidden_frames():
    model = masked_units().eval()
    given = batch((0, 1, 2))
    positions = model.backbone(**given["inputs"]).positions
    total, right, count = 0.0, 0, 0
    for row, hidden in enumerate(given["hidden"].tolist()):
        for place in range(hidden):
            guess = model.project(positions[row, given["places"][row, place]])
            scores = F.cosine_similarity(guess[None], model.unit_vectors) / 0.1
            total -= scores.log_softmax(0)[given["codes"][row, place]].item()
            right, count = right + int(scores.argmax() == given["codes"][row, place]), count + 1
    loss = model.loss(given)
    assert loss.terms["masked_units"].total.item() == pytest.approx(total, rel=1e-5)
    assert (
        loss.terms["masked_units"].count
        == count
        == given["inputs"]["mask"].sum()
        == model.counts(given)["masked_units"]
    )
    assert loss.metrics["accuracy"].total == right
    assert loss.metrics["chance"].total.item() / count == pytest.approx(math.log(6))


def test_what_is_hidden_is_not_read():
    model = masked_units().eval()
    given = batch((0, 1))
    hidden = given["inputs"]["mask"][..., None]
    backbone = model.backbone
    frames, valid = backbone.stem(given["inputs"]["waves"], given["inputs"]["lengths"])
    normed = backbone.normed(frames)
    other = torch.where(hidden, torch.randn_like(normed), normed)
    same = [backbone.encode(each, valid, given["inputs"]["mask"]).positions for each in (normed, other)]
    torch.testing.assert_close(*same)
    assert not torch.allclose(backbone.encode(other, valid, None).positions, same[0])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return gradient_of(masked_units(), [batch(range(8))], tmp_path_factory.mktemp("whole"))


def test_the_gradient_of_micro_batches_is_that_of_the_step(whole, tmp_path):
    assert_same_gradient(whole, gradient_of(masked_units(), [batch((0, 1)), batch((2, 3, 4, 5, 6, 7))], tmp_path))
