"""A vision transformer's own parts give what torch's give, weight by weight, and no unchecked convolution is left."""

import pytest
import torch
from torchvision.models import VisionTransformer

from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.backbones.transformer_parts import PatchEmbedding, SelfAttention

VIT = {"image_size": 16, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 32}


def pair(**changes):
    """A backbone and torchvision's own model, of the same weights."""
    torch.manual_seed(0)
    ours = TorchvisionBackbone(name="vision_transformer", options=VIT | changes)
    theirs = VisionTransformer(**VIT | changes)
    theirs.heads = torch.nn.Identity()
    theirs.load_state_dict(ours.model.state_dict())
    assert type(ours.model.encoder.layers[0].self_attention) is SelfAttention
    assert type(ours.model.conv_proj) is PatchEmbedding and type(theirs.conv_proj) is torch.nn.Conv2d
    return ours, theirs


@pytest.mark.parametrize("training", [True, False])
def test_features_and_gradients_are_torchs(training):
    ours, theirs = (part.double().train(training) for part in pair())
    images = torch.randn(5, 3, 16, 16, dtype=torch.float64)
    found, expected = ours(images=images).pooled, theirs(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    wanted = torch.randn(5, 24, dtype=torch.float64)  # a plain sum of squares is what the last norm keeps constant
    (found * wanted).sum().backward()
    (expected * wanted).sum().backward()
    for (name, one), other in zip(theirs.named_parameters(), ours.model.parameters(), strict=True):
        assert one.grad.abs().max() > 1e-3, name
        torch.testing.assert_close(other.grad, one.grad, rtol=0, atol=1e-11)


def test_weights_of_attention_are_dropped_in_training_alone():
    ours, theirs = pair(attention_dropout=0.5)
    images = torch.randn(64, 3, 16, 16)
    with torch.no_grad():
        assert not torch.equal(ours.train()(images=images).pooled, ours(images=images).pooled)
        torch.testing.assert_close(ours.eval()(images=images).pooled, theirs.eval()(images), rtol=0, atol=1e-5)
    attention = ours.train().model.encoder.layers[0].self_attention
    rows = torch.randn(4, 17, 24)
    with torch.no_grad():
        drawn = torch.stack([attention(rows, rows, rows, need_weights=False)[0] for _ in range(600)])
        kept = attention.eval()(rows, rows, rows, need_weights=False)[0]
    error = (drawn.mean(0) - kept).abs() / (drawn.std(0) / 600**0.5)
    assert drawn.std(0).min() > 0 and error.mean() < 1.2  # of a mean of 0.8 for normal errors


def test_gradients_in_bf16_are_those_of_fp32_to_its_rounding():
    ours, _ = pair()
    assert not ours.convolves
    images, wanted, found = torch.randn(8, 3, 16, 16), torch.randn(8, 24), []
    for enabled in (False, True):
        ours.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            pooled = ours(images=images).pooled
        (pooled.float() * wanted).sum().backward()
        found.append(torch.cat([part.grad.flatten() for part in ours.parameters()]))
        found.append(ours.model.conv_proj.weight.grad.clone())
    for exact, rounded in (found[::2], found[1::2]):
        assert (exact - rounded).norm() < 0.03 * exact.norm()


def test_other_uses_of_attention_stay_torchs():
    ours, theirs = pair()
    attention, other = ours.model.encoder.layers[0].self_attention, theirs.encoder.layers[0].self_attention
    rows, mask = torch.randn(2, 5, 24), torch.ones(5, 5, dtype=torch.bool).triu(1)
    for options in ({}, {"need_weights": False, "attn_mask": mask}):
        found, expected = attention(rows, rows, rows, **options), other(rows, rows, rows, **options)
        torch.testing.assert_close(found[0], expected[0], rtol=0, atol=0)
    torch.testing.assert_close(attention(rows, rows + 1, rows)[0], other(rows, rows + 1, rows)[0], rtol=0, atol=0)
