"""timm's networks as backbones: the same numbers as timm, names and all."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

timm = pytest.importorskip("timm")

from pretraining import handoff  # noqa: E402
from pretraining.distributed.batchnorm import SyncBatchNormAct, convert_batchnorm  # noqa: E402
from pretraining.errors import HandoffError, RunError  # noqa: E402
from pretraining.image.backbones.timm_model import TimmBackbone  # noqa: E402
from pretraining.image.modality import IMAGE  # noqa: E402
from pretraining.image.preprocess import ImagePreprocess  # noqa: E402

STAGES = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}
SMALL_VIT = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
SMALL_SWIN = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2}
KINDS = {  # model, arguments, size of images, strides of the stages
    "resnet": ("resnet18", STAGES, 64, [2, 4, 8, 16, 32]),
    "convnext": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}, 64, [4, 8, 16, 32]),
    "vit": ("vit_tiny_patch16_224", SMALL_VIT, 32, None),
    "vit_registers": ("vit_small_patch14_reg4_dinov2", SMALL_VIT, 32, None),
    "vit_map": ("vit_base_patch16_siglip_224", SMALL_VIT, 32, None),
    "vit_gap": ("vit_medium_patch16_gap_240", SMALL_VIT, 32, None),
    "swin": ("swin_tiny_patch4_window7_224", SMALL_SWIN, 64, [4, 8, 16, 32]),
    "mobilenet": ("mobilenetv3_small_050", {}, 64, [2, 4, 8, 16, 32]),
    "efficientnet": ("test_efficientnet", {}, 64, [2, 4, 8, 16, 32]),
    "inception": ("inception_v3", {}, 75, [2, 5, 11, 25, 75]),  # convolutions without padding
    "vgg": ("vgg11_bn", {"mlp_ratio": 0.01}, 64, [1, 2, 4, 8, 16, 32]),
}
LARGE = ("inception", "vgg")  # timm has no small ones
EACH = [pytest.param(kind, marks=[pytest.mark.slow] if kind in LARGE else []) for kind in KINDS]
HIDDEN = ("mobilenet", "vgg")  # whose classifiers have hidden layers
MADE = {}


def made(kind):
    """Build one of each kind, with images for it; batch statistics have seen some."""
    if kind not in MADE:
        name, arguments, size, _ = KINDS[kind]
        torch.manual_seed(0)
        backbone = TimmBackbone(name=name, arguments=arguments, size=size)
        images = torch.randn(2, 3, size, size)
        MADE[kind] = backbone.eval(), images
    return MADE[kind]


@pytest.mark.parametrize("kind", EACH)
def test_features_are_timms_own(kind):
    backbone, images = made(kind)
    with torch.no_grad():
        features, plain = backbone(images), backbone.model.forward_features(images)
        pooled = backbone.model.forward_head(plain, pre_logits=True)
    assert features.pooled.shape == (2, backbone.dim) and features.positions.shape[2] == backbone.dim
    assert features.grid[0] * features.grid[1] == features.positions.shape[1]
    if kind in HIDDEN:
        assert torch.equal(features.pooled, plain.mean((2, 3)))
    else:
        torch.testing.assert_close(features.pooled, pooled, rtol=1e-6, atol=1e-6)
    if kind.startswith("vit"):
        own = plain[:, backbone.model.num_prefix_tokens :]
        torch.testing.assert_close(features.positions, own, rtol=1e-6, atol=1e-6)
    else:
        rows = plain.flatten(1, 2) if kind == "swin" else plain.flatten(2).transpose(1, 2)
        assert torch.equal(features.positions, rows)


@pytest.mark.parametrize("kind", EACH)
def test_the_stages_have_the_published_strides_and_the_last_is_made_of_the_positions(kind):
    backbone, images = made(kind)
    with torch.no_grad():
        features = backbone(images)
    strides = KINDS[kind][3]
    if strides is None:
        assert features.stages is None
        return
    assert [round(images.shape[-1] / stage.shape[-1]) for stage in features.stages] == strides
    assert torch.equal(features.stages[-1].flatten(2).transpose(1, 2), features.positions)


@pytest.mark.parametrize("kind", EACH)
def test_a_gradient_reaches_every_parameter_and_blocks_hold_each_once(kind):
    backbone, images = made(kind)
    features = backbone(images)
    backbone.zero_grad()
    (features.pooled.square().sum() + features.positions.square().sum()).backward()
    assert not [name for name, part in backbone.named_parameters() if part.grad is None]
    held = [id(parameter) for block in backbone.blocks() for parameter in block.parameters()]
    assert sorted(held) == sorted(map(id, backbone.parameters())) and len(backbone.blocks()) >= 4


@pytest.mark.parametrize("kind", EACH)
def test_a_hand_off_gives_the_same_bits_here_and_loads_by_the_lines_of_its_card(kind, tmp_path):
    backbone, images = made(kind)
    preprocess = ImagePreprocess(size=images.shape[-1], channels=3, mean=[0.5] * 3, std=[0.5] * 3)
    place = handoff.write(tmp_path / "step-1", towers=IMAGE.towers(backbone, preprocess), origin={}, heads={})
    found = handoff.read(str(place)).backbone.eval()
    scope = {}
    exec(backbone.usage().replace("DIR", str(place)), scope)
    with torch.no_grad():
        wanted = backbone(images)
        assert all(map(torch.equal, found(images)[:2], wanted[:2]))
        theirs = scope["model"].eval().forward_features(images)
        pooled = theirs.mean((2, 3)) if kind in HIDDEN else scope["model"](images)
    torch.testing.assert_close(pooled, wanted.pooled, rtol=1e-6, atol=1e-6)


def test_blocks_are_timms_own_division_by_which_it_decays_rates():
    from timm.optim import param_groups_layer_decay

    backbone, _ = made("resnet")
    rates = {}
    for group in param_groups_layer_decay(backbone.model, layer_decay=0.5):
        rates |= {id(parameter): group["lr_scale"] for parameter in group["params"]}
    blocks = backbone.blocks()
    assert len(blocks) == 5  # the stem, and a block of each stage
    for place, block in enumerate(blocks):  # timm has a classifier behind them
        wanted = {0.5 ** (len(blocks) - 1 - place)}
        assert {rates[id(parameter)] for parameter in block.parameters()} == wanted


def test_batch_normalisation_over_ranks_keeps_the_activations_that_timm_has_in_it():
    backbone, images = made("efficientnet")
    first, second = copy.deepcopy(backbone).train(), convert_batchnorm(copy.deepcopy(backbone)).train()
    kinds = {type(part) for part in second.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {SyncBatchNormAct}
    assert torch.equal(first(images).pooled, second(images).pooled)
    assert first.state_dict().keys() == second.state_dict().keys()

    class Odd(nn.BatchNorm2d):
        def forward(self, input):
            return 2.0 * super().forward(input)

    with pytest.raises(RunError, match=r"got a network with Odd, .*: set trainer\.devices=1"):
        convert_batchnorm(nn.Sequential(Odd(3)))


def test_layers_are_a_resnets_stages_and_a_transformers_blocks():
    backbone, images = made("resnet")
    layers = backbone.hidden_layers(images=images)
    assert [layer.pooled.shape[1] for layer in layers] == backbone.layer_widths == [64, 8, 16, 24, 32]
    assert torch.equal(layers[-2].positions, backbone(images).stages[-2].flatten(2).transpose(1, 2))
    backbone, images = made("vit")
    with torch.no_grad():
        layers, (_, maps) = backbone.hidden_layers(images=images), backbone.model.forward_intermediates(images)
    assert [layer.pooled.shape[1] for layer in layers] == backbone.layer_widths == [16] * 3
    torch.testing.assert_close(layers[1].positions, maps[0].flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-6)
    assert torch.equal(layers[-1].pooled, backbone(images).pooled)


def test_flops_are_those_of_torchvisions_resnet18():
    torchvision = pytest.importorskip("torchvision")
    counts = []
    with torch.device("meta"):
        models = TimmBackbone(name="resnet18"), torchvision.models.resnet18(num_classes=1)
    for model in models:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(torch.empty(1, 3, 224, 224, device="meta"))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] - 2 * 512


def test_a_transformer_takes_other_sizes_shown_and_hidden_patches_and_the_mean():
    backbone, images = made("vit")
    assert backbone.patches == (8, 4) and made("swin")[0].patches is None
    larger = torch.randn(2, 3, 48, 48)
    assert backbone(larger).grid == (6, 6)
    order = torch.stack([torch.randperm(16), torch.randperm(16)])
    whole, shown = backbone(images), backbone(images, visible=order)
    wanted = whole.positions.gather(1, order[..., None].expand(-1, -1, 16))
    torch.testing.assert_close(shown.positions, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shown.pooled, whole.pooled, rtol=1e-4, atol=1e-5)
    masked = torch.zeros(2, 16, dtype=torch.bool)
    masked[:, 5] = True
    token = torch.zeros(16)
    hidden, changed = backbone(images, masked=masked, mask_token=token), images.clone()
    changed[:, :, 8:16, 8:16] += 1.0  # the sixth patch, which is not seen
    assert torch.equal(backbone(changed, masked=masked, mask_token=token).positions, hidden.positions)
    assert not torch.allclose(hidden.positions, whole.positions)
    mean = TimmBackbone(**backbone.kwargs | {"pooling": "mean"}).eval()
    mean.load_state_dict(backbone.state_dict())
    assert torch.equal(mean(images).pooled, whole.positions.mean(1))
    with pytest.raises(RunError, match="images of 30 x 32 pixels are no whole number of patches"):
        backbone(images[:, :, :30])


def test_activation_checkpointing_keeps_less_and_gives_the_same_gradient():
    backbone, images = made("vit")
    kept, gradients = [], []
    for checkpointing in (False, True):
        backbone.set_compute(compiled=False, activation_checkpointing=checkpointing, sharded=False)
        backbone.zero_grad()
        seen = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda part, seen=seen: seen.append(part) or part, lambda part: part
        ):
            loss = backbone(images).pooled.square().sum()
        loss.backward()
        kept.append(sum(part.numel() for part in seen))
        gradients.append([part.grad.clone() for part in backbone.parameters()])
    backbone.model.set_grad_checkpointing(False)
    assert kept[1] < 0.5 * kept[0] and all(map(torch.equal, *gradients))
    with pytest.raises(ValueError, match=r"TimmBackbone has no activation checkpointing: set trainer"):
        made("resnet")[0].set_compute(compiled=False, activation_checkpointing=True, sharded=False)


def test_weights_come_from_files_strictly_without_the_classifier(tmp_path):
    from safetensors.torch import save_file

    backbone, images = made("resnet")
    whole = timm.create_model("resnet18", **STAGES, num_classes=7)
    whole.load_state_dict({**whole.state_dict(), **backbone.model.state_dict()})
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    for name in ("whole.safetensors", "whole.pth"):
        read = TimmBackbone(name="resnet18", arguments=STAGES, weights=str(tmp_path / name)).eval()
        assert torch.equal(read(images).pooled, backbone(images).pooled)
    lacking = {name: part for name, part in whole.state_dict().items() if name != "layer4.0.conv2.weight"}
    save_file(lacking, tmp_path / "lacking.safetensors")
    with pytest.raises(ValueError, match=r"lacking.*layer4\.0\.conv2\.weight"):
        TimmBackbone(name="resnet18", arguments=STAGES, weights=str(tmp_path / "lacking.safetensors"))
    small, pictures = made("mobilenet")
    small.export(tmp_path)
    again = TimmBackbone(name="mobilenetv3_small_050", weights=str(tmp_path)).eval()
    assert torch.equal(again(pictures).pooled, small(pictures).pooled)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "resnet19"}, r"backbone\.name='resnet19' is not a model of timm: choose one such as .*resnet18"),
        ({"name": "nosuch"}, r"backbone\.name='nosuch' is not a model of timm: choose one such as resnet50, convnext"),
        (
            {"name": "resnet18", "arguments": {"in_chans": 3}, "in_channels": 1},
            r"has in_chans=3: leave it out: .* of 1 ch",
        ),
        ({"name": "resnet18", "arguments": {"num_classes": 5}}, r"backbone\.arguments has num_classes=5: leave it out"),
        ({"name": "resnet18", "arguments": {"depthh": 3}}, r"depthh.* cannot be built by timm: .*unexpected"),
        ({"name": "resnet18", "weights": "nowhere.pth"}, r"backbone\.weights=nowhere\.pth is not there: give a file"),
        ({"name": "resnet18", "arguments": STAGES, "pooling": "mean"}, r"backbone\.pooling=mean .*choose model"),
    ],
)
def test_mistakes_are_said_in_a_line(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        TimmBackbone(**given)
    assert "\n" not in str(caught.value)


def test_without_timm_the_cure_is_said(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"and timm is not installed: pip install 'pretraining\[timm\]'"):
        TimmBackbone(name="resnet18")
    monkeypatch.setitem(sys.modules, "timm.data", None)
    with pytest.raises(HandoffError, match=r"handoff=timm:resnet18 cannot be read: timm is not installed: pip install"):
        handoff.read("timm:resnet18", modality=IMAGE)


def test_a_network_for_another_size_says_so():
    backbone, _ = made("swin")
    with pytest.raises(RunError, match=r"swin_tiny.* does not take images of 48 x 48 pixels .*backbone\.size"):
        backbone(torch.randn(1, 3, 48, 48))


def test_an_error_that_is_not_of_the_size_stays_what_it_is():
    def fail(_, given):
        if not given[0].is_meta:
            raise RuntimeError("the device is broken")

    backbone, images = made("resnet")
    handle = backbone.model.conv1.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="the device is broken"):
        backbone(images)
    handle.remove()


def test_a_network_without_a_single_map_is_refused():
    shape = {"embed_dim": (16, 32), "depth": ((1, 1, 0),), "num_heads": (2, 2), "mlp_ratio": (1, 1, 1)}
    backbone = TimmBackbone(name="crossvit_9_240", arguments=shape)
    with pytest.raises(
        RunError, match=r"crossvit_9_240 ends with no single map of cells: choose another model of timm"
    ):
        backbone(torch.zeros(1, 3, 240, 240))


def test_a_directory_of_timm_is_a_hand_off_with_its_preparation(tmp_path):
    from timm.models import save_for_hf

    model = timm.create_model("resnet18", **STAGES, num_classes=5).eval()
    prepared = {"input_size": (3, 96, 96), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 0.8}
    prepared |= {"interpolation": "bilinear"}
    save_for_hf(model, str(tmp_path), safe_serialization=True, data_config=prepared)
    found = handoff.read(f"timm:{tmp_path}", modality=IMAGE)
    wanted = {"size": 96, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop": 0.8, "interpolation": "bilinear"}
    assert found.preprocess.kwargs == wanted | {"channels": 3}
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
    assert torch.equal(found.backbone.eval()(images).pooled, features)
    file = f"timm:test_resnet:{tmp_path / 'nowhere.safetensors'}"
    with pytest.raises(HandoffError, match=r"handoff=timm:test_resnet.* cannot be read: .*is not there"):
        handoff.read(file, modality=IMAGE)
