"""Cross-entropy over a vocabulary without a copy of its scores: torch's own value and derivative."""

import math

import pytest
import torch
from torch.nn import functional as F

from pretraining.kernels import cross_entropy
from pretraining.kernels.cross_entropy import NO_LABEL, vocabulary_cross_entropy


def problem(rows=150, dtype=torch.float64):
    """More rows than are computed at once, some without a label, in the middle too."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, 12), (70, 12), (70,))
    parts = [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes
    ]
    labels = torch.randint(70, (rows,), generator=generator)
    labels[[3, 64, rows - 1]] = NO_LABEL
    return parts, labels


def plain(hidden, weight, bias, labels):
    return F.cross_entropy(F.linear(hidden, weight, bias), labels, ignore_index=NO_LABEL, reduction="sum")


@pytest.mark.parametrize("at_once", [1, 64, 1000])
def test_value_and_gradients_are_torch_s(at_once, monkeypatch):
    monkeypatch.setattr(cross_entropy, "_ROWS_ON_CPU", at_once)
    parts, labels = problem()
    expected, found = plain(*parts, labels), vocabulary_cross_entropy(*parts, labels)
    assert found.dtype == torch.float64 and torch.allclose(expected, found, rtol=1e-12)
    for theirs, ours in zip(*(torch.autograd.grad(0.3 * total, parts) for total in (expected, found)), strict=True):
        assert torch.allclose(theirs, ours, atol=1e-12)


def test_rows_without_a_label_have_no_gradient():
    parts, labels = problem()
    (gradient,) = torch.autograd.grad(vocabulary_cross_entropy(*parts, labels), parts[0])
    assert (gradient[labels == NO_LABEL] == 0).all() and (gradient[labels != NO_LABEL].abs().sum(1) > 0).all()


def test_zero_weights_give_the_logarithm_of_the_vocabulary():
    (hidden, weight, bias), labels = problem()
    total = vocabulary_cross_entropy(hidden, weight * 0, bias * 0, labels)
    assert abs(float(total.detach()) - 147 * math.log(70)) < 1e-9


def test_under_autocast_it_is_as_near_to_the_exact_loss_as_torch_s_own():
    parts, labels = problem(dtype=torch.float32)
    exact = plain(*(part.double() for part in parts), labels)
    exact_gradients = torch.autograd.grad(exact, parts)
    errors = []
    for function in (plain, vocabulary_cross_entropy):
        with torch.autocast("cpu", torch.bfloat16):
            total = function(*parts, labels)
        assert function is plain or total.dtype == torch.float32
        gradients = torch.autograd.grad(total, parts)
        far = [float((a - b).norm() / b.norm()) for a, b in zip(gradients, exact_gradients, strict=True)]
        errors.append([abs(float((total - exact).detach() / exact.detach())), *far])
    assert all(ours < max(1.5 * theirs, 1e-3) for theirs, ours in zip(*errors, strict=True)), errors


def test_nothing_is_kept_where_no_gradient_is_wanted():
    parts, labels = problem()
    with torch.no_grad():
        assert torch.allclose(plain(*parts, labels), vocabulary_cross_entropy(*parts, labels), rtol=1e-12)
