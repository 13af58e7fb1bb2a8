"""Losses of joint embeddings are their closed forms: plain loops, numpy's statistics, the papers' pseudocode."""

import itertools
import math

import numpy as np
import pytest
import torch

from pretraining.objectives.losses.decorrelation import (
    covariance_penalty,
    cross_correlation,
    off_diagonal_squares,
    variance_hinge,
)
from pretraining.objectives.losses.distillation import cross_entropy_of_views, divergence_from_mean
from pretraining.objectives.losses.regression import cosines
from pretraining.objectives.losses.sinkhorn import sinkhorn
from tests.ranks import in_ranks, start_group


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- regression --------------------------------------------------------------------------------------------------------


def test_cosines_are_those_of_numpy_and_at_least_single():
    first, second = drawn(5, 4), drawn(5, 4, seed=1)
    expected = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(first.numpy(), second.numpy())]  # noqa: B905
    assert torch.allclose(cosines(first, second), torch.tensor(expected, dtype=torch.float64), atol=1e-12)
    assert cosines(first.bfloat16(), second.bfloat16()).dtype == torch.float32
    assert torch.allclose((first / first.norm(dim=1, keepdim=True) - second / second.norm(dim=1, keepdim=True)).square()
                          .sum(1), 2 - 2 * cosines(first, second))  # fmt: skip


# -- second moments ----------------------------------------------------------------------------------------------------


def test_variance_and_covariance_of_four_points_by_hand():
    """Columns (0, 2, 0, 2) and (1, 1, -1, -1): variances 4/3 each with N - 1, and no covariance."""
    points = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, -1.0], [2.0, -1.0]], dtype=torch.float64)
    assert variance_hinge(points) == 0.0
    assert variance_hinge(points / 2) == pytest.approx(1 - math.sqrt(1 / 3 + 1e-4))
    assert covariance_penalty(points) == pytest.approx(0.0, abs=1e-12)
    tilted = torch.stack([points[:, 0], points[:, 0]], 1)  # covariance 4/3, counted twice, over D = 2
    assert covariance_penalty(tilted) == pytest.approx((4 / 3) ** 2)


def test_variance_and_covariance_are_numpy_s():
    points = drawn(9, 5) * torch.tensor([0.1, 0.5, 1.0, 2.0, 0.9]) + 3
    matrix = np.cov(points.numpy().T)
    assert covariance_penalty(points) == pytest.approx((matrix**2).sum() / 5 - (np.diag(matrix) ** 2).sum() / 5)
    assert variance_hinge(points) == pytest.approx(np.maximum(0, 1 - np.sqrt(np.diag(matrix) + 1e-4)).mean())


def test_an_embedding_collapsed_to_a_point_has_the_hinge_at_its_top_and_no_gradient():
    points = torch.ones(6, 3, dtype=torch.float64, requires_grad=True)
    hinge = variance_hinge(points)
    hinge.backward()
    assert hinge.item() == pytest.approx(0.99) and points.grad.abs().max() == 0


def test_cross_correlation_is_numpy_s():
    first, second = drawn(50, 4), drawn(50, 4, seed=1)
    second = 0.5 * first + second
    expected = np.corrcoef(first.numpy().T, second.numpy().T)[:4, 4:]
    assert np.allclose(cross_correlation(first, second, epsilon=0.0).numpy(), expected, atol=1e-12)
    slightly = cross_correlation(first, first).diagonal()  # var / (var + epsilon)
    assert torch.allclose(slightly, first.var(0, correction=0) / (first.var(0, correction=0) + 1e-5), atol=1e-12)


def test_redundancy_of_independent_views_is_d_times_d_minus_1_over_n():
    found = [
        off_diagonal_squares(cross_correlation(drawn(256, 64, seed=n), drawn(256, 64, seed=n + 99))) for n in range(8)
    ]
    assert np.mean(found) == pytest.approx(64 * 63 / 256, rel=0.05)


# -- prototypes --------------------------------------------------------------------------------------------------------


def test_cross_entropy_over_pairs_of_views_is_that_of_loops():
    targets, logits = drawn(2, 3, 5).softmax(-1), drawn(4, 3, 5, seed=1)
    expected = []
    for image in range(3):
        pairs = [(q, v) for q, v in itertools.product(range(2), range(4)) if q != v]
        assert len(pairs) == 6
        terms = [-(targets[q, image] * logits[v, image].softmax(-1).log()).sum() for q, v in pairs]
        expected.append(torch.stack(terms).mean())
    assert torch.allclose(cross_entropy_of_views(targets, logits), torch.stack(expected), atol=1e-12)


def test_a_student_that_knows_nothing_pays_log_k():
    found = cross_entropy_of_views(drawn(2, 3, 7).softmax(-1), torch.zeros(5, 3, 7, dtype=torch.float64))
    assert torch.allclose(found, torch.full((3,), math.log(7), dtype=torch.float64))


def test_divergence_is_zero_where_all_say_the_same_and_log_k_where_each_says_another():
    entropy, divergence = divergence_from_mean(torch.full((6, 4), 0.25))
    assert (float(entropy), float(divergence)) == pytest.approx((math.log(4), 0.0), abs=1e-6)
    entropy, divergence = divergence_from_mean(torch.eye(4))
    assert (float(entropy), float(divergence)) == pytest.approx((0.0, math.log(4)), abs=1e-6)
    rows = drawn(6, 4).softmax(-1)
    expected = (rows * (rows / rows.mean(0)).log()).sum(1).mean()
    assert divergence_from_mean(rows)[1] == pytest.approx(float(expected))


def as_published(scores, epsilon, iterations):
    """The pseudocode of SwAV's appendix A.1, in float64 and without a guard against overflow."""
    q = np.exp(scores.numpy() / epsilon).T
    q /= q.sum()
    count, batch = q.shape
    for _ in range(iterations):
        q /= q.sum(1, keepdims=True)
        q /= count
        q /= q.sum(0, keepdims=True)
        q /= batch
    return torch.from_numpy((q * batch).T)


@pytest.mark.parametrize("iterations", [1, 3])
def test_assignments_are_those_of_the_published_pseudocode(iterations):
    scores = drawn(12, 5) * 0.3
    assert torch.allclose(sinkhorn(scores, 0.05, iterations), as_published(scores, 0.05, iterations), atol=1e-9)


def test_assignments_do_not_overflow_and_ignore_what_is_added_to_all_scores():
    scores = drawn(12, 5)
    plan = sinkhorn(scores, 0.04)
    assert torch.allclose(sinkhorn(scores + 1000, 0.04), plan, atol=1e-7)
    large = sinkhorn((scores * 100).float(), 0.04)
    assert large.isfinite().all() and torch.allclose(large.sum(1), torch.ones(12))
    # A maximum for each example, instead of for all, is another plan after three iterations.
    other = sinkhorn(scores - scores.amax(1, keepdim=True), 0.5)
    assert (other - sinkhorn(scores, 0.5)).abs().max() > 1e-3


def test_prototypes_get_equal_shares_and_examples_one_each():
    plan = sinkhorn(drawn(40, 5) * 0.3, 0.2, 200)
    assert torch.allclose(plan.sum(1), torch.ones(40, dtype=torch.float64))
    assert torch.allclose(plan.sum(0), torch.full((5,), 8.0, dtype=torch.float64), atol=1e-6)


def assigned_by_rank(rank, world, parts):
    start_group(rank, world)
    return sinkhorn(torch.from_numpy(parts[rank]), 0.05).numpy()


def test_two_ranks_with_different_numbers_of_examples_assign_as_one_process():
    scores = drawn(9, 4) * 0.3
    parts = [scores[:2].numpy(), scores[2:].numpy()]
    found = np.concatenate(in_ranks(assigned_by_rank, 2, parts))
    assert np.allclose(found, sinkhorn(scores, 0.05).numpy(), atol=1e-12)
    alone = np.concatenate([sinkhorn(torch.from_numpy(part), 0.05).numpy() for part in parts])
    assert abs(found - alone).max() > 1e-2
