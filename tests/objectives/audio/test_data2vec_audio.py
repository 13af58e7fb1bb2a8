"""data2vec: targets written out, a teacher that follows, the same step however it is split."""

import copy

import pytest
import torch
from torch.nn import functional as F

from pretraining.objectives.audio.data2vec_audio import deviation
from tests.objectives.audio.small_audio import batch_of, data2vec
from tests.one_step import assert_same_gradient, gradient_of


@torch.no_grad()
def test_targets_are_normalised_feed_forward_outputs_of_the_whole_recording():
    model = data2vec(top_layers=1).eval()
    batch = batch_of((0, 1, 2))
    targets = model.targets(batch)
    for row, length in enumerate(batch["inputs"]["lengths"].tolist()):
        encoder = copy.deepcopy(model.teacher.backbone).eval()
        kept = []
        encoder.model.encoder.layers[-1].feed_forward.register_forward_hook(lambda _, __, out: kept.append(out))  # noqa: B023
        encoder(batch["inputs"]["waves"][row : row + 1, :length])
        expected = F.instance_norm(kept[0].transpose(1, 2)).transpose(1, 2)[0]
        torch.testing.assert_close(targets[row, : len(expected)], expected, rtol=0, atol=1e-5)


def test_the_loss_is_the_squared_error_at_hidden_frames_over_the_root_of_the_width():
    model = data2vec().eval()
    batch = batch_of((0, 1, 2))
    mask = batch["inputs"]["mask"]
    guesses = model.predict(model.backbone(**batch["inputs"]).positions)[mask]
    expected = (guesses - model.targets(batch)[mask]).square().sum() / 4.0  # of a width of 16
    term = model.loss(batch).terms["squared_error"]
    torch.testing.assert_close(term.total, expected)
    assert term.count == mask.sum()


def test_the_teacher_takes_no_gradient_and_follows_the_step(tmp_path):
    model = data2vec()
    before = {name: value.clone() for name, value in model.teacher.named_parameters()}
    model.double()
    gradient = gradient_of(model, [batch_of((0, 1, 2))], tmp_path)
    assert not any(name.startswith("teacher") for name in gradient)
    moved = dict(model.teacher.named_parameters())
    name = "backbone.model.encoder.layers.0.attention.q_proj.weight"
    expected = before[name].double() - 0.01 * torch.from_numpy(gradient[name])  # momentum 0.99 after the only step
    torch.testing.assert_close(moved[name], expected, rtol=0, atol=1e-6)


def test_frames_that_are_alike_have_no_deviation():
    real = torch.tensor([[True, True, False]])
    vectors = torch.tensor([[[1.0, 5.0], [3.0, 5.0], [99.0, 99.0]]])
    assert deviation(vectors, real).item() == pytest.approx(0.5)  # 1 and 0
    with pytest.raises(ValueError, match=r"top_layers=3 .*has 2 layers"):
        data2vec(top_layers=3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return gradient_of(data2vec(), [batch_of(range(8))], tmp_path_factory.mktemp("whole"))


def test_the_gradient_of_micro_batches_is_that_of_the_step(whole, tmp_path):
    assert_same_gradient(whole, gradient_of(data2vec(), [batch_of((0, 1, 2)), batch_of((3, 4, 5, 6, 7))], tmp_path))
