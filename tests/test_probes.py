"""Solvers on fixed vectors agree with scikit-learn's, and measures of geometry with closed forms."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier

from pretraining import probes


def vectors(seed, count=300):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, 4, (count,), generator=generator)
    centres = torch.randn(4, 12, generator=torch.Generator().manual_seed(9))
    return centres[classes] + torch.randn(count, 12, generator=generator), classes


# -- solvers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [1e-3, 1e-1])
def test_logistic_regression_equals_scikit_learn(penalty):
    (train, classes), (test, truth) = vectors(0), vectors(1)
    ours = probes.logistic_regression(train, classes, 4, penalty)
    theirs = LogisticRegression(C=1 / (penalty * len(train)), max_iter=2000, tol=1e-8).fit(
        train.numpy(), classes.numpy()
    )
    shares = torch.softmax(ours(test.double()), 1).numpy()
    assert abs(shares - theirs.predict_proba(test.numpy())).max() < 1e-3
    assert abs((shares.argmax(1) == truth.numpy()).mean() - theirs.score(test.numpy(), truth.numpy())) <= 0.005


def test_a_start_at_a_neighbouring_penalty_ends_at_the_same_minimum():
    train, classes = vectors(0)
    cold = probes.logistic_regression(train, classes, 4, 1e-2)
    warm = probes.logistic_regression(train, classes, 4, 1e-2, probes.logistic_regression(train, classes, 4, 1e-1))
    assert torch.allclose(cold.weight, warm.weight, atol=1e-4) and cold.weight.abs().max() > 0.1


def test_standardising_is_folded_into_the_weights():
    train, classes = vectors(0)
    scale = probes.Scale.of(train.double(), True)
    solved = probes.logistic_regression(scale(train.double()), classes, 4, 1e-2)
    assert torch.allclose(scale.unscaled(solved)(train.double()), solved(scale(train.double())))


def test_ridge_regression_equals_scikit_learn():
    train, classes = vectors(0)
    values = train[:, :1] * 2 + classes[:, None]
    ours = probes.ridge_regression(train, values, 0.1)
    theirs = Ridge(alpha=0.1 * len(train)).fit(train.double().numpy(), values.double().numpy())
    assert (
        abs(ours.weight.numpy() - theirs.coef_).max() < 1e-8 and abs(ours.bias.numpy() - theirs.intercept_).max() < 1e-8
    )


@pytest.mark.parametrize("chunk", [1024, 7])
def test_neighbours_equal_scikit_learn(chunk, monkeypatch):
    monkeypatch.setattr(probes, "CHUNK", chunk)
    (train, classes), (test, truth) = vectors(0), vectors(1)
    ours = probes.nearest_neighbours(train, classes, test, count=4, k=15, temperature=0.1)
    theirs = KNeighborsClassifier(15, metric="cosine", weights=lambda distance: np.exp(-distance / 0.1))
    theirs.fit(train.numpy(), classes.numpy())
    assert abs(ours.numpy() - theirs.predict_proba(test.numpy())).max() < 1e-5
    assert (ours.argmax(1) == truth).double().mean().item() == pytest.approx(theirs.score(test.numpy(), truth.numpy()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_neighbours_vote_whatever_the_features_are_stored_in(dtype):
    (train, classes), (test, _) = vectors(0), vectors(1)
    kept, asked = train.to(dtype), test.to(dtype)
    exact = probes.nearest_neighbours(kept.double(), classes, asked.double(), count=4, k=15, temperature=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        ours = probes.nearest_neighbours(kept, classes, asked, count=4, k=15, temperature=0.1)
    assert ours.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (ours - exact).abs().max() < 1e-4


def test_more_neighbours_than_vectors_are_all_of_them():
    shares = probes.nearest_neighbours(
        torch.eye(3), torch.tensor([0, 1, 1]), torch.eye(3)[:1], count=2, k=200, temperature=1.0
    )
    nearest, others = math.e, 2.0  # exp of the cosines 1, 0 and 0
    assert torch.allclose(shares, torch.tensor([[nearest, others]]) / (nearest + others))


# -- geometry ----------------------------------------------------------------------------------------------------------


def test_the_effective_rank_is_the_exponential_entropy_of_singular_values():
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn(size, 8, generator=generator, dtype=torch.float64)).Q for size in (40, 10)
    )
    sizes = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    shares = (sizes / 16)[:5]
    expected = math.exp(-float((shares * shares.log()).sum()))  # 2 ** 1.875
    assert expected == pytest.approx(2**1.875)
    assert probes.effective_rank(left * sizes @ right.T) == pytest.approx(expected, abs=1e-5)


def test_the_effective_rank_counts_equal_directions_and_sees_collapse():
    assert probes.effective_rank(torch.eye(6).repeat(5, 1)) == pytest.approx(6.0)
    assert probes.effective_rank(torch.ones(30, 6)) == pytest.approx(1.0, abs=1e-5)
    assert probes.effective_rank((torch.eye(6) * 3).to(torch.bfloat16)) == pytest.approx(6.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_effective_rank_of_what_is_not_finite_is_not_a_number(value):
    assert math.isnan(probes.effective_rank(torch.eye(6).index_fill(0, torch.tensor([2]), value)))


def test_alignment_is_twice_one_minus_the_cosine():
    first = torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    second = torch.tensor([[1.0, math.sqrt(3.0)], [0.5, 0.0]])  # at 60 degrees, and the same direction
    assert probes.alignment(first, second) == pytest.approx((2 * (1 - 0.5) + 0.0) / 2, abs=1e-6)
    assert probes.alignment(first, -first) == pytest.approx(4.0)


def test_uniformity_in_closed_form():
    assert probes.uniformity(torch.tensor([[3.0, 0.0], [-1.0, 0.0]])) == pytest.approx(
        -8.0, abs=1e-5
    )  # opposite: squared distance 4
    assert probes.uniformity(torch.eye(5)) == pytest.approx(-4.0, abs=1e-5)  # orthogonal: squared distance 2
    assert probes.uniformity(torch.ones(9, 4)) == pytest.approx(0.0, abs=1e-5)
    pairs = [math.exp(-4)] * 4 + [math.exp(-8)] * 2  # of a point on each half axis: neighbours, opposites
    square = torch.cat([torch.eye(2), -torch.eye(2)])
    assert probes.uniformity(square) == pytest.approx(math.log(sum(pairs) / 6), abs=1e-5)


def test_uniformity_does_not_depend_on_how_it_is_chunked(monkeypatch):
    points, _ = vectors(3)
    whole = probes.uniformity(points)
    squared = torch.pdist(points / points.norm(dim=1, keepdim=True)).square()
    assert whole == pytest.approx(float(torch.exp(-2 * squared).mean().log()), abs=1e-5)
    monkeypatch.setattr(probes, "CHUNK", 7)
    assert probes.uniformity(points) == pytest.approx(whole, abs=1e-6)


def test_the_feature_spread_is_one_on_the_whole_sphere_and_nothing_at_a_point():
    half_axes = torch.cat(
        [torch.eye(8), -torch.eye(8)]
    )  # each feature: 1/8 of the points at distance 1 from its mean 0
    assert probes.feature_spread(half_axes) == pytest.approx(1.0)
    assert probes.feature_spread(torch.ones(5, 8) * torch.arange(1.0, 6.0)[:, None]) == pytest.approx(0.0, abs=1e-6)
