"""The bridge to finetuning: what goes in comes out, through this package and through the home libraries alone."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pretraining import handoff
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess
from pretraining.modality import Tower
from pretraining.pairs.modality import PAIRS
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.data.base import TextFiles
from pretraining.text.modality import TEXT
from pretraining.text.tokenizer_recipes import WordPiece
from tests.runs import write_corpus


@pytest.fixture(scope="module")
def preprocess(tmp_path_factory, cache_dir):
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"))
    sizes = {"max_tokens": 32, "batch_size": 8, "eval_batch_size": 8, "workers": 0}
    return WordPiece(vocab_size=200, lowercase=True, sample_bytes=10**6).fit(
        TextFiles(path=str(corpus), cache_dir=str(cache_dir), **sizes)
    )


def bert(preprocess):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return TransformersBackbone(
        config={"model_type": "bert", **shape}, vocab_size=preprocess.vocab_size, pad_id=preprocess.pad_id
    ).eval()


ORIGIN = {"objective": "Test", "seed": 3}


def test_a_text_hand_off_gives_the_same_features_here_and_through_transformers(preprocess, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    backbone = bert(preprocess)
    path = handoff.write(
        tmp_path / "handoff" / "step-0000001", towers=TEXT.towers(backbone, preprocess), origin=ORIGIN, heads={}
    )
    given = handoff.read(str(tmp_path / "handoff" / "last"))
    assert given.path == str(path) and given.card["origin"] == ORIGIN
    text = "The quick brown fox jumps over a lazy dog."
    tokenizer = AutoTokenizer.from_pretrained(path)
    inputs = tokenizer(text, return_tensors="pt")
    inner = preprocess.encode([text])[0].tolist()
    assert inputs["input_ids"][0].tolist() == [preprocess.cls_id, *inner, preprocess.sep_id]
    document_ids = torch.ones_like(inputs["input_ids"])
    expected = backbone(input_ids=inputs["input_ids"], document_ids=document_ids)
    again = given.backbone.eval()(input_ids=inputs["input_ids"], document_ids=document_ids)
    assert torch.equal(expected.positions, again.positions) and torch.equal(expected.pooled, again.pooled)
    model, report = AutoModel.from_pretrained(path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.allclose(model.eval()(**inputs).last_hidden_state, expected.positions, atol=1e-6)


def test_an_image_hand_off_loads_into_a_torchvision_resnet(tmp_path):
    import torchvision

    torch.manual_seed(0)
    backbone = TorchvisionBackbone(name="resnet18").to(memory_format=torch.channels_last).eval()
    path = handoff.write(
        tmp_path / "step-0000001", towers=IMAGE.towers(backbone, ImagePreprocess.imagenet()), origin=ORIGIN, heads={}
    )
    model = torchvision.models.resnet18()
    model.fc = nn.Identity()
    model.load_state_dict(load_file(path / "model.safetensors"), strict=True)
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(model.eval()(images), backbone(images=images).pooled, atol=1e-5)
    again = handoff.read(str(path)).backbone.state_dict()
    assert all(torch.equal(again[name], value) for name, value in backbone.state_dict().items())


def test_the_card_s_own_lines_load_the_weights(tmp_path):
    backbone = TorchvisionBackbone(name="resnet18", stem="cifar")
    path = handoff.write(
        tmp_path / "step-0000001", towers=IMAGE.towers(backbone, ImagePreprocess.imagenet()), origin=ORIGIN, heads={}
    )
    code = re.search(r"```python\n(.*?)```", (path / "README.md").read_text(), re.DOTALL).group(1)
    scope = {}
    exec(code.replace("DIR", str(path)), scope)
    assert "model" in scope


def test_random_weights_share_the_architecture_and_differ_by_seed(preprocess, tmp_path):
    backbone = bert(preprocess)
    path = handoff.write(tmp_path / "step-0000001", towers=TEXT.towers(backbone, preprocess), origin=ORIGIN, heads={})
    drawn = [handoff.read(f"random:{path}", seed=seed) for seed in (1, 1, 2)]
    states = [given.backbone.state_dict() for given in drawn]
    name = "model.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(states[0][name], states[1][name]) and not torch.equal(states[0][name], states[2][name])
    assert not torch.equal(states[0][name], backbone.state_dict()[name])
    assert drawn[0].card["origin"]["objective"] == "random" and drawn[0].digest == handoff.read(str(path)).digest


def test_transformers_checkpoints_are_hand_offs_too(preprocess, tmp_path):
    from transformers import BertForMaskedLM

    model = BertForMaskedLM(bert(preprocess).model.config)
    model.save_pretrained(tmp_path)
    preprocess.save(tmp_path)
    given = handoff.read(f"hf:{tmp_path}", modality=TEXT)
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(given.backbone.model.state_dict()[name], model.bert.state_dict()[name])
    with pytest.raises(handoff.HandoffError, match="cannot be read"):
        handoff.read(f"hf:{tmp_path}/elsewhere", modality=TEXT)


def test_a_hand_off_of_the_same_step_must_hold_the_same_weights(preprocess, tmp_path):
    backbone = bert(preprocess)
    options = {"origin": ORIGIN, "heads": {}}
    path = handoff.write(tmp_path / "step-0000001", towers=TEXT.towers(backbone, preprocess), **options)
    before = path.stat().st_ino
    assert (
        handoff.write(tmp_path / "step-0000001", towers=TEXT.towers(backbone, preprocess), **options).stat().st_ino
        == before
    )
    with torch.no_grad():
        backbone.input_embeddings.weight.add_(1)
    with pytest.raises(handoff.HandoffError, match="holds other weights"):
        handoff.write(tmp_path / "step-0000001", towers=TEXT.towers(backbone, preprocess), **options)


def test_nothing_is_left_behind_when_writing_fails(preprocess, tmp_path, monkeypatch):
    monkeypatch.setattr(
        type(preprocess), "save", lambda self, directory: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="no space left on"):
        handoff.write(
            tmp_path / "step-0000001", towers=TEXT.towers(bert(preprocess), preprocess), origin=ORIGIN, heads={}
        )
    assert list(tmp_path.iterdir()) == []


def test_the_card_lists_every_file_with_its_digest(preprocess, tmp_path):
    from pretraining.cache import sha256

    path = handoff.write(
        tmp_path / "step-0000001",
        towers=TEXT.towers(bert(preprocess), preprocess),
        origin=ORIGIN,
        heads={"bias": torch.ones(3)},
    )
    card = json.loads((path / "handoff.json").read_text())
    assert set(card["sha256"]) == {file.name for file in path.iterdir()} - {"handoff.json"}
    assert all(sha256(path / name) == digest for name, digest in card["sha256"].items())
    assert {"model.safetensors", "heads.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(
        card["sha256"]
    )


def test_a_hand_off_of_two_towers_is_read_whole_or_one_at_a_time(preprocess, tmp_path):
    torch.manual_seed(0)
    image = TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=8)
    towers = {"image": Tower(image, ImagePreprocess.imagenet()), "text": Tower(bert(preprocess), preprocess)}
    path = handoff.write(tmp_path / "step-0000001", towers=towers, origin=ORIGIN, heads={"scale": torch.ones(1)})
    assert {"image/model.safetensors", "text/model.safetensors", "heads.safetensors"} <= set(
        json.loads((path / "handoff.json").read_text())["sha256"]
    )
    whole = handoff.read(str(path))
    assert list(whole.towers) == ["image", "text"]
    for name, tower in towers.items():
        one = handoff.read(str(path), tower=name)
        for found in (whole.towers[name].backbone, one.backbone):
            expected = tower.backbone.state_dict()
            assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())
    assert one.preprocess.digest == preprocess.digest and one.backbone.modality is TEXT
    with pytest.raises(handoff.HandoffError, match="holds image, text: choose one with tower="):
        _ = whole.backbone
    with pytest.raises(handoff.HandoffError, match="has no tower 'audio': choose tower=image, text"):
        handoff.read(str(path), tower="audio")
    drawn = handoff.read(f"random:{path}", tower="image", seed=1).backbone
    assert not torch.equal(drawn.model.conv1.weight, image.model.conv1.weight)
    code = re.search(r"```python\n(.*?)```", (path / "README.md").read_text(), re.DOTALL).group(1)
    exec(code.replace("DIR", str(path)), {})


def as_before(path, modality, backbone, preprocess):
    """Rewrite a hand-off's card as format version 2 had it."""
    card = json.loads((path / "handoff.json").read_text())
    (tower,) = card.pop("towers").values()
    former = {"_target_": backbone, "kwargs": tower["backbone"]["kwargs"]}
    card |= {"version": 2, "modality": modality, "backbone": former}
    card["preprocess"] = {"_target_": preprocess, "kwargs": tower["preprocess"]["kwargs"]}
    (path / "handoff.json").write_text(json.dumps(card))


def test_a_hand_off_of_format_version_2_is_read_by_the_classes_former_names(preprocess, tmp_path):
    text = bert(preprocess)
    path = handoff.write(tmp_path / "a" / "step-0000001", towers=TEXT.towers(text, preprocess), origin=ORIGIN, heads={})
    former = "pretraining.backbones.huggingface.TransformersBackbone", "pretraining.preprocess.text.TextPreprocess"
    as_before(path, "text", *former)
    given = handoff.read(str(path))
    assert all(torch.equal(value, text.state_dict()[name]) for name, value in given.backbone.state_dict().items())
    assert given.preprocess.digest == preprocess.digest and given.card["origin"] == ORIGIN
    image = TorchvisionBackbone(name="resnet18", stem="cifar")
    path = handoff.write(
        tmp_path / "b" / "step-0000001",
        towers=IMAGE.towers(image, ImagePreprocess.imagenet()),
        origin=ORIGIN,
        heads={},
    )
    former = "pretraining.backbones.torchvision.TorchvisionBackbone", "pretraining.preprocess.image.ImagePreprocess"
    as_before(path, "image", *former)
    given = handoff.read(f"random:{path}", seed=3)
    assert given.preprocess.size == 224 and given.backbone.kwargs == image.kwargs


def test_a_library_that_the_modality_does_not_read_is_refused_with_those_it_does():
    with pytest.raises(handoff.HandoffError, match=r"torchvision:resnet18 is not read for text.*hf:NAME"):
        handoff.read("torchvision:resnet18", modality=TEXT)
    with pytest.raises(handoff.HandoffError, match=r"hf:x is not read for pairs: .* by pretraining or random:DIR"):
        handoff.read("hf:x", modality=PAIRS)
    with pytest.raises(handoff.HandoffError, match=r"mfcc:x is not read for image.*torchvision:NAME, hf:NAME"):
        handoff.read("mfcc:x", modality=IMAGE)


OWN = """
from torch import nn
from safetensors.torch import load_file, save_file
from pretraining.backbones.base import Backbone, Features
from pretraining.image.modality import IMAGE
from pretraining.modality import Modality

class Own(Modality):
    name, unit = "own", "things"

class Tiny(Backbone):
    modality, dim, kwargs = IMAGE, 2, {}
    def __init__(self):
        super().__init__()
        self.model = nn.Linear(2, 2)
    def forward(self, images): ...
    def blocks(self): return [self.model]
    def export(self, directory): save_file(self.model.state_dict(), directory / "model.safetensors")
    def load(self, directory): self.model.load_state_dict(load_file(directory / "model.safetensors"))
    def usage(self): return ""
"""


def test_a_backbone_of_one_s_own_is_built_where_its_package_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "my_package.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_package

    tower = Tower(my_package.Tiny(), ImagePreprocess.imagenet())
    path = str(handoff.write(tmp_path / "h" / "step-0000001", towers={"image": tower}, origin=ORIGIN, heads={}))
    for modality in (None, IMAGE):
        with pytest.raises(handoff.HandoffError, match=r"refused, it may run foreign code.*add trust=\[my_package\]"):
            handoff.read(path, modality=modality)
    for reference in (path, f"random:{path}"):
        assert isinstance(handoff.read(reference, modality=IMAGE, trust=["my_package"]).backbone, my_package.Tiny)
    monkeypatch.setattr(my_package.Own, "__abstractmethods__", frozenset())
    assert isinstance(handoff.read(path, modality=my_package.Own()).backbone, my_package.Tiny)
    assert set(handoff.trusted_packages(None)) == {"pretraining."}
