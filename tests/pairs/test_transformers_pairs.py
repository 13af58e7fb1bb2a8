"""Transformers' CLIP and SigLIP as hand-offs, and hand-offs as transformers' models: the same vectors both ways."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional as F

from finetuning import launch as finetuning
from pretraining import handoff, load
from pretraining.cli.configuration import compose
from pretraining.errors import HandoffError, RunError
from pretraining.export import export
from pretraining.image.data.scene_captions import COLOURS, DIGITS, SIZES
from pretraining.image.data.scenes import DigitScenes
from pretraining.image.modality import IMAGE
from pretraining.launch import main
from pretraining.pairs.checkpoints import heads_of
from pretraining.pairs.towers import PreprocessOf, backbone_of
from pretraining.text.modality import TEXT
from pretraining.text.raw import RawTexts, TokeniseTexts

SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SHAPE, "image_size": 32, "patch_size": 8}
QUIET = ["logger.wandb.mode=disabled", "logger.progress=false", "trainer.precision=fp32"]
TEXTS = ["a small red seven", "two"]
TEMPLATES = ["a small red {}", "a large blue {}"]


def words(path, framed):
    """Write a tokenizer of the scenes' words; an end of text that also pads, as both libraries' have."""
    known = ["<s>", "<unk>", "a", *SIZES, *COLOURS, *DIGITS, "left", "right", "of", "above", "below", "</s>"]
    ids = {word: number for number, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = [(name, ids[name]) for name in (("<s>", "</s>") if framed else ("</s>",))]
    template = "<s> $A </s>" if framed else "$A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=frame)
    names = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"} | ({"bos_token": "<s>"} if framed else {})
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.save_pretrained(path)
    end = {"vocab_size": len(known), "eos_token_id": ids["</s>"], "pad_token_id": ids["</s>"]}
    return fast, end | {"bos_token_id": ids["<s>"]}


def clip(path):
    tokenizer, ids = words(path, framed=True)
    text = {**SHAPE, "hidden_size": 24, "max_position_embeddings": 12, **ids}
    model = transformers.CLIPModel(transformers.CLIPConfig(vision_config=VISION, text_config=text, projection_dim=8))
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        path
    )
    return model, tokenizer, {"padding": True}


def siglip(path):
    tokenizer, ids = words(path, framed=False)
    text = {**SHAPE, "max_position_embeddings": 12, **ids}
    model = transformers.SiglipModel(transformers.SiglipConfig(vision_config=VISION, text_config=text))
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
        model.logit_bias.fill_(-2.0)
    transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    return model, tokenizer, {"padding": "max_length", "max_length": 12}


@pytest.fixture(scope="module", params=[clip, siglip])
def checkpoint(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("library")
    torch.manual_seed(0)
    model, tokenizer, padding = request.param(path)
    with torch.no_grad():
        for part in model.parameters():  # fresh vectors of different inputs would hardly differ
            part.add_(0.1 * torch.randn_like(part)) if part.ndim else None
    model.eval().save_pretrained(path)
    return path, model, lambda texts: tokenizer(texts, return_tensors="pt", **padding)


def pictures(count, split="test"):
    return np.stack([scene.image for scene in DigitScenes(size=32, most=1).draw(split, range(count))])


def prepared(path, images):
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    return processor(images=list(images.transpose(0, 2, 3, 1)), return_tensors="pt").pixel_values


def features(model, path, read, images, texts):
    """Compute transformers' own vectors of pictures and texts: of both networks, and in the space."""
    batch = read(texts)
    kept = {"input_ids": batch["input_ids"]}
    if isinstance(model, transformers.CLIPModel):
        kept["attention_mask"] = batch["attention_mask"]
    pixels = prepared(path, images)
    with torch.no_grad():
        alone = model.vision_model(pixel_values=pixels).pooler_output, model.text_model(**kept).pooler_output
        shared = model.get_image_features(pixel_values=pixels), model.get_text_features(**kept)
    return alone, [F.normalize(part.pooler_output, dim=-1) for part in shared]


def test_each_network_of_a_checkpoint_gives_the_librarys_vectors(checkpoint, tmp_path):
    path, model, read = checkpoint
    images = pictures(4)
    (image, text), _ = features(model, path, read, images, TEXTS)
    given = {"image": handoff.read(f"hf:{path}", modality=IMAGE, tower="image"),
             "text": handoff.read(f"hf:{path}", modality=TEXT, tower="text")}  # fmt: skip
    collate = TokeniseTexts(preprocess=given["text"].preprocess, max_tokens=given["text"].backbone.max_tokens)
    assert given["text"].backbone.max_tokens == 12
    for again in (False, True):
        with torch.no_grad():
            pixels = given["image"].preprocess(torch.from_numpy(images))
            found = (
                given["image"].backbone.eval()(images=pixels),
                given["text"].backbone.eval()(**collate(RawTexts.of(TEXTS))["inputs"]),
            )
        torch.testing.assert_close(found[0].pooled, image, rtol=0, atol=1e-5)
        torch.testing.assert_close(found[1].pooled, text, rtol=0, atol=1e-5)
        assert found[0].positions.shape == (4, 16, 16) and found[0].grid == (4, 4)
        assert (text[0] - text[1]).abs().max() > 0.05 and (image[0] - image[1]).abs().max() > 0.01
        if not again:  # written as hand-offs of their own, they are the same
            for side, one in given.items():
                place = handoff.write(
                    tmp_path / side / "step-1", towers=one.towers, origin={"objective": "x"}, heads={}
                )
                given[side] = handoff.read(str(place))
    larger = given["image"].backbone(images=torch.randn(1, 3, 48, 48))
    assert larger.grid == (6, 6) and larger.positions.shape == (1, 36, 16)
    with pytest.raises(HandoffError, match=r"has no tower 'sound' for image: set tower=image"):
        handoff.read(f"hf:{path}", modality=IMAGE, tower="sound")
    with pytest.raises(HandoffError, match=r"has no tower 'text' for image"):
        handoff.read(f"hf:{path}", modality=IMAGE, tower="text")


def finetune(given, directory, *more):
    finetuning.main(finetuning.compose([f"handoff={given}", *QUIET, f"run_dir={directory}", "data.size=32", *more]))
    return pq.read_table(directory / "predictions.parquet").to_pydict()


def scores_by_hand(model, path, read, count):
    """Zero-shot probabilities by transformers alone: means of the templates' unit vectors."""
    texts = [template.format(name) for name in DIGITS for template in TEMPLATES]
    _, (image, text) = features(model, path, read, pictures(count), texts)
    classes = F.normalize(text.view(10, len(TEMPLATES), -1).mean(1), dim=-1)
    shift = model.logit_bias if hasattr(model, "logit_bias") else 0.0
    with torch.no_grad():
        return (model.logit_scale.exp() * image @ classes.T + shift).softmax(1).numpy()


def test_zero_shot_and_retrieval_of_a_checkpoint_are_the_librarys(checkpoint, tmp_path):
    path, model, read = checkpoint
    sizes = ["data.examples=20", "data.training=60"]
    found = finetune(f"hf:{path}", tmp_path / "zero", "task=zero_shot", f"task.templates={TEMPLATES}", *sizes)
    expected = scores_by_hand(model, path, read, 20)
    np.testing.assert_allclose(found["scores"], expected, atol=1e-5)
    assert np.ptp(expected) > 0.01  # or anything would do
    found = finetune(f"hf:{path}", tmp_path / "retrieval", "task=image_text_retrieval", *sizes)
    scenes = DigitScenes(size=32).draw("test", range(20))
    captions = [scene.caption for scene in scenes]
    different = list(dict.fromkeys(captions))
    images = np.stack([scene.image for scene in scenes])
    _, (image, text) = features(model, path, lambda texts: cut(read, texts), images, different)
    assert found["prediction"] == [different[place] for place in (image @ text.T).argmax(1)]
    drawn = [finetune(f"random:hf:{path}", tmp_path / str(seed), "task=zero_shot", *sizes, f"seed={seed}")["scores"]
             for seed in (1, 2)]  # fmt: skip
    assert np.abs(np.array(drawn[0]) - drawn[1]).max() > 1e-3


def cut(read, texts):
    batch = read(texts)
    assert batch["input_ids"].shape[1] <= 12
    return batch


def test_networks_of_a_checkpoint_start_towers(checkpoint):
    path, model, _ = checkpoint
    for side, part in (("image", model.vision_model), ("text", model.text_model), (None, model.text_model)):
        preprocess = PreprocessOf(handoff=f"hf:{path}", tower=side, size=64).fit(None)
        backbone = backbone_of(handoff=f"hf:{path}", tower=side, preprocess=preprocess)
        assert all(torch.equal(one, other) for one, other in
                   zip(backbone.model.state_dict().values(), part.state_dict().values(), strict=True))  # fmt: skip
        kind = "image" if side == "image" else "text"
        assert preprocess.modality.name == kind


# -- the way back ------------------------------------------------------------------------------------------------------


CLIPS = ["backbone@backbone.towers.image=clip_vision_scenes", "backbone@backbone.towers.text=clip_captions"]
TINY = [f"{side}.config.{name}={value}" for side in ("backbone.towers.image", "backbone.towers.text")
        for name, value in SHAPE.items()]  # fmt: skip
SMALL = [
    *("data.size=32", "preprocess.sides.image.size=32", "data.batch_size=8", "data.held_out=16", "data.scenes=32"),
    *("data.eval_batch_size=8", "objective.width=8", "optimizer.warmup_steps=0", "trainer.max_steps=2", *QUIET),
]


def pretrain(directory, *more):
    place = [f"data.cache_dir={directory / 'cache'}", f"run_dir={directory / 'run'}"]
    return main(compose(["objective=clip", *more, *SMALL, *place])) / "handoff" / "last"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("clip"), *CLIPS, *TINY, "backbone.towers.image.config.image_size=32")


def projected(last, texts, images):
    """Bring pictures and texts into the space by the hand-off's parts."""
    from safetensors.torch import load_file

    given, heads = handoff.read(str(last)), load_file(last / "heads.safetensors")
    image, text = (given.towers[side] for side in ("image", "text"))
    inputs = TokeniseTexts(preprocess=text.preprocess, max_tokens=32)(RawTexts.of(texts))["inputs"]
    with torch.no_grad():
        pooled = {"image": image.backbone.eval()(images=image.preprocess(torch.from_numpy(images))).pooled,
                  "text": text.backbone.eval()(**inputs).pooled}  # fmt: skip
    return [F.linear(pooled[side], heads[f"projections.{side}.weight"]) for side in ("image", "text")], heads


def by_its_lines(place, texts, image):
    """Run the README's lines, which need transformers alone."""
    lines = re.search(r"```python\n(.*?)```", (place / "README.md").read_text(), re.DOTALL).group(1)
    assert "pretraining" not in lines
    scope = {"picture": image.transpose(1, 2, 0)}
    with torch.no_grad():
        exec(lines.replace("DIR", str(place)).replace('["a small red seven"]', str(texts)), scope)
    return scope


def test_a_hand_off_of_clips_networks_is_a_clip_model_and_comes_back(pretrained, tmp_path):
    place = export(handoff.read(str(pretrained)), "transformers", tmp_path / "model")
    images = pictures(3)
    (image, text), heads = projected(pretrained, TEXTS, images)
    model, report = transformers.CLIPModel.from_pretrained(place, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.logit_scale.item() == float(heads["logit_scale"])
    cut = transformers.AutoTokenizer.from_pretrained(place)(["a small red seven " * 40], truncation=True)["input_ids"]
    assert len(cut[0]) == 32 < model.config.text_config.max_position_embeddings  # as captions were in training
    for row in range(3):
        scope = by_its_lines(place, TEXTS, images[row])
        torch.testing.assert_close(scope["texts"], text, rtol=0, atol=1e-5)
        torch.testing.assert_close(scope["pictures"][0], image[row], rtol=0, atol=1e-5)
        torch.testing.assert_close(scope["cosines"], F.cosine_similarity(image[row][None, None], text[None], dim=-1))
    sizes = ["task=zero_shot", "data.examples=10", "data.training=60"]
    ours, theirs = (finetune(given, tmp_path / name, *sizes)["scores"]
                    for name, given in (("ours", pretrained), ("theirs", f"hf:{place}")))  # fmt: skip
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_other_networks_of_transformers_are_a_dual_encoder_where_their_vectors_are_theirs(tmp_path):
    bert = [f"backbone.towers.text.config.{name}={value}" for name, value in SHAPE.items()]
    vision = [CLIPS[0], *(word for word in TINY if ".image." in word), "backbone.towers.image.config.image_size=32"]
    last = pretrain(tmp_path, *vision, *bert, "backbone.towers.text.pooling=pooler")
    place = export(handoff.read(str(last)), "transformers", tmp_path / "model")
    images = pictures(1)
    (image, text), _ = projected(last, TEXTS, images)
    scope = by_its_lines(place, TEXTS, images[0])
    assert type(scope["model"]) is transformers.VisionTextDualEncoderModel
    torch.testing.assert_close(scope["texts"], text, rtol=0, atol=1e-5)
    torch.testing.assert_close(scope["pictures"], image, rtol=0, atol=1e-5)


def test_what_transformers_has_no_model_for_is_refused_with_what_to_do(pretrained, tmp_path, capsys):
    plain = pretrain(tmp_path / "vit", "backbone.towers.image.options={image_size: 32, patch_size: 8, num_layers: 1, "
                     "num_heads: 2, hidden_dim: 16, mlp_dim: 16}")  # fmt: skip
    with pytest.raises(HandoffError, match=r"the image network is no model of transformers.*two folders one by one"):
        export(handoff.read(str(plain)), "transformers", tmp_path / "a")
    pooled = pretrain(tmp_path / "mean", *CLIPS, *TINY, "backbone.towers.image.config.image_size=32",
                      "backbone.towers.text.pooling=mean")  # fmt: skip
    with pytest.raises(HandoffError, match=r"CLIPModel makes its text vector in another way .*pooling=mean"):
        export(handoff.read(str(pooled)), "transformers", tmp_path / "b")
    with pytest.raises(RunError, match=r"holds something already"):
        export(handoff.read(str(pretrained)), "transformers", pretrained)
    (tmp_path / "file").write_text("mine")
    for taken in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunError, match=r"output=.*file.* cannot be made or written to"):
            export(handoff.read(str(pretrained)), "transformers", taken)
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()
    with pytest.raises(ValueError, match=r"model_type='bert' is no image network.*choose clip_vision_model or siglip"):
        pretrain(tmp_path / "bert", CLIPS[0], "backbone.towers.image.config.model_type=bert")
    with pytest.raises(HandoffError, match=r"holds a bert, and images are read by clip, siglip"):
        transformers.BertModel(transformers.BertConfig(**SHAPE, vocab_size=30)).save_pretrained(tmp_path / "text")
        handoff.read(f"hf:{tmp_path / 'text'}", modality=IMAGE)
    assert json.loads((tmp_path / "text" / "config.json").read_text())["model_type"] == "bert"


def test_pairs_are_embedded_in_the_space_that_both_networks_share(checkpoint, tmp_path):
    path, model, read = checkpoint
    images = pictures(2)
    (image, text), (shared_image, shared_text) = features(model, path, read, images, TEXTS)
    pairs = list(zip(images.transpose(0, 2, 3, 1), TEXTS, strict=True))
    given = {kind.name: handoff.read(f"hf:{path}", modality=kind, tower=kind.name).tower for kind in (IMAGE, TEXT)}
    place = handoff.write(tmp_path / "step-1", towers=given, origin={"objective": "clip"}, heads=heads_of(str(path)))
    for reference in (f"hf:{path}", str(place)):
        loaded = load(reference)
        found = loaded.embed(pairs)
        assert list(found) == ["image", "text"]
        for side, expected, items in (("image", shared_image, images), ("text", shared_text, TEXTS)):
            assert np.allclose(found[side], expected.numpy(), atol=1e-5)
            assert np.allclose(load(reference, side=side).embed(list(items)), found[side], atol=1e-6)
            assert np.allclose(loaded.tower(side).embed(list(items)), found[side], atol=1e-6)
        for side, expected, items in (("image", image, images), ("text", text, TEXTS)):
            assert np.allclose(load(reference, tower=side).embed(list(items)), expected.numpy(), atol=1e-5)
        with pytest.raises(HandoffError, match="no tower 'audio': choose image or text"):
            loaded.tower("audio")
        with pytest.raises(RunError, match=r"item 0 is str, and these networks read pairs: give \(image, text\)"):
            loaded.embed(TEXTS)
        with pytest.raises(RunError, match="layer=0 and pooling=None for vectors in the space that networks share"):
            loaded.tower("text").embed(TEXTS, layer=0)
    alone = handoff.write(tmp_path / "step-2", towers=given, origin={"objective": "none"}, heads={})
    with pytest.raises(HandoffError, match="holds image, text, which share no space: choose one with tower="):
        load(alone)
