"""LayerDrop: which layers a step leaves out is drawn from its number; a layer left out changes nothing, exactly."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pretraining.audio.backbones.layerdrop import drawn_layers
from tests.audio.test_speech_encoder import FAMILIES, LENGTHS, waves
from tests.objectives.audio.small_audio import batch_of, codebook, encoder, masked_units


def test_each_layer_is_left_out_as_often_as_is_said_whatever_the_others_are():
    left_out = np.zeros((4000, 12), bool)
    for step in range(4000):
        left_out[step, list(drawn_layers(3, step, 12, 0.2))] = True
    assert np.abs(left_out.mean(0) - 0.2).max() < 5 * np.sqrt(0.16 / 4000)
    together = np.corrcoef(left_out.T)[~np.eye(12, dtype=bool)]
    assert np.abs(together).max() < 5 / np.sqrt(4000)
    assert drawn_layers(3, 17, 12, 0.5) == drawn_layers(3, 17, 12, 0.5) != drawn_layers(4, 17, 12, 0.5)
    assert drawn_layers(3, 17, 12, 0.0) == frozenset() and drawn_layers(3, 17, 12, 1.0) == frozenset(range(12))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_without_a_layer_is_one_that_never_had_it(name):
    """The gradient of what is left out is zero, and is there; evaluation leaves nothing out."""
    changes = FAMILIES[name] | {"model_type": name, "num_hidden_layers": 3, "hidden_dropout": 0.0}
    backbone, lengths = encoder(**changes), torch.tensor(LENGTHS)
    whole = backbone.eval()(waves(), lengths).positions
    shorter = copy.deepcopy(backbone).train()
    shorter.model.encoder.layers = nn.ModuleList([shorter.model.encoder.layers[place] for place in (0, 2)])
    backbone.train().left_out = frozenset({1})
    said = backbone(waves(), lengths).positions
    expected = shorter(waves(), lengths).positions
    torch.testing.assert_close(said, expected, rtol=0, atol=1e-6)
    assert (said - whole).abs().max() > 1e-3
    said.square().sum().backward()
    expected.square().sum().backward()
    layers = backbone.model.encoder.layers
    assert len(layers) == 3 and all(not p.grad.any() for p in layers[1].parameters())
    for ours, theirs in ((layers[0], shorter.model.encoder.layers[0]), (layers[2], shorter.model.encoder.layers[1])):
        for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, its.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(backbone.eval()(waves(), lengths).positions, whole)


def test_wavlm_keeps_the_layer_that_makes_the_bias_of_positions():
    backbone = encoder(model_type="wavlm", **FAMILIES["wavlm"])
    backbone.layerdrop = 1.0
    backbone.begin_step(1, 2)
    assert backbone.left_out == {1}


def test_activation_checkpointing_takes_the_same_layers_again():
    gradients = []
    for checkpointing in (False, True):
        model = masked_units()
        model.backbone.left_out = frozenset({0})
        model.backbone.set_compute(compiled=False, activation_checkpointing=checkpointing, sharded=False)
        batch = batch_of((0, 1, 2), codebook=codebook())
        model.train().loss(batch).terms["masked_units"].total.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)
