"""Image hand-offs as timm, torchvision and transformers read them: the same features, by the lines of a README.md."""

import json
import re
import subprocess
import sys

import pytest
import torch

pytest.importorskip("timm")

from pretraining import handoff
from pretraining.errors import RunError
from pretraining.export import export
from pretraining.image.backbones.fixed_positions import FixedPositions
from pretraining.image.backbones.timm_model import TimmBackbone
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.backbones.transformers_vision import TransformersVision
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess

VIT = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 37}
TIMM_VIT = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
NARROW = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
CLIP = {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2}
CLIP |= {"num_attention_heads": 2, "intermediate_size": 32}
MADE = {
    "resnet18": lambda: TorchvisionBackbone(name="resnet18", in_channels=1),
    "resnet_short": lambda: TorchvisionBackbone(name="resnet", layers=[1, 1, 2, 1]),
    "resnet_narrow": lambda: TorchvisionBackbone(name="resnet", layers=[1, 2, 1, 1], width=8),
    "resnet_cifar": lambda: TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=8, stem="cifar"),
    "vit": lambda: TorchvisionBackbone(name="vision_transformer", options=VIT),
    "vit_mean": lambda: FixedPositions(options=VIT, pooling="mean", in_channels=1),
    "timm_resnet": lambda: TimmBackbone(name="resnet18", arguments={"layers": [1, 1, 1, 1]}),
    "timm_narrow": lambda: TimmBackbone(
        name="resnet50", arguments={"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
    ),
    "timm_vit": lambda: TimmBackbone(name="vit_tiny_patch16_224", arguments=TIMM_VIT, size=32),
    "timm_mean": lambda: TimmBackbone(name="vit_tiny_patch16_224", arguments=TIMM_VIT, size=32, pooling="mean"),
    "timm_registers": lambda: TimmBackbone(name="vit_small_patch14_reg4_dinov2", arguments=TIMM_VIT, size=32),
    "timm_convnext": lambda: TimmBackbone(name="test_convnext"),
    "timm_mobilenet": lambda: TimmBackbone(name="mobilenetv3_small_050"),
    "clip": lambda: TransformersVision(config=CLIP),
}
FORMS = {  # what each is written as; elsewhere it is refused
    "timm": "resnet18 resnet_short vit vit_mean timm_resnet timm_narrow timm_vit timm_mean timm_registers "
    "timm_convnext timm_mobilenet",
    "torchvision": "resnet18 resnet_short resnet_narrow resnet_cifar vit vit_mean timm_resnet timm_vit timm_mean",
    "transformers": "resnet18 resnet_short resnet_narrow vit vit_mean timm_resnet timm_narrow timm_vit timm_mean clip",
}
WRITTEN = [(form, kind) for form, kinds in FORMS.items() for kind in kinds.split()]
REFUSED = [(form, kind) for form in FORMS for kind in MADE if (form, kind) not in WRITTEN]
FEATURES = re.compile(r"an image's features are (?:the mean of )?(\S.*?)(?: over rows and columns)?$", re.MULTILINE)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Write a hand-off of each network once; batch statistics are none that a fresh network has."""
    found = {}

    def of(kind):
        if kind not in found:
            torch.manual_seed(0)
            backbone = MADE[kind]()
            channels, size = backbone.kwargs["in_channels"], 32
            backbone.train()(torch.randn(8, channels, size, size) + 0.5)
            scale = {"mean": [0.3] * channels, "std": [0.4] * channels}
            preprocess = ImagePreprocess(size=size, channels=channels, crop=0.8, interpolation="bilinear", **scale)
            place = tmp_path_factory.mktemp(kind) / "step-1"
            handoff.write(place, towers=IMAGE.towers(backbone, preprocess), origin={"objective": "SimCLR"}, heads={})
            found[kind] = handoff.read(str(place), modality=IMAGE)
        return found[kind]

    return of


def lines_of(readme):
    """Take the lines that load a model, and the expression of an image's features."""
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    told = FEATURES.search(code)[1]
    if "forward_features" in told:
        told = told.replace("model.", "model.eval().") + ".mean((2, 3))"
    elif "encoder" in told:  # torchvision's transformer by the mean of its patches: no expression of one line
        told = None
    return code, told


def test_every_network_is_written_somewhere():
    assert {kind for _, kind in WRITTEN} == set(MADE) and len(REFUSED) > 10


@pytest.mark.parametrize(("form", "kind"), WRITTEN)
def test_the_features_are_the_same_by_the_lines_of_the_readme(given, form, kind, tmp_path):
    source = given(kind)
    export(source, form, tmp_path / "out")
    code, told = lines_of((tmp_path / "out" / "README.md").read_text())
    scope = {}
    exec(code.replace("DIR", str(tmp_path / "out")), scope)
    images = torch.randn(2, source.preprocess.channels, 32, 32)
    with torch.no_grad():
        wanted = source.backbone.eval()(images).pooled
        if told is None:
            scope["model"].encoder.register_forward_hook(lambda _, __, out: scope.update(tokens=out))
            scope["model"].eval()(images)
            found = scope["tokens"][:, 1:].mean(1)
        else:
            found = eval(told, scope | {"images": images})
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    if (form, kind) in [("timm", "timm_convnext"), ("timm", "timm_resnet"), ("torchvision", "resnet_short")]:
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("form", FORMS)
def test_positions_of_other_images_are_refused(form, tmp_path):
    network = MADE["vit"]()
    prepared = ImagePreprocess(size=48, channels=3, mean=[0.4] * 3, std=[0.3] * 3)
    place = handoff.write(tmp_path / "step-1", towers=IMAGE.towers(network, prepared), origin={"a": "b"}, heads={})
    with pytest.raises(RunError, match=r"those of 32 pixels, and its images have 48: take to=onnx"):
        export(handoff.read(str(place)), form, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("form", "kind"), REFUSED)
def test_what_has_no_equal_is_refused_in_a_line(given, form, kind, tmp_path):
    with pytest.raises(RunError, match=rf"to={form}: \w+.* has no equal there \(.*load the hand-off by") as caught:
        export(given(kind), form, tmp_path / "out")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert kind != "resnet_cifar" or "have no stem=cifar; to=torchvision and to=onnx have it" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_timms_directory_is_a_hand_off_again_with_the_same_bits_and_preparation(given, tmp_path):
    for kind in ("timm_convnext", "timm_vit", "timm_mean", "timm_registers"):
        source = given(kind)
        export(source, "timm", tmp_path / kind)
        found = handoff.read(f"timm:{tmp_path / kind}", modality=IMAGE)
        images = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            assert torch.equal(found.backbone.eval()(images).pooled, source.backbone.eval()(images).pooled)
        assert found.preprocess.kwargs == source.preprocess.kwargs


def test_what_prepares_images_goes_along(given, tmp_path):
    from transformers import AutoImageProcessor

    picture = torch.randint(0, 256, (3, 60, 40), dtype=torch.uint8)
    source = given("vit")
    export(source, "transformers", tmp_path / "out")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    assert theirs.shape == (1, 3, 32, 32) and (theirs - source.preprocess(picture[None])).abs().max() < 0.02
    assert "transformers rounds pixels to 8 bits" in (tmp_path / "out" / "README.md").read_text()
    export(source, "torchvision", tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "preprocess.json").read_text()) == source.preprocess.kwargs
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["image_size"], config["num_hidden_layers"], config["intermediate_size"]) == (32, 2, 37)


@pytest.mark.slow
def test_the_folders_load_where_this_package_is_not(given, tmp_path):
    torch.manual_seed(0)
    images, told = torch.randn(2, 3, 32, 32), []
    torch.save(images, tmp_path / "images.pt")
    for form in FORMS:
        export(given("timm_vit"), form, tmp_path / form)
        code, features = lines_of((tmp_path / form / "README.md").read_text())
        told += [code.replace("DIR", str(tmp_path / form)), f"found.append({features})"]
    start = ["import sys", "sys.modules.update({name: None for name in ('pretraining', 'finetuning')})", "import torch"]
    start += ["found = []", f"images = torch.load({str(tmp_path / 'images.pt')!r})"]
    end = f"torch.save(found, {str(tmp_path / 'found.pt')!r})"
    subprocess.run([sys.executable, "-I", "-c", "\n".join([*start, *told, end])], check=True, cwd=tmp_path)
    with torch.no_grad():
        wanted = given("timm_vit").backbone.eval()(images).pooled
    for found in torch.load(tmp_path / "found.pt"):
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-5, atol=1e-5)
