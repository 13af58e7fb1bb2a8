"""Vision transformers with fixed positions: what they start with, what is trained, what is handed over."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import VisionTransformer

from pretraining.image.backbones.fixed_positions import FixedPositions, sine_cosine

SHAPE = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}


def built(**changes):
    torch.manual_seed(0)
    return FixedPositions(**({"options": SHAPE} | changes))


def test_positions_are_sines_and_cosines_that_no_step_moves():
    network = built()
    found = network.model.encoder.pos_embedding
    assert torch.equal(found[0, 0], torch.zeros(16)) and torch.equal(found[0, 1:], sine_cosine(4, 16))
    place = found[0, 1 + 2 * 4 + 3].double()  # row 2, column 3
    waves = [10_000 ** (-n / 4) for n in range(4)]
    expected = [f(x * w) for x in (3, 2) for f in (math.sin, math.cos) for w in waves]
    assert place.tolist() == pytest.approx(expected, abs=1e-6)
    network(images=torch.randn(2, 3, 32, 32)).pooled.sum().backward()
    assert found.grad is None and network.model.class_token.grad is not None


def test_matrices_start_as_xavier_has_them():
    """Queries, keys and values apart, and patches as a linear map: uniform within sqrt(6 / (inputs + outputs))."""
    model = built(options=SHAPE | {"hidden_dim": 64, "mlp_dim": 128}).model
    layer = model.encoder.layers[0]
    matrices = [*layer.self_attention.in_proj_weight.chunk(3), layer.self_attention.out_proj.weight]
    matrices += [layer.mlp[0].weight, layer.mlp[3].weight, model.conv_proj.weight.flatten(1)]
    for matrix in matrices:
        bound = math.sqrt(6 / sum(matrix.shape))
        assert float(matrix.detach().abs().max()) == pytest.approx(bound, rel=0.02)
        assert float(matrix.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
    vectors = [p for n, p in model.named_parameters() if n.endswith("bias")]
    assert all(not vector.any() for vector in vectors) and model.class_token.abs().max() < 1e-5


def test_small_weights_leave_patches_nearly_as_they_are():
    """I-JEPA's: 0.02, of what block n adds divided by the root of 2 n, so its output is that of its patches."""
    network = built(options=SHAPE | {"hidden_dim": 64, "mlp_dim": 256}, init="small")
    for number, layer in enumerate(network.model.encoder.layers, 1):
        wide = [*layer.self_attention.in_proj_weight.chunk(3), layer.mlp[0].weight]
        added = [layer.self_attention.out_proj.weight, layer.mlp[3].weight]
        for matrix, spread in [(m, 0.02) for m in wide] + [(m, 0.02 / math.sqrt(2 * number)) for m in added]:
            assert float(matrix.detach().std()) == pytest.approx(spread, rel=0.05)
    images = torch.randn(2, 3, 32, 32)
    patches = network.model._process_input(images) + network.model.encoder.pos_embedding[:, 1:]
    patches = nn.functional.layer_norm(patches, (64,))
    cosines = nn.functional.cosine_similarity(network(images=images).positions, patches, dim=2)
    assert cosines.min() > 0.95
    with pytest.raises(ValueError, match=r"backbone\.init=large is unknown: choose xavier or small"):
        built(init="large")


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_patches_are_those_that_were_drawn(frozen):
    network = built(frozen_patches=frozen)
    before = network.model.conv_proj.weight.detach().clone()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)
    network(images=torch.randn(2, 3, 32, 32)).pooled.square().sum().backward()
    optimizer.step()
    assert torch.equal(network.model.conv_proj.weight, before) == frozen
    assert (network.model.conv_proj.bias.grad is None) == frozen


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_torchvisions_network_and_rebuilt_from_its_arguments(channels, tmp_path):
    network = built(in_channels=channels, pooling="mean").eval()
    network.export(tmp_path)
    images = torch.randn(2, channels, 32, 32)
    twin = FixedPositions(**network.kwargs).eval()
    twin.load(tmp_path)
    assert torch.equal(twin(images=images).pooled, network(images=images).pooled)
    scope = {}
    exec(network.usage().replace("DIR", str(tmp_path)), scope)
    assert isinstance(scope["model"], VisionTransformer) and "mean of the encoder" in network.usage()
    assert load_file(tmp_path / "model.safetensors").keys() == scope["model"].state_dict().keys()
    tokens = scope["model"].eval()._process_input(images)
    tokens = torch.cat([scope["model"].class_token.expand(2, -1, -1), tokens], 1)
    torch.testing.assert_close(scope["model"].encoder(tokens)[:, 1:].mean(1), network(images=images).pooled)


def test_a_width_that_two_axes_cannot_share_is_refused():
    with pytest.raises(ValueError, match="multiple of 4, got hidden_dim=18"):
        built(options=SHAPE | {"hidden_dim": 18})


def test_every_part_is_in_a_block_once():
    network = built()
    held = [id(parameter) for block in network.blocks() for parameter in block.parameters()]
    assert sorted(held) == sorted(id(parameter) for parameter in network.parameters())
    assert isinstance(network.blocks()[0], nn.ModuleList)
