"""Autoencoders of images: equal to transformers' masked autoencoder, split-independent, handed over like the others."""

import json
import math

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from pretraining.cli.configuration import compose
from pretraining.distributed.batchnorm import convert_batchnorm
from pretraining.errors import RunError
from pretraining.image.augment import Blur, Crop, Jitter, Output, Views
from pretraining.image.backbones.fixed_positions import sine_cosine
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.collate import StackImages
from pretraining.image.data.base import ImageExamples
from pretraining.image.preprocess import ImagePreprocess
from pretraining.launch import main
from pretraining.objectives.image.denoising import DenoisingImages
from pretraining.objectives.image.masked_autoencoder import MaskedAutoencoder, PatchDecoder, patches_of
from pretraining.random import Keys
from tests.one_step import assert_same_gradient, gradient_of, plain_sgd
from tests.ranks import in_ranks

BATCH, SIZE, PATCH, DIM = 8, 16, 4, 24
DECODER = PatchDecoder(width=16, layers=2, heads=4)
MEAN, STD = [0.5] * 3, [0.25] * 3


def views(count=1):
    return Views(
        count=count,
        crop=Crop(size=SIZE, area=(0.5, 1.0)),
        jitter=Jitter(probability=0.0),
        greyscale=0.0,
        blur=Blur(probability=0.0, kernel_size=3),
        solarise=0.0,
        output=Output(mean=MEAN, std=STD),
    )


def transformer():
    options = {
        "image_size": SIZE,
        "patch_size": PATCH,
        "num_layers": 3,
        "num_heads": 2,
        "hidden_dim": DIM,
        "mlp_dim": 48,
    }
    return TorchvisionBackbone(name="vision_transformer", options=options)


def masked(count=1, **changes):
    torch.manual_seed(0)
    given = {"mask_ratio": 0.75, "decoder": DECODER, **changes}
    return MaskedAutoencoder(backbone=transformer(), optimizer=plain_sgd(), views=views(count), **given)


def denoising(count=1, **changes):
    torch.manual_seed(0)
    backbone = TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=8, stem="cifar")
    return DenoisingImages(
        backbone=backbone, optimizer=plain_sgd(), views=views(count), **{"noise": 0.5, "decoder_width": 32, **changes}
    )


def denoising_transformer():
    """Without batch statistics its gradient must not change at all."""
    torch.manual_seed(0)
    return DenoisingImages(backbone=transformer(), optimizer=plain_sgd(), views=views(), noise=0.5, decoder_width=32)


def batch_of(rows):
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 3, SIZE, SIZE), dtype=np.uint8)
    rows = np.asarray(list(rows))
    keys = Keys(1, "train", np.zeros(len(rows), np.int64), rows)
    collate = StackImages(preprocess=ImagePreprocess(size=SIZE, channels=3, mean=MEAN, std=STD))
    return collate(ImageExamples(images[rows], None), keys) | {"keys": keys.to("cpu")}


# -- masked autoencoder ------------------------------------------------------------------------------------------------


def twin_of(objective, normalise):
    """Build transformers' model of the same sizes, and give it the same weights."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    model, decoder = objective.backbone.model, objective.decoder
    sizes = {"hidden_size": DIM, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    sizes |= {
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 4,
        "decoder_intermediate_size": 64,
    }
    config = ViTMAEConfig(
        image_size=SIZE, patch_size=PATCH, layer_norm_eps=1e-6, mask_ratio=0.75, norm_pix_loss=normalise, **sizes
    )
    twin = ViTMAEForPreTraining(config).eval()
    state = {
        "vit.embeddings.cls_token": model.class_token,
        "vit.embeddings.position_embeddings": model.encoder.pos_embedding,
        **named("vit.embeddings.patch_embeddings.projection", model.conv_proj),
        **named("vit.layernorm", model.encoder.ln),
        "decoder.mask_token": decoder.hidden,
        "decoder.decoder_pos_embed": decoder.places,
        **named("decoder.decoder_embed", decoder.embed),
        **named("decoder.decoder_norm", decoder.norm),
        **named("decoder.decoder_pred", decoder.predict),
    }
    for prefix, blocks in (("vit.layers", model.encoder.layers), ("decoder.decoder_layers", decoder.blocks)):
        for number, block in enumerate(blocks):
            state |= block_weights(f"{prefix}.{number}", block)
    twin.load_state_dict({name: value.detach() for name, value in state.items()}, strict=True)
    return twin


def named(prefix, layer):
    return {f"{prefix}.weight": layer.weight, f"{prefix}.bias": layer.bias}


def block_weights(prefix, block):
    """Name a torchvision block's weights as transformers does."""
    attention = block.self_attention
    found = {
        **named(f"{prefix}.attention.o_proj", attention.out_proj),
        **named(f"{prefix}.layernorm_before", block.ln_1),
        **named(f"{prefix}.layernorm_after", block.ln_2),
        **named(f"{prefix}.mlp.fc1", block.mlp[0]),
        **named(f"{prefix}.mlp.fc2", block.mlp[3]),
    }
    for name, weight, bias in zip(
        "qkv", attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True
    ):
        found |= {f"{prefix}.attention.{name}_proj.weight": weight, f"{prefix}.attention.{name}_proj.bias": bias}
    return found


@pytest.mark.parametrize("normalise", [True, False])
def test_the_loss_and_its_gradient_are_those_of_transformers_for_the_same_weights(normalise):
    objective = masked(normalise_patches=normalise)
    twin = twin_of(objective, normalise)
    batch = objective.on_device(batch_of(range(BATCH)))
    term = objective.loss(batch).terms["squared_error"]
    places = batch["order"].argsort(1).float()  # noise whose order is ours
    theirs = twin(batch["views"], noise=places).loss
    ours = term.total / term.count
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5) and ours.item() > 0.5
    ours.backward()
    theirs.backward()
    pairs = [(objective.backbone.model.conv_proj.weight, twin.vit.embeddings.patch_embeddings.projection.weight)]
    pairs += [
        (objective.decoder.hidden, twin.decoder.mask_token),
        (objective.decoder.predict.weight, twin.decoder.decoder_pred.weight),
    ]
    for mine, other in pairs:
        assert torch.allclose(mine.grad, other.grad, atol=1e-5) and mine.grad.abs().max() > 1e-4


def test_places_are_those_of_the_published_code():
    """Half of the width for the column, then half for the row; in each, sines before cosines."""
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

    published = build_2d_sinusoidal_position_embedding(height=4, width=4, embed_dim=16)
    assert torch.allclose(torch.cat([published[..., 8:], published[..., :8]], -1), sine_cosine(4, 16), atol=1e-6)


def test_an_exact_share_is_hidden_and_depends_on_the_image_alone():
    objective = masked(mask_ratio=0.75)
    whole = objective.on_device(batch_of(range(BATCH)))
    assert objective.visible == 4 and (whole["order"].sort(1).values == torch.arange(16)).all()
    assert objective.counts(whole)["squared_error"] == 12 * BATCH
    assert len({tuple(row) for row in whole["order"].tolist()}) == BATCH
    part = objective.on_device(batch_of([5, 2]))
    assert torch.equal(part["order"], whole["order"][[5, 2]]) and torch.equal(part["views"], whole["views"][[5, 2]])
    keys = batch_of(range(BATCH))["keys"]
    visible = torch.stack([objective.draw_corruption(keys, view, torch.device("cpu"))[:, :4] for view in range(200)])
    often = torch.bincount(visible.flatten(), minlength=16) / (200 * BATCH)
    assert (
        (often - 0.25).abs() < 5 * math.sqrt(0.25 * 0.75 / (200 * BATCH))
    ).all()  # each patch as often as the others


def test_the_encoder_sees_the_visible_patches_and_nothing_else():
    objective = masked().eval()
    batch = objective.on_device(batch_of(range(2)))
    before = objective.rebuild(batch)
    hidden = batch["order"][:, objective.visible :]
    blotted = patches_of(batch["views"], PATCH)
    blotted.scatter_(1, hidden[..., None].expand(-1, -1, blotted.shape[2]), 9.0)
    image = blotted.reshape(2, 4, 4, PATCH, PATCH, 3).permute(0, 5, 1, 3, 2, 4).reshape(2, 3, SIZE, SIZE)

    def seen(images):
        return {**batch, "inputs": {**batch["inputs"], "images": images}}

    assert torch.equal(objective.rebuild(seen(image)), before)
    assert not torch.equal(objective.rebuild(seen(image + 1)), before)


def test_a_perfect_answer_costs_nothing_and_none_costs_the_variance():
    objective = masked()
    batch = objective.on_device(batch_of(range(BATCH)))
    nn.init.zeros_(objective.decoder.predict.weight)
    term = objective.loss(batch).terms["squared_error"]
    pixels = PATCH * PATCH * 3
    assert (term.total / term.count).item() == pytest.approx(
        (pixels - 1) / pixels, abs=1e-4
    )  # of patches scaled by the unbiased deviation
    truth = patches_of(batch["views"], PATCH)
    variance, mean = torch.var_mean(truth, 2, keepdim=True)
    objective.rebuild = lambda _: (truth - mean) / (variance + 1e-6).sqrt()
    assert objective.loss(batch).terms["squared_error"].total.item() == pytest.approx(0.0, abs=1e-6)


# -- plain denoising ---------------------------------------------------------------------------------------------------


def test_noise_is_normal_and_depends_on_the_image_alone():
    objective = denoising(noise=0.3)
    keys = Keys(3, "train", torch.zeros(64, dtype=torch.long), torch.arange(64))
    noise = objective.draw_corruption(keys, 0, torch.device("cpu"))
    assert noise.shape == (64, 3, SIZE, SIZE)
    values = noise.double().flatten() / 0.3
    count = len(values)
    assert abs(values.mean()) < 5 / math.sqrt(count) and abs(values.var() - 1) < 5 * math.sqrt(2 / count)
    assert abs((values.abs() < 1).double().mean() - 0.6827) < 5 * math.sqrt(0.22 / count)
    assert abs((values[1:] * values[:-1]).mean()) < 5 / math.sqrt(count)
    assert torch.equal(objective.draw_corruption(keys.select(torch.tensor([7])), 0, torch.device("cpu"))[0], noise[7])


def test_the_loss_is_the_mean_square_of_what_the_decoder_misses():
    objective = denoising()
    batch = objective.on_device(batch_of(range(BATCH)))
    for parameter in objective.decoder[-1].parameters():
        nn.init.zeros_(parameter)
    term = objective.loss(batch).terms["squared_error"]
    assert term.count == BATCH and (term.total / BATCH).item() == pytest.approx(
        batch["views"].square().mean().item(), rel=1e-5
    )
    objective.rebuild = lambda batch: batch["inputs"]["images"]
    assert (objective.loss(batch).terms["squared_error"].total / BATCH).item() == pytest.approx(
        0.25, rel=0.03
    )  # the noise's variance


def test_sizes_that_doubling_does_not_reach_are_refused():
    backbone = TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=8, stem="cifar")
    odd = views()
    odd.crop = Crop(size=24, area=(0.5, 1.0))
    assert DenoisingImages(backbone=backbone, optimizer=plain_sgd(), views=odd, noise=0.5, decoder_width=32).side == 3
    odd.crop = Crop(size=20, area=(0.5, 1.0))
    with pytest.raises(ValueError, match=r"images of 20 x 20 pixels become 3 x 3 features"):
        DenoisingImages(backbone=backbone, optimizer=plain_sgd(), views=odd, noise=0.5, decoder_width=32)


# -- both --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("builder", [masked, denoising_transformer])
@pytest.mark.parametrize("parts", [2, 4])
def test_the_gradient_does_not_depend_on_the_split(tmp_path, builder, parts):
    whole = gradient_of(builder(), [batch_of(range(BATCH))], tmp_path)
    size = BATCH // parts
    split = [batch_of(range(start, start + size)) for start in range(0, BATCH, size)]
    assert_same_gradient(whole, gradient_of(builder(), split, tmp_path))


def rank_gradients(rank, world, directory, splits):
    batches = [batch_of(rows) for rows in splits[rank]]
    first = gradient_of(masked(), batches, directory, rank=rank, world=world)
    return first, gradient_of(convert_batchnorm(denoising()), batches, directory, rank=rank, world=world)


def test_two_ranks_give_the_gradient_of_one_process(tmp_path):
    whole = [gradient_of(builder(), [batch_of(range(BATCH))], tmp_path) for builder in (masked, denoising)]
    for gradients in in_ranks(rank_gradients, 2, tmp_path, [[range(4)], [range(4, 8)]]):
        for one, two in zip(whole, gradients, strict=True):
            assert_same_gradient(one, two, tolerance=1e-8)


@pytest.mark.parametrize("builder", [masked, denoising])
def test_two_views_are_two_examples(builder):
    objective = builder(count=2)
    batch = objective.on_device(batch_of(range(BATCH)))
    loss = objective.loss(batch)
    assert (
        len(batch["views"]) == 2 * BATCH
        and loss.terms["squared_error"].count == objective.counts(batch)["squared_error"]
    )
    first, second = batch["views"].chunk(2)
    assert not torch.equal(first, second)


def run_of(name, tmp_path, *more):
    quiet = ["logger.wandb.mode=disabled", "logger.progress=false", "trainer.precision=fp32", "trainer.val_every=20"]
    small = ["data.batch_size=64", "optimizer.peak_lr=2e-3", "optimizer.warmup_steps=2"]
    return main(
        compose([f"objective={name}", "trainer.max_steps=20", *small, *quiet, f"run_dir={tmp_path / 'run'}", *more])
    )


def test_a_masked_autoencoder_s_hand_off_loads_in_torchvision(tmp_path):
    run = run_of(
        "denoising_image_mae",
        tmp_path,
        "backbone.options.num_layers=2",
        "backbone.options.hidden_dim=32",
        "backbone.options.mlp_dim=64",
    )
    options = {"image_size": 8, "patch_size": 2, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 64}
    model = torchvision.models.VisionTransformer(**options)
    model.conv_proj, model.heads = nn.Conv2d(1, 32, 2, stride=2), nn.Identity()
    model.load_state_dict(load_file(run / "handoff" / "last" / "model.safetensors"), strict=True)
    assert 0 < json.loads((run / "metrics.json").read_text())["validation/squared_error"] < 1.0


def test_a_denoiser_s_hand_off_loads_in_torchvision(tmp_path):
    run = run_of("denoising_image", tmp_path, "backbone.width=8", "objective.decoder_width=32")
    card = json.loads((run / "handoff" / "last" / "handoff.json").read_text())
    assert card["origin"]["objective"] == "DenoisingImages"
    weights = load_file(run / "handoff" / "last" / "model.safetensors")
    rebuilt = TorchvisionBackbone(**card["towers"]["image"]["backbone"]["kwargs"])
    rebuilt.model.load_state_dict(weights, strict=True)
    assert 0 < json.loads((run / "metrics.json").read_text())["validation/squared_error"] < 1.0


def test_a_masked_autoencoder_on_a_network_without_patches_is_refused(tmp_path):
    with pytest.raises(
        RunError,
        match="hides patches of a vision transformer: set backbone=vit_tiny, or take objective=denoising_image",
    ):
        run_of("denoising_image_mae", tmp_path, "backbone=resnet_tiny")
    with pytest.raises(RunError, match=r"objective.mask_ratio=0.99 of 16 patches leaves 0 visible"):
        run_of("denoising_image_mae", tmp_path, "objective.mask_ratio=0.99")
    with pytest.raises(RunError, match=r"objective.noise=0"):
        run_of("denoising_image", tmp_path, "objective.noise=0")
    assert not list(tmp_path.iterdir())
