"""Losses of pairs: against closed forms and plain definitions, in tiles, over two processes."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pretraining.objectives.losses.pairs import Sides, clip_loss, siglip_loss
from tests.ranks import in_ranks, start_group

LOSSES = {"clip": clip_loss, "smoothed": lambda sides, **tile: clip_loss(sides, label_smoothing=0.1, **tile),
          "siglip": siglip_loss}  # fmt: skip


def vectors(count=6, width=5, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    unit = F.normalize(torch.randn(count, 2, width, dtype=torch.float64, generator=generator), dim=-1)
    return unit * torch.tensor([4.0, 1.0], dtype=torch.float64)[:, None]


def numbers(count=6, several=True):
    """Captions 0 .. n-1; with `several`, images 0 and 1 share one, and image 2 has those of 3 and one never read."""
    caption = torch.arange(count)
    captions = torch.stack([caption, *[torch.full_like(caption, -1)] * 2], 1)
    if several:
        caption[1] = captions[1, 0] = 0
        captions[2, 1], captions[2, 2] = 3, 99
    return caption, captions


def numbered(count=6, several=True, rows=slice(None)):
    caption, captions = numbers(count, several)
    false = torch.full((count, 0), -1)
    return {"caption": caption[rows], "captions": captions[rows], "false": false[rows]}


def sides(given, several=True, across_ranks=False) -> Sides:
    return Sides.gathered(given, numbered(len(given), several), across_ranks)


def belongs(several=True, count=6):
    """The same as a table. bool [images, captions]"""
    caption, captions = (part.tolist() for part in numbers(count, several))
    return torch.tensor([[text in own for text in caption] for own in captions])


def test_several_captions_and_shared_ones_are_all_right():
    table = belongs()
    assert table.sum() == 6 + 2 + 1  # each one's own; 0 and 1 share; 2 has that of 3
    found = sides(vectors())
    assert torch.equal(found.positive_of_first(slice(0, 6)), table)
    assert torch.equal(found.positive_of_second(slice(0, 6)), table.T)
    assert torch.equal(found.positive_of_first(slice(2, 4)), table[2:4])


def open_clip_definition(given):
    """Open_clip's ClipLoss of one process, as its documentation describes: features, a scale, labels in order."""
    image, text = given[:, 0], given[:, 1]
    logits_per_image, logits_per_text = image @ text.T, text @ image.T
    labels = torch.arange(len(given))
    return (F.cross_entropy(logits_per_image, labels) + F.cross_entropy(logits_per_text, labels)) / 2


def sigmoid_definition(given):
    """Algorithm 1 of Zhai et al.: labels of 1 on the diagonal and -1 elsewhere, divided by the number of pairs."""
    logits = given[:, 0] @ given[:, 1].T
    labels = 2 * torch.eye(len(given), dtype=given.dtype) - 1
    return -F.logsigmoid(labels * logits).sum() / len(given)


@pytest.mark.parametrize(("loss", "definition"), [(clip_loss, open_clip_definition), (siglip_loss, sigmoid_definition)])
def test_with_one_caption_each_it_is_the_published_loss_in_value_and_gradient(loss, definition):
    ours, theirs = vectors().requires_grad_(), vectors().requires_grad_()
    value = loss(sides(ours, several=False)).total / 6
    value.backward()
    expected = definition(theirs)
    expected.backward()
    assert abs(value.item() - expected.item()) < 1e-12 and expected > 0.1
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12)


def test_several_right_ones_share_the_target_and_smoothing_is_spread_over_all():
    given, table = vectors(), belongs().double()
    logits = given[:, 0] @ given[:, 1].T
    for smoothing in (0.0, 0.2):
        expected = 0.0
        for scores, right in ((logits, table), (logits.T, table.T)):
            for row in range(6):
                target = right[row] / right[row].sum() * (1 - smoothing) + smoothing / 6
                expected -= 0.5 * float((target * torch.log_softmax(scores[row], 0)).sum())
        assert abs(float(clip_loss(sides(given), label_smoothing=smoothing).total) - expected) < 1e-12


def test_closed_forms():
    """Equal vectors: ln N each. Right angles under a scale s: ln(1 + (n - 1) exp(-s))."""
    equal = torch.ones(5, 2, 1, dtype=torch.float64)
    assert abs(float(clip_loss(sides(equal, several=False)).total) / 5 - math.log(5)) < 1e-12
    apart = torch.eye(5, dtype=torch.float64)[:, None].repeat(1, 2, 1)
    apart[:, 0] *= 3.0
    expected = math.log(1 + 4 * math.exp(-3.0))
    assert abs(float(clip_loss(sides(apart, several=False)).total) / 5 - expected) < 1e-12


@pytest.mark.parametrize("count", [1, 4, 64])
def test_sigmoids_at_initialisation_cost_ten_and_a_little(count):
    """With a shift of -10 and vectors at right angles: ln(1 + e^10) + (n - 1) ln(1 + e^-10)."""
    given = torch.zeros(count, 2, 2 * count + 1, dtype=torch.float64)
    place = torch.arange(count)
    given[place, 0, place], given[place, 1, count + place] = 10.0, 1.0
    given[:, 0, -1], given[:, 1, -1] = -10.0, 1.0
    value = float(siglip_loss(sides(given, several=False)).total) / count
    assert abs(value - (10 + (count - 1) * math.exp(-10))) < 5e-5
    exact = math.log1p(math.exp(10)) + (count - 1) * math.log1p(math.exp(-10))
    assert abs(value - exact) < 1e-9


def test_sigmoids_count_every_right_one():
    given, table = vectors(), belongs()
    logits = given[:, 0] @ given[:, 1].T
    each = zip(logits.flatten().tolist(), table.flatten().tolist(), strict=True)
    expected = sum(math.log1p(math.exp(-value if right else value)) for value, right in each)
    assert abs(float(siglip_loss(sides(given)).total) - expected) < 1e-12


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("tile", [6, 12, 25])
def test_tiles_give_the_same_and_hold_no_more_than_one(loss, tile):
    whole, cut = vectors().requires_grad_(), vectors().requires_grad_()
    expected = loss(sides(whole))
    expected.total.backward()
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: held.append(kept.numel()) or kept, lambda kept: kept):
        found = loss(sides(cut), tile=tile)
    found.total.backward()
    assert abs(found.total.item() - expected.total.item()) < 1e-12
    torch.testing.assert_close(cut.grad, whole.grad, rtol=0, atol=1e-12)
    assert found.first_right == expected.first_right and found.second_right == expected.second_right
    assert max(held) <= vectors().numel() // 2  # the vectors of one side, and no similarities (36)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_right_ones_are_counted(loss):
    table = belongs()
    given = vectors()
    logits = given[:, 0] @ given[:, 1].T
    found = loss(sides(given))
    assert found.first_right == sum(table[row, logits[row].argmax()] for row in range(6))
    assert found.second_right == sum(table[logits[:, row].argmax(), row] for row in range(6))


def over_ranks(rank, world, sizes):
    start_group(rank, world)
    start, count = sum(sizes[:rank]), sizes[rank]
    rows = slice(start, start + count)
    answers = {}
    for name, loss in LOSSES.items():
        own = vectors()[rows].clone().requires_grad_()
        found = loss(Sides.gathered(own, numbered(rows=rows), across_ranks=True))
        found.total.backward()  # the sum over ranks is what each rank's gradient is of
        answers[name] = (found.total.item(), own.grad.numpy(), found.first_right.item(), found.second_right.item())
    return answers


def test_two_ranks_are_one_process():
    answers = in_ranks(over_ranks, 2, (3, 3))
    for name, loss in LOSSES.items():
        given = vectors().requires_grad_()
        whole = loss(sides(given))
        whole.total.backward()
        assert abs(sum(answer[name][0] for answer in answers) - whole.total.item()) < 1e-12
        np.testing.assert_allclose(np.concatenate([answer[name][1] for answer in answers]), given.grad, atol=1e-12)
        for place, right in ((2, whole.first_right), (3, whole.second_right)):
            assert sum(answer[name][place] for answer in answers) == right


def test_ranks_that_hold_different_numbers_are_refused():
    with pytest.raises(AssertionError, match=r"ranks contrast \[4, 2\]"):
        in_ranks(over_ranks, 2, (4, 2))


# -- false captions ----------------------------------------------------------------------------------------------------

FALSE = [[1000, 1001], [1002, -1], [4, -1], [-1, -1], [1003, -1], [-1, 1004]]  # of image 2 one that is true of 4


def with_false(seed=0, rows=slice(None)):
    given = torch.cat([vectors(seed=seed), vectors(seed=seed + 1)[:, 1:], vectors(seed=seed + 2)[:, 1:]], 1)
    return given[rows].clone().requires_grad_(), numbered(rows=rows) | {"false": torch.tensor(FALSE)[rows]}


def negclip_definition(given, smoothing):
    """NegCLIP written out: images are told from all captions and all false ones, captions from images alone."""
    there = torch.tensor(FALSE) >= 0
    candidates = torch.cat([given[:, 1], given[:, 2:][there]])
    false = torch.tensor([[number == 4 and image == 4 for number in torch.tensor(FALSE)[there]] for image in range(6)])
    table = torch.cat([belongs(), false], 1).double()
    total = 0.0
    for scores, right in ((given[:, 0] @ candidates.T, table), (given[:, 1] @ given[:, 0].T, belongs().T.double())):
        target = right / right.sum(1, keepdim=True) * (1 - smoothing) + smoothing / right.shape[1]
        total = total - 0.5 * (target * scores.log_softmax(1)).sum()
    return total


def sigmoid_with_false(given):
    there = torch.tensor(FALSE) >= 0
    total = siglip_loss(sides(given[:, :2])).total
    for image in range(6):
        for number, vector in zip(torch.tensor(FALSE)[there].tolist(), given[:, 2:][there], strict=True):
            right = number == 4 and image == 4
            total = total + F.softplus((-1.0 if right else 1.0) * (given[image, 0] * vector).sum())
    return total


HARD = {
    "clip": lambda given: negclip_definition(given, 0.0),
    "smoothed": lambda given: negclip_definition(given, 0.1),
    "siglip": sigmoid_with_false,
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("tile", [13, 1 << 20])
def test_images_are_told_from_all_false_captions_which_look_for_none(name, tile):
    (ours, batch), (theirs, _) = with_false(), with_false()
    found, expected = LOSSES[name](Sides.gathered(ours, batch, False), tile=tile).total, HARD[name](theirs)
    found.backward()
    expected.backward()
    assert abs(found.item() - expected.item()) < 1e-12
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12)
    assert (ours.grad[3, 2:] == 0).all() and (ours.grad[0, 2:].abs().sum(1) > 1e-6).all()


def hard_over_ranks(rank, world):
    start_group(rank, world)
    own, batch = with_false(rows=slice(3 * rank, 3 * rank + 3))
    answers = {}
    for name, loss in LOSSES.items():
        own.grad = None
        loss(Sides.gathered(own, batch, across_ranks=True)).total.backward()
        answers[name] = own.grad.numpy().copy()
    return answers


def test_two_ranks_share_their_false_captions():
    answers = in_ranks(hard_over_ranks, 2)
    for name, loss in LOSSES.items():
        given, batch = with_false()
        loss(Sides.gathered(given, batch, False)).total.backward()
        np.testing.assert_allclose(np.concatenate([answer[name] for answer in answers]), given.grad, atol=1e-12)
