"""Hand-offs of pairs that are half there, altered or hostile: each is refused in one line that says what to do."""

import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from finetuning import launch as finetuning
from finetuning.tasks.zero_shot import texts_of
from pretraining import handoff
from pretraining.cache import sha256
from pretraining.cli.configuration import compose
from pretraining.errors import HandoffError, RunError
from pretraining.evaluate import evaluate
from pretraining.image.preprocess import ImagePreprocess
from pretraining.launch import main
from pretraining.pairs.space import Space
from pretraining.pairs.towers import backbone_of
from pretraining.text.tokenizer import TextPreprocess
from pretraining.text.tokenizer_recipes import WordPiece
from tests.pairs.test_bad_input import photos
from tests.pairs.test_runs import QUIET, SCENES, SMALL, finetune, pretrain


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("whole"), "objective=clip") / "handoff" / "last"


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def edited(place, change=lambda card: None, **weights):
    """Change a card as someone would who knows how it is checked; `weights` are new ones of its files."""
    for name, tensors in weights.items():
        save_file(tensors, place / name)
    card = json.loads((place / "handoff.json").read_text())
    card["sha256"] |= {name: sha256(place / name) for name in card["sha256"] if (place / name).is_file()}
    change(card)
    (place / "handoff.json").write_text(json.dumps(card))


def read(place):
    """Both networks, and each alone: whichever of these is refused, all that follow would be."""
    return handoff.read(str(place)), handoff.read(str(place), tower="image"), handoff.read(str(place), tower="text")


def without_weights(place):
    (place / "text" / "model.safetensors").unlink()


def without_weights_on_the_card(place):
    (place / "text" / "model.safetensors").unlink()
    edited(place, lambda card: card["sha256"].pop("text/model.safetensors"))


def altered(place):
    weights = load_file(place / "image" / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, place / "image" / "model.safetensors")


def of_other_shapes(place):
    weights = load_file(place / "image" / "model.safetensors")
    edited(place, **{"image/model.safetensors": weights | {"class_token": torch.zeros(1, 1, 3)}})


def the_others_weights(place):
    edited(place, **{"image/model.safetensors": load_file(place / "text" / "model.safetensors")})


def pickled(place):
    (place / "text" / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": np.zeros(2)}))


def linked_file(place):
    outside = place.parent / "model.safetensors"
    (place / "text" / "model.safetensors").rename(outside)
    (place / "text" / "model.safetensors").symlink_to(outside)


def linked_folder(place):
    (place / "text").rename(place.parent / "text")
    (place / "text").symlink_to(place.parent / "text")


def leaving_folder(place):
    shutil.copytree(place / "text", place.parent / "elsewhere")
    name = "../elsewhere/model.safetensors"

    def change(card):
        card["towers"]["text"]["directory"] = "../elsewhere"
        card["sha256"][name] = sha256(place / name)

    edited(place, change)


def absolute_folder(place):
    edited(place, lambda card: card["towers"]["text"].update(directory=str(place / "text")))


def foreign_class(place):
    edited(
        place, lambda card: card["towers"]["text"]["backbone"].update(_target_="subprocess.Popen", kwargs={"args": "x"})
    )


def no_such_backbone(place):
    edited(place, lambda card: card["towers"]["text"]["backbone"]["kwargs"].update(hidden=3))


def no_towers(place):
    edited(place, lambda card: card.update(towers={}))


def a_list_of_towers(place):
    edited(place, lambda card: card.update(towers=["image", "text"]))


def half_a_tower(place):
    edited(place, lambda card: card["towers"]["text"].pop("preprocess"))


def taught(number):
    """Make a damage: captions were cut at what is no number of tokens."""
    return lambda place: edited(
        place, lambda card: card["recipe"]["collate"]["sides"]["text"].update(max_tokens=number)
    )


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (without_weights, r"lacks text/model.safetensors: copy the whole directory again"),
        (without_weights_on_the_card, r"does not list model.safetensors: write the hand-off again"),
        (altered, r"image/model.safetensors was altered .*: copy it again"),
        (of_other_shapes, r"image: the weights do not fit the backbone that handoff.json describes"),
        (the_others_weights, r"image: the weights do not fit the backbone"),
        (pickled, r"holds pytorch_model.bin, which may be pickled code: remove it"),
        (linked_file, r"holds model.safetensors, a link to .*: put the files themselves there"),
        (linked_folder, r"holds text, a link to .*: put the files themselves there"),
        (leaving_folder, r"names \.\./elsewhere.*outside of the hand-off: write it again"),
        (absolute_folder, r"names /.*/text, outside of the hand-off"),
        (foreign_class, r"asks for 'subprocess.Popen', which is no Backbone of this package: refused"),
        (no_such_backbone, r"describes a TransformersBackbone that cannot be: .*hidden"),
        (no_towers, r"has no whole 'towers'"),
        (a_list_of_towers, r"handoff.json has no whole 'towers'"),
        (half_a_tower, r"handoff.json has no whole 'towers.text.preprocess'"),
        *(
            (taught(number), rf"/text: .* its collate has max_tokens={number!r}, which is no number of tokens")
            for number in ("many", 2.5, True, -3)
        ),
    ],
)
def test_a_damaged_hand_off_is_refused(copy, damage, told):
    read(copy)
    damage(copy)
    with pytest.raises(HandoffError, match=told) as error:
        read(copy)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_no_more_tokens_are_read_than_there_are_positions_and_no_fewer_than_frame_a_text(copy, tmp_path):
    positions = handoff.read(str(copy), tower="text").backbone.max_tokens
    taught(10**9)(copy)
    assert Space.read(handoff.read(str(copy), tower="image")).other_tokens == positions
    taught(2)(copy)
    with pytest.raises(HandoffError, match=r"max_tokens=2 leaves no room beside 2 special tokens"):
        finetune(copy, tmp_path / "run", "task=zero_shot", *SCENES)
    assert not (tmp_path / "run").exists()


def test_links_inside_and_to_a_hand_off_are_followed(copy):
    os.symlink(copy, copy.with_name("link"))
    (copy / "again").symlink_to("README.md")
    read(copy.with_name("link"))


def heads(place):
    return load_file(place / "heads.safetensors")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda own: own.pop("projections.text.weight"), r"holds no second network in the same space"),
        (lambda own: own.pop("logit_scale"), r"holds no second network in the same space"),
        (
            lambda own: own.update({"projections.image.weight": torch.ones(8, 5)}),
            r"projections that do not fit \(image \(8, 5\) for a network of width 16",
        ),
        (
            lambda own: own.update({"projections.text.weight": torch.ones(7, 16)}),
            r"projections that do not fit .*text \(7, 16\)",
        ),
        (lambda own: own.update(logit_scale=torch.tensor([torch.nan])), r"a scale or shift that is no number"),
        (lambda own: own.update(logit_scale=torch.ones(3)), r"a scale or shift that is no number"),
        (lambda own: own.update(logit_scale=torch.tensor([500.0])), r"a scale or shift that is no number"),
        (
            lambda own: own["projections.image.weight"].view(-1)[:1].fill_(torch.nan),
            r"values in projections.image.weight that are no numbers: write",
        ),
        (
            lambda own: own.update({"projections.text.weight": own["projections.text.weight"].int()}),
            r"values in projections.text.weight that are no numbers",
        ),
    ],
)
def test_a_space_that_is_half_there_is_refused(copy, tmp_path, change, told):
    own = heads(copy)
    change(own)
    edited(copy, **{"heads.safetensors": own})
    with pytest.raises(HandoffError, match=told):
        finetune(copy, tmp_path / "run", "task=zero_shot", *SCENES)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda own: own.pop("logit_scale"),
        lambda own: own.update(more=torch.ones(1)),
        lambda own: own.update({"projections.text.weight": torch.ones(7, 16)}),
    ],
)
def test_heads_that_are_not_the_objectives_are_not_evaluated(copy, change):
    own = heads(copy)
    change(own)
    edited(copy, **{"heads.safetensors": own})
    with pytest.raises(HandoffError, match=r"heads.safetensors does not fit the objective") as error:
        evaluate(compose([f"handoff={copy}", "data=digit_scenes", "data.size=32"], root="evaluate"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["task=compositional", "data.label=caption"],
            r"got labels such as \['a .* for Compositional, .*data.label=swap",
        ),
        (["task=image_text_retrieval", "data.label=swap"], r"for ImageTextRetrieval, .*data.label=caption"),
        (["task=image_text_retrieval", "data.label=digit", "data.most=1"], r"got labels such as \d for ImageTextRet"),
    ],
)
def test_labels_that_are_no_captions_are_refused(whole, tmp_path, words, told):
    small = [
        "data.size=32",
        "data.training=4",
        "data.examples=4",
        "data.least=2" if "swap" in words[1] else "data.least=1",
    ]
    with pytest.raises(RunError, match=told):
        finetune(whole, tmp_path / "run", *words, *small)
    assert not (tmp_path / "run").exists()


def test_images_that_are_smaller_than_the_network_reads_are_said(whole, tmp_path, capsys):
    """Once, although there are three splits; of `task=captioned_files`, too, which reads them small unless told."""
    for size in (16, 32):
        small = [
            f"data.decoding.size={size}",
            f"data.path={tmp_path / 'photos'}",
            f"data.cache_dir={tmp_path / 'cache'}",
        ]
        (tmp_path / "photos").mkdir(exist_ok=True)
        photos(tmp_path / "photos")
        finetune(whole, tmp_path / f"run-{size}", "task=captioned_files", "logger.progress=true", *small)
        told = "images of 16 pixels to a side are enlarged to the 32 that this network reads: .* data.decoding.size=32"
        said = capsys.readouterr().err
        assert len(re.findall(told, said)) == (size == 16)
        assert "0 parameters train" in said and "schedule" not in said  # of steps that are never taken


def test_a_network_is_not_fed_what_another_preprocessing_makes(whole):
    """Words of another vocabulary, even of one as large, and pictures of another size or scale are nothing it knows."""
    words, pictures = (handoff.read(str(whole), tower=side).preprocess for side in ("text", "image"))
    assert backbone_of(handoff=str(whole), tower="text", preprocess=words, vocab_size=9).dim == 16
    with pytest.raises(
        ValueError, match=r"backbone.towers.text.impl=fast cannot change: add ~backbone.towers.text.impl"
    ):
        backbone_of(handoff=str(whole), tower="text", preprocess=words, vocab_size=9, impl="fast")
    assert backbone_of(handoff=str(whole), tower="image", preprocess=ImagePreprocess(**pictures.kwargs)).dim == 16
    other = WordPiece(vocab_size=words.vocab_size, lowercase=True, sample_bytes=10**5).train(iter(["some new words"]))
    cure = r"add preprocess@preprocess.sides.text=_handoff preprocess.sides.text.handoff=.* preprocess.sides.text.tower"
    with pytest.raises(
        ValueError, match=rf"with other tokens .*vocabulary \d+\) than preprocess.sides.text.*: {cure}="
    ):
        backbone_of(handoff=str(whole), tower="text", preprocess=TextPreprocess(tokenizer=other))
    for name, value in {"mean": [0.5] * 3, "std": [0.2] * 3, "size": 24, "interpolation": "bilinear"}.items():
        fed = ImagePreprocess(**pictures.kwargs | {name: value})
        told = rf"trained with {name}={re.escape(str(pictures.kwargs[name]))}, but preprocess.sides.image has {name}="
        with pytest.raises(ValueError, match=rf"{told}{re.escape(str(value))}: add preprocess@preprocess.sides.image="):
            backbone_of(handoff=str(whole), tower="image", preprocess=fed)
    with pytest.raises(ValueError, match=r"tower=text has a network for text, and this side's data are image: give"):
        backbone_of(handoff=str(whole), tower="text", preprocess=pictures)


def test_a_tower_of_a_hand_off_without_its_preprocessing_ends_the_command(whole, tmp_path):
    given = ["backbone@backbone.towers.image=_handoff", f"backbone.towers.image.handoff={whole}"]
    kept = [word for word in SMALL if not word.startswith("backbone.towers.image")]
    words = [
        "objective=clip",
        *given,
        "backbone.towers.image.tower=image",
        *kept,
        "preprocess.sides.image.mean=[0,0,0]",
    ]
    with pytest.raises(
        RunError, match=r"trained with mean=\[0.27, .*, but preprocess.sides.image has mean=\[0, 0, 0\]"
    ):
        main(compose([*words, f"data.cache_dir={tmp_path}", f"run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()


def test_a_locked_network_reads_pictures_of_ones_own_as_its_hand_off_says(whole, tmp_path, capsys):
    """LiT on image files, with crops: what these ask of a preprocessing is there, and the hand-off's counts."""
    words = [f"preprocess.sides.image.{word}" for word in (f"handoff={whole}", "tower=image", "size=16")]
    words += [f"backbone.towers.image.{word}" for word in (f"handoff={whole}", "tower=image")] + [
        "backbone.locked=[image]"
    ]
    words += ["preprocess@preprocess.sides.image=_handoff", "backbone@backbone.towers.image=_handoff"]
    words += ["augment@collate.sides.image.augment=pairs", "data=image_text", f"data.path={photos(tmp_path)}"]
    kept = [word for word in SMALL if not word.startswith(("data.size", "data.scenes", "data.held", "preprocess"))]
    words += [word for word in kept if not word.startswith("backbone.towers.image")]
    given = [f"data.cache_dir={tmp_path / 'cache'}", f"run_dir={tmp_path / 'run'}"]
    run = main(compose(["objective=clip", "trainer.max_steps=1", *words, *given]))
    said = capsys.readouterr().err
    assert re.search(
        r"sides.image.size=16 is enlarged to the 32 that .* reads: .* give preprocess.sides.image.size=32", said
    )
    before, after = (handoff.read(str(place), tower="image") for place in (whole, run / "handoff" / "last"))
    assert after.preprocess.kwargs == before.preprocess.kwargs and after.preprocess.mean[0] == 0.27
    pairs = zip(after.backbone.parameters(), before.backbone.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_other_braces_of_a_template_are_text(whole):
    space = Space.read(handoff.read(str(whole), tower="image"))
    found = space.classes(texts_of(["two", "{0}"], ["{a small {}", "a large {}"], []))
    for row, name in enumerate(("two", "{0}")):
        both = space.texts([f"{{a small {name}", f"a large {name}"])
        torch.testing.assert_close(found[row], both.mean(0) / both.mean(0).norm(), rtol=0, atol=1e-6)


def test_one_network_is_no_hand_off_of_pairs(copy, tmp_path):
    edited(copy, lambda card: card["towers"].pop("text"))
    with pytest.raises(HandoffError, match=r"holds no second network in the same space"):
        finetune(copy, tmp_path / "run", "task=zero_shot", *SCENES)
    with pytest.raises(HandoffError, match=r"holds image alone: give one of pairs, which has two networks"):
        evaluate(compose([f"handoff={copy}", "data=digit_scenes", "data.size=32"], root="evaluate"))


# -- a tower is what its weights are -----------------------------------------------------------------------------------


def test_a_tower_in_another_task_is_the_same_weights_loaded_by_hand(whole, tmp_path):
    """A linear probe on tower=image, and on a torchvision model that the weights were put into by hand."""
    import torchvision
    from torch import nn

    from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
    from pretraining.image.modality import IMAGE

    for name, hue in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            noise = np.random.default_rng([number, hue[0]]).integers(-30, 30, (32, 32, 3))
            picture = np.clip(np.array(hue) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / "pictures" / name / f"{number}.png")
    options = {"image_size": 32, "patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16}
    model = torchvision.models.VisionTransformer(**options)
    model.heads = nn.Identity()
    model.load_state_dict(load_file(whole / "image" / "model.safetensors"), strict=True)
    by_hand = TorchvisionBackbone(name="vision_transformer", options=options)
    by_hand.model.load_state_dict(model.state_dict())
    preprocess = handoff.read(str(whole), tower="image").preprocess
    towers = IMAGE.towers(by_hand, preprocess)
    alone = handoff.write(tmp_path / "hand" / "step-1", towers=towers, origin={"objective": "hand"}, heads={})
    task = ["task=image_classification", f"data.path={tmp_path / 'pictures'}", f"data.cache_dir={tmp_path / 'cache'}"]
    for mode in ("linear_probe", "full"):
        found = []
        for number, given in enumerate(([f"handoff={whole}", "tower=image"], [f"handoff={alone}"])):
            short = ["trainer.max_steps=2", "trainer.val_every=2", "data.batch_size=8"]
            run = tmp_path / f"{mode}-{number}"
            finetuning.main(finetuning.compose([*given, *task, *short, *QUIET, f"mode={mode}", f"run_dir={run}"]))
            found.append(load_file(run / "model" / "last" / "model.safetensors"))
            found[-1] |= load_file(run / "model" / "last" / "heads.safetensors")
        assert found[0].keys() == found[1].keys() and len(found[0]) > 10
        assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tower = handoff.read(str(whole), tower="image").backbone.eval()
        torch.testing.assert_close(tower(images=images).pooled, model.eval()(images), rtol=0, atol=1e-5)
