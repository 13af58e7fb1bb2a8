"""NT-Xent: against closed forms, a slow reference and lightly's; in tiles, on two processes, and with positives of the
same class.
"""

import math
from itertools import product

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pretraining.objectives.losses.nt_xent import nt_xent
from tests.ranks import in_ranks, start_group


def unit_views(images=5, views=2, dim=7, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(images, views, dim, dtype=torch.float64, generator=generator), dim=-1)


def slow(views, temperature, *, labels=None, decoupled=False) -> torch.Tensor:
    """The definition, one anchor and one positive at a time."""
    places = [(image, view) for image in range(views.shape[0]) for view in range(views.shape[1])]
    total = torch.zeros((), dtype=views.dtype)
    for anchor in places:
        others = [place for place in places if place != anchor]
        if labels is None:
            positives = [place for place in others if place[0] == anchor[0]]
        else:
            positives = [place for place in others if labels[place[0]] == labels[anchor[0]]]
        denominator = [place for place in others if not (decoupled and place in positives)]
        against = sum(torch.exp(views[anchor] @ views[place] / temperature) for place in denominator)
        for positive in positives:
            total = total - torch.log(torch.exp(views[anchor] @ views[positive] / temperature) / against) / len(
                positives
            )
    return total


@pytest.mark.parametrize("tile", [1, 1 << 24])
@pytest.mark.parametrize(("supervised", "decoupled"), product([False, True], repeat=2))
def test_views_of_other_images_may_stand_for_several(supervised, decoupled, tile):
    """Every image is there three times beside the anchor's own: the denominator of a batch with two copies of each."""
    views, labels = unit_views(images=4), torch.tensor([0, 1, 0, 1]) if supervised else None
    found = nt_xent(views, 0.3, labels=labels, decoupled=decoupled, others_stand_for=3.0, tile=tile)
    expected = torch.zeros((), dtype=torch.float64)
    places = [(image, view) for image in range(4) for view in range(2)]
    for anchor in places:
        others = [place for place in places if place != anchor]
        positives = [p for p in others if (p[0] == anchor[0] if labels is None else labels[p[0]] == labels[anchor[0]])]
        exps = {place: torch.exp(views[anchor] @ views[place] / 0.3) for place in others}
        kept = [place for place in others if not (decoupled and place in positives)]
        against = sum(exps[place] * (1.0 if place[0] == anchor[0] else 3.0) for place in kept)
        expected = expected - sum(torch.log(exps[place] / against) for place in positives) / len(positives)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    alike = F.normalize(torch.ones(5, 2, 7, dtype=torch.float64), dim=-1)
    at_13_images = nt_xent(alike, 0.3, others_stand_for=12 / 4).item() / 10
    assert at_13_images == pytest.approx(math.log(2 * 13 - 1)), "5 images that stand for the 13 of a training step"


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("images", [2, 16])
def test_identical_and_orthonormal_rows_give_log_of_the_number_of_candidates(images, temperature):
    identical = F.normalize(torch.ones(images, 2, 64, dtype=torch.float64), dim=-1)
    orthonormal = torch.eye(64, dtype=torch.float64)[: 2 * images].view(images, 2, 64)
    for views in (identical, orthonormal):
        mean = nt_xent(views, temperature).item() / (2 * images)
        assert abs(mean - math.log(2 * images - 1)) < 1e-6


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("supervised", [False, True])
@pytest.mark.parametrize("views", [2, 3, 4])
def test_the_loss_is_its_definition_in_value_and_gradient(views, supervised, decoupled):
    ours = unit_views(views=views).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    labels = torch.tensor([0, 1, 0, 2, 1]) if supervised else None
    value = nt_xent(ours, 0.3, labels=labels, decoupled=decoupled)
    expected = slow(theirs, 0.3, labels=labels, decoupled=decoupled)
    value.backward()
    expected.backward()
    assert abs(value.item() - expected.item()) < 1e-9
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-9)


def test_the_gradient_is_that_of_finite_differences():
    views = unit_views(images=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda views: nt_xent(views, 0.5), [views])


def test_views_that_agree_and_images_that_differ_bring_the_loss_to_its_minimum():
    apart = torch.eye(8, dtype=torch.float64)[:, None].repeat(1, 2, 1)
    expected = math.log(math.exp(1 / 0.1) + 14) - 1 / 0.1
    assert abs(nt_xent(apart, 0.1).item() / 16 - expected) < 1e-9


def test_single_precision_survives_a_low_temperature():
    views = unit_views(images=64, dim=16)
    exact, single = nt_xent(views, 0.01).item(), nt_xent(views.float(), 0.01).item()
    assert abs(single - exact) / exact < 1e-5


def test_lightlys_loss_is_our_mean_over_anchors():
    loss = pytest.importorskip("lightly.loss", reason="lightly is not installed").NTXentLoss(temperature=0.2)
    views = torch.randn(17, 2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    ours, theirs = views.clone().requires_grad_(), views.clone().requires_grad_()
    value = nt_xent(F.normalize(ours, dim=-1), 0.2) / 34
    expected = loss(theirs[:, 0], theirs[:, 1])
    value.backward()
    expected.backward()
    assert abs(value.item() - expected.item()) < 1e-9
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-9)


# -- in tiles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("supervised", "decoupled"), product([False, True], repeat=2))
@pytest.mark.parametrize("tile", [1, 50, 64])
def test_tiles_give_the_value_and_the_gradient_of_the_whole(tile, supervised, decoupled):
    views, labels = unit_views(images=10, views=3), torch.arange(10) % 4 if supervised else None
    whole, tiled = views.clone().requires_grad_(), views.clone().requires_grad_()
    expected = nt_xent(whole, 0.2, labels=labels, decoupled=decoupled)
    found = nt_xent(tiled, 0.2, labels=labels, decoupled=decoupled, tile=tile)
    expected.backward()
    (2.0 * found).backward()
    assert abs(found.item() - expected.item()) < 1e-10
    torch.testing.assert_close(tiled.grad, 2.0 * whole.grad, rtol=0, atol=1e-12)


class Largest(TorchDispatchMode):
    """Remembers the most numbers that any operation gave."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = function(*args, **(kwargs or {}))
        self.numbers = max(
            [self.numbers, *(leaf.numel() for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor))]
        )
        return given


def largest(images, tile):
    views = unit_views(images=images, dim=8).requires_grad_()
    with Largest() as seen:
        nt_xent(views, 0.2, tile=tile).backward()
    return seen.numbers


def test_no_intermediate_is_larger_than_a_tile_whatever_the_batch():
    assert largest(images=64, tile=1 << 20) == 128 * 128
    assert largest(images=64, tile=4096) == 4096
    assert largest(images=256, tile=4096) == 4096 == 512 * 8  # a tile, and the representations themselves
    assert largest(images=1024, tile=4096) == 2048 * 8  # from here on it is the representations


# -- two processes -----------------------------------------------------------------------------------------------------


def parts_of(rank, world, cases):
    start_group(rank, world)
    mine, found = slice(3 * rank, 3 * rank + 3), []
    for labels, decoupled, tile in cases:
        views = unit_views(images=6)[mine].clone().requires_grad_()
        total = nt_xent(views, 0.3, labels=None if labels is None else labels[mine], decoupled=decoupled, tile=tile)
        total.backward()
        found.append((total.item(), views.grad.numpy()))
    return found


def test_two_processes_give_the_loss_and_the_gradient_of_one():
    cases = list(product([None, torch.tensor([0, 1, 1, 0, 2, 2])], [False, True], [1 << 20, 13]))
    first, second = in_ranks(parts_of, 2, cases)
    for (labels, decoupled, _), (above, upper), (below, lower) in zip(cases, first, second, strict=True):
        whole = unit_views(images=6).requires_grad_()
        total = nt_xent(whole, 0.3, labels=labels, decoupled=decoupled)
        total.backward()
        assert abs(above + below - total.item()) < 1e-9
        torch.testing.assert_close(
            torch.cat([torch.from_numpy(upper), torch.from_numpy(lower)]), whole.grad, rtol=0, atol=1e-9
        )


def refusal_of(rank, world):
    start_group(rank, world)
    with pytest.raises(ValueError) as refused:
        nt_xent(unit_views(images=3 + rank), 0.3)
    return str(refused.value)


def test_ranks_with_different_numbers_of_images_are_refused_with_their_numbers():
    for message in in_ranks(refusal_of, 2):
        assert "ranks contrast [3, 4] images" in message and "choose a batch size that they share evenly" in message


def test_a_single_image_has_no_negatives_to_be_decoupled_from():
    with pytest.raises(ValueError, match="at least 2 images per step"):
        nt_xent(unit_views(images=1), 0.3, decoupled=True)
    assert nt_xent(unit_views(images=1), 0.3).item() == 0.0
