"""Heads are the layers that the papers list, and prototypes are unit vectors that a teacher averages."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pretraining.objectives.heads import Projector, Prototypes, mlp
from pretraining.objectives.teacher import Teacher


def kinds(head):
    return [type(part).__name__ for part in head]


def test_every_published_head_can_be_said():
    linear, norm, relu, gelu = "Linear", "BatchNorm1d", "ReLU", "GELU"
    byol = mlp([2048, 4096, 256])
    assert kinds(byol) == [linear, norm, relu, linear] and byol[3].bias is None
    simsiam = mlp([2048, 2048, 2048, 2048], last_norm="plain")
    assert kinds(simsiam) == [linear, norm, relu] * 2 + [linear, norm]
    assert simsiam[7].weight is None and simsiam[7].bias is None and simsiam[6].bias is None
    predictor = mlp([2048, 512, 2048], last_bias=True)
    assert predictor[0].bias is None and predictor[3].bias is not None
    moco = mlp([512, 512, 128], norm="none", bias=True)
    assert kinds(moco) == [linear, relu, linear] and moco[0].bias is not None
    dino = mlp([384, 2048, 2048, 256], norm="none", bias=True, activation="gelu", init_std=0.02)
    assert kinds(dino) == [linear, gelu, linear, gelu, linear]
    assert all(part.bias.abs().max() == 0 and abs(part.weight.std() - 0.02) < 1e-3 for part in dino[::2])


def test_a_projector_builds_its_mlp():
    built = Projector(layers=3, hidden=7, output=5, output_norm="plain", output_bias=True).build(4)
    assert [tuple(part.weight.shape) for part in built if isinstance(part, nn.Linear)] == [(7, 4), (7, 7), (5, 7)]
    assert kinds(Projector(layers=1, output=5).build(4)) == ["Linear"]
    for changes, told in (
        ({"activation": "tanh"}, "choose relu or gelu"),
        ({"hidden_norm": "layer"}, "choose full, scale, plain or none"),
        ({"layers": 0}, "at least one layer"),
    ):
        with pytest.raises(ValueError, match=told):
            Projector(**{"layers": 2, "output": 5} | changes).build(4)


def test_prototypes_score_cosines():
    torch.manual_seed(0)
    prototypes, vectors = Prototypes(6, 9), torch.randn(4, 6) * 100
    expected = F.cosine_similarity(vectors[:, None], prototypes.direction[None], dim=2)
    assert torch.allclose(prototypes(vectors), expected, atol=1e-6)
    assert not prototypes.length.requires_grad and Prototypes(6, 9, learn_lengths=True).length.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert prototypes(vectors.bfloat16()).dtype == torch.float32


def test_prototypes_are_torch_s_weight_normalised_layer():
    ours = Prototypes(6, 9, learn_lengths=True)
    theirs = nn.utils.parametrizations.weight_norm(nn.Linear(6, 9, bias=False))
    theirs.parametrizations.weight.original1.data.copy_(ours.direction.data)
    theirs.parametrizations.weight.original0.data.copy_(ours.length.data.mul_(1.7))
    vectors = torch.randn(4, 6)
    assert torch.allclose(ours(vectors), theirs(F.normalize(vectors, dim=1)), atol=1e-6)


def test_a_teacher_averages_direction_and_length():
    student = nn.Module()
    student.prototypes = Prototypes(3, 4, learn_lengths=True)
    teacher = Teacher(student, ("prototypes",), momentum=0.75, last_momentum=0.75)
    before = [part.clone() for part in teacher.prototypes.parameters()]
    with torch.no_grad():
        for part in student.prototypes.parameters():
            part.add_(1.0)
    teacher.update(student, 0, 10)
    for kept, moved in zip(before, teacher.prototypes.parameters(), strict=True):
        assert torch.allclose(moved, kept + 0.25)
