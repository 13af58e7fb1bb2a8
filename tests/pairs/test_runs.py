"""From a run on pairs to its two networks, and to what they know without training, by the same commands as ever."""

import functools
import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from finetuning import launch as finetuning
from finetuning.metrics.retrieval import ranks
from finetuning.tasks.captions import ImageTextRetrieval
from pretraining import handoff, load
from pretraining.cli.configuration import compose
from pretraining.errors import HandoffError, RunError
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.data.scenes import DigitScenes
from pretraining.launch import main
from pretraining.pairs.dual_encoder import DualEncoder
from pretraining.pairs.space import Space
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.raw import RawTexts, TokeniseTexts
from tests.pairs.small import BERT as SMALL_BERT

VIT = "{image_size: 32, patch_size: 8, num_layers: 1, num_heads: 2, hidden_dim: 16, mlp_dim: 16}"
BERT = ["hidden_size=16", "num_hidden_layers=1", "num_attention_heads=2", "intermediate_size=16"]
QUIET = ["logger.wandb.mode=disabled", "logger.progress=false", "trainer.precision=fp32"]
SMALL = [
    *(f"backbone.towers.text.config.{setting}" for setting in BERT),
    f"backbone.towers.image.options={VIT}",
    *("data.size=32", "preprocess.sides.image.size=32", "data.batch_size=8", "data.held_out=16"),
    *("data.eval_batch_size=8", "data.scenes=32", "objective.width=8", "optimizer.warmup_steps=0", *QUIET),
]
SCENES = ["data.size=32", "data.examples=40"]


def pretrain(directory, *words):
    path = [f"data.cache_dir={directory / 'cache'}", f"run_dir={directory / 'run'}"]
    return main(compose([*SMALL, "trainer.max_steps=3", "trainer.val_every=2", *path, *words]))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("pairs"), "objective=siglip")


def finetune(given, directory, *words):
    words = [f"handoff={given}", *QUIET, f"run_dir={directory}", *words]
    finetuning.main(finetuning.compose(words))
    return json.loads((directory / "metrics.json").read_text())


def test_a_run_counts_pairs_and_tells_what_it_finds(pretrained):
    metrics = json.loads((pretrained / "metrics.json").read_text())
    assert metrics["pairs"] == 3 * 8 and metrics["throughput/pairs_per_second"] > 0 and metrics["flops"] > 0
    assert 0 <= metrics["validation/image_to_text"] <= 1 and 0 <= metrics["validation/text_to_image"] <= 1
    assert metrics["data/text_cut_share"] == 0.0 and 5 < metrics["validation/scale"] < 20


def evaluated(given, *words):
    from pretraining.evaluate import evaluate

    sizes = [] if "data=digits" in words else ["data.size=32", "data.held_out=16"]
    words = [f"handoff={given}", *words, *sizes, "data.eval_batch_size=8"]
    return evaluate(compose(words, root="evaluate"))


def test_a_hand_off_is_evaluated_to_what_its_run_saw_at_its_end(pretrained, tmp_path):
    """Both networks put together again, with their heads: loss, recall of the whole split and zero-shot accuracy."""
    metrics = json.loads((pretrained / "metrics.json").read_text())
    found = evaluated(pretrained / "handoff" / "last", "data=digit_scenes", "data.batch_size=8")
    assert found["rows"] == 16 and found["handoff"] == str((pretrained / "handoff" / "last").resolve())
    for name in ("loss", "image_to_text", "text_to_image", "scale"):
        assert found[f"validation/{name}"] == pytest.approx(metrics[f"validation/{name}"], abs=1e-5)
    for name in ("image_to_text_recall_1", "text_to_image_recall_1", "zero_shot_accuracy", "classified", "majority"):
        assert found[f"validation/{name}"] == pytest.approx(metrics[f"probe/{name}"])
    scenes = DigitScenes(size=32).draw("validation", range(16))
    classes = [scene.classes[0] for scene in scenes if len(scene.classes) == 1]
    assert metrics["probe/classified"] == len(classes) > 0
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    colours = ("red", "green", "blue", "yellow", "purple", "white")
    texts = [f"a {size} {colour} {word}" for word in words for size in ("small", "large") for colour in colours]
    named = F.normalize(texts_in_space(pretrained, texts).view(10, 12, -1).mean(1), dim=-1)
    seen = images_in_space(pretrained, [scene for scene in scenes if len(scene.classes) == 1])
    assert metrics["probe/zero_shot_accuracy"] == pytest.approx(np.mean((seen @ named.T).argmax(1).numpy() == classes))
    drawn = evaluated(f"random:{pretrained / 'handoff' / 'last'}", "data=digit_scenes", "data.batch_size=8")
    assert drawn["validation/loss"] != found["validation/loss"]


def test_what_is_learnt_is_the_same_without_a_probe(pretrained, tmp_path):
    run = pretrain(tmp_path, "objective=siglip", "probe=none")
    assert not any(name.startswith("probe/") for name in json.loads((run / "metrics.json").read_text()))
    ours, theirs = (
        json.loads((one / "handoff" / "last" / "handoff.json").read_text())["sha256"] for one in (pretrained, run)
    )
    weights = [name for name in ours if name.endswith(".safetensors")]
    assert len(weights) == 3 and all(ours[name] == theirs[name] for name in weights)


def test_false_captions_cost_what_they_cost_and_are_told(tmp_path, pretrained):
    given = ["objective=siglip", "data.hard_negatives=[swapped,replaced]", "trainer.accumulate=2", "data.batch_size=16"]
    run = pretrain(tmp_path, *given, "collate.sides.image.augment.crop.area=[0.5,0.9]",
                   "augment@collate.sides.image.augment=pairs")  # fmt: skip
    metrics, plain = (json.loads((one / "metrics.json").read_text()) for one in (run, pretrained))
    assert 0.0 < metrics["validation/false_told"] < 1.0 and "validation/false_told" not in plain
    assert metrics["pairs"] == 3 * 16 and 1.2 < metrics["flops"] / 2 / plain["flops"] < 4.0


def test_both_networks_load_by_the_lines_of_the_hand_off_alone(pretrained):
    """Its README's lines need torchvision and transformers, and nothing of this package."""
    given = handoff.read(str(pretrained / "handoff" / "last"))
    assert list(given.towers) == ["image", "text"] and list(given.card["towers"]) == ["image", "text"]
    lines = (pretrained / "handoff" / "last" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "pretraining" not in lines
    image = torch.randn(2, 3, 32, 32)
    first, second = lines.split("import transformers")
    for (name, tower), usage in zip(given.towers.items(), (first, f"import transformers{second}"), strict=True):
        scope: dict = {}
        assert f"DIR/{name}" in usage
        exec(usage.replace("DIR", str(pretrained / "handoff" / "last")), scope)
        model = scope[f"{name}_model"].eval()
        with torch.no_grad():
            if name == "image":
                torch.testing.assert_close(model(image), tower.backbone.eval()(image).pooled, atol=1e-5, rtol=0)
            else:
                ids = torch.tensor([[5, 6, 7]])
                own = tower.backbone.eval()(input_ids=ids, document_ids=torch.ones_like(ids)).positions
                hidden = model(input_ids=ids).last_hidden_state
                torch.testing.assert_close(hidden, own, atol=1e-5, rtol=0)
                assert "# a text's vector is the mean of last_hidden_state over its tokens" in usage
                weight, bias = (scope["heads"][f"projections.text.{part}"] for part in ("weight", "bias"))
                found = F.normalize(F.linear(hidden.mean(1), weight, bias), dim=-1)
                expected = in_space(pretrained, "text", input_ids=ids, document_ids=torch.ones_like(ids))
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def in_space(pretrained, side, *inputs, **named):
    place = pretrained / "handoff" / "last"
    heads = load_file(place / "heads.safetensors")
    tower = handoff.read(str(place), tower=side)
    with torch.no_grad():
        pooled = tower.backbone.eval()(*inputs, **named).pooled
    return F.normalize(F.linear(pooled, heads[f"projections.{side}.weight"], heads[f"projections.{side}.bias"]), dim=-1)


def texts_in_space(pretrained, texts):
    tower = handoff.read(str(pretrained / "handoff" / "last"), tower="text")
    return in_space(
        pretrained, "text", **TokeniseTexts(preprocess=tower.preprocess, max_tokens=32)(RawTexts.of(texts))["inputs"]
    )


def images_in_space(pretrained, scenes):
    tower = handoff.read(str(pretrained / "handoff" / "last"), tower="image")
    return in_space(pretrained, "image", tower.preprocess(torch.from_numpy(np.stack([one.image for one in scenes]))))


def test_zero_shot_is_the_nearest_mean_of_its_texts(pretrained, tmp_path):
    templates = ["a small red {}", "a large blue {}"]
    given = ["task=zero_shot", *SCENES, f"task.templates={templates}", "data.training=60"]
    metrics = finetune(pretrained / "handoff" / "last", tmp_path / "run", *given)
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    classes = texts_in_space(pretrained, [one.format(word) for word in words for one in templates])
    classes = F.normalize(classes.view(10, 2, -1).mean(1), dim=-1)
    scenes = DigitScenes(size=32, most=1).draw("test", range(40))
    heads = load_file(pretrained / "handoff" / "last" / "heads.safetensors")
    logits = heads["logit_scale"].exp() * images_in_space(pretrained, scenes) @ classes.T + heads["logit_bias"]
    found = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pydict()
    np.testing.assert_allclose(found["scores"], logits.softmax(1), atol=1e-5)
    assert found["label"] == [scene.things[0].digit for scene in scenes]
    accuracy = np.mean([one == other for one, other in zip(found["label"], found["prediction"], strict=True)])
    assert metrics["test/accuracy"] == pytest.approx(accuracy)
    assert metrics["test/accuracy_low"] <= accuracy <= metrics["test/accuracy_high"]
    assert metrics["steps"] == 0 and metrics["trainable_parameters"] > 0


def test_a_zero_shot_head_is_kept_and_trained_on(pretrained, tmp_path):
    given = [*SCENES, "data.training=60", "task=zero_shot"]
    finetune(pretrained / "handoff" / "last", tmp_path / "plain", *given)
    _, task = finetuning.load_run(tmp_path / "plain")
    from finetuning.inputs.base import Unlabelled
    from finetuning.predictions import predict

    scenes = DigitScenes(size=32, most=1).draw("test", range(40))

    again = list(predict(task, [Unlabelled({"id": row}, {"image": one.image}) for row, one in enumerate(scenes)]))
    before = pq.read_table(tmp_path / "plain" / "predictions.parquet").to_pydict()["prediction"]
    assert [one["prediction"] for one in again] == before
    tuned = [*given, "mode=full", "trainer.max_steps=2", "trainer.val_every=2", "optimizer.peak_lr=1e-2"]
    finetune(pretrained / "handoff" / "last", tmp_path / "tuned", *tuned)
    after = load_file(tmp_path / "tuned" / "model" / "last" / "heads.safetensors")
    kept = load_file(tmp_path / "plain" / "model" / "last" / "heads.safetensors")
    assert kept.keys() == after.keys() and not torch.equal(kept["head.classes"], after["head.classes"])


def test_retrieval_ranks_by_cosine_both_ways(pretrained, tmp_path):
    given = ["task=image_text_retrieval", *SCENES]
    metrics = finetune(pretrained / "handoff" / "last", tmp_path / "run", *given)
    scenes = DigitScenes(size=32).draw("test", range(40))
    captions = [scene.caption for scene in scenes]
    texts = sorted(set(captions))
    scores = (images_in_space(pretrained, scenes) @ texts_in_space(pretrained, texts).T).numpy()
    ranks = [1 + int((row > row[texts.index(own)]).sum()) for row, own in zip(scores, captions, strict=True)]
    found = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pydict()
    assert found["rank"] == ranks and found["label"] == [[text] for text in captions]
    assert found["prediction"] == [texts[place] for place in scores.argmax(1)]
    assert metrics["test/image_to_text_recall_5"] == pytest.approx(np.mean(np.array(ranks) <= 5))
    best = [scores[[own == text for own in captions], place].max() for place, text in enumerate(texts)]
    back = [1 + int((scores[:, place] > best[place]).sum()) for place in range(len(texts))]
    assert metrics["test/text_to_image_median_rank"] == np.median(back)
    assert metrics["test/text_to_image_recall_1_low"] <= metrics["test/text_to_image_recall_1"]
    own = texts_in_space(pretrained, captions)
    distance = 1 - (images_in_space(pretrained, scenes) * own).sum(1).mean()
    assert metrics["test/cosine_distance"] == pytest.approx(float(distance), abs=1e-5)


def test_captions_that_the_network_reads_alike_are_looked_for_once(pretrained):
    space = Space.read(handoff.read(str(pretrained / "handoff" / "last"), tower="image"))
    cut = "a red two " * space.other_tokens
    labels = [["A Red TWO"], ["a red two", cut + "left"], [cut + "right", "a blue six"]]
    targets = list(map(space.texts, labels))
    split = SimpleNamespace(examples=SimpleNamespace(column=lambda name: labels), targets=targets)
    outputs = list(torch.randn(3, len(targets[0][0]), generator=torch.Generator().manual_seed(0)).numpy())
    task = SimpleNamespace(space=space)
    predicted = ImageTextRetrieval.predict(task, outputs, split)
    scores = np.stack(outputs) @ space.texts([labels[0][0], cut, labels[2][1]]).numpy().T
    right = np.array([[True, False, False], [True, True, False], [False, True, True]])
    for found, expected in zip(predicted.scores[:2], (ranks(scores, right), ranks(scores.T, right.T)), strict=True):
        np.testing.assert_array_equal(found[0], expected[0])
    shown = [labels[0][0], labels[1][1], labels[2][1]]
    assert predicted.predictions == [shown[place] for place in scores.argmax(1)]
    own = ImageTextRetrieval.table(task, predicted)["caption_ranks"]
    assert own[0][0] == own[1][0] and own[1][1] == own[2][0]


def test_the_swap_test_compares_each_false_caption_with_the_true_one(pretrained, tmp_path):
    metrics = finetune(pretrained / "handoff" / "last", tmp_path / "run", "task=compositional", *SCENES)
    scenes = [one for one in DigitScenes(size=32, least=2).draw("test", range(80)) if one.negatives][:40]
    images, wins = images_in_space(pretrained, scenes), []
    for vector, scene in zip(images, scenes, strict=True):
        scores = texts_in_space(pretrained, [scene.caption, *scene.negatives.values()]) @ vector
        wins += (scores[0] > scores[1:]).float().tolist()
    assert metrics["test/swap_accuracy"] == pytest.approx(np.mean(wins), abs=1e-6) and len(wins) > 60
    assert {"test/swap_accuracy_colour", "test/swap_accuracy_size", "test/swap_accuracy_relation_low"} <= set(metrics)


def test_each_network_by_itself_does_other_tasks(pretrained, tmp_path):
    for name, kind in (("red", (250, 0, 0)), ("blue", (0, 0, 250))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (32, 32), kind).save(tmp_path / "pictures" / name / f"{number}.png")
    few = ["trainer.max_steps=2", "trainer.val_every=2", "data.batch_size=4", f"data.cache_dir={tmp_path / 'cache'}"]
    given = ["tower=image", "task=image_classification", f"data.path={tmp_path / 'pictures'}", *few]
    metrics = finetune(pretrained / "handoff" / "last", tmp_path / "image", *given)
    assert metrics["test_examples"] == 4
    given = ["task=zero_shot_images", *given[2:3], few[3], "task.templates=['a {} thing']"]
    metrics = finetune(pretrained / "handoff" / "last", tmp_path / "zero", *given)
    named = texts_in_space(pretrained, ["a blue thing", "a red thing"])
    colours = torch.tensor([[0, 0, 250], [250, 0, 0]], dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 32, 32)
    tower = handoff.read(str(pretrained / "handoff" / "last"), tower="image")
    seen = in_space(pretrained, "image", tower.preprocess(colours))
    right = ((seen @ named.T).argmax(1) == torch.arange(2)).double().mean()
    assert metrics["test/accuracy"] == float(right) and metrics["steps"] == 0  # two pictures of each colour are tested
    rows = "".join(f"a {word} thing,{word}\n" for word in ("small", "large") for _ in range(10))
    (tmp_path / "rows.csv").write_text("text,label\n" + rows)
    given = ["tower=text", "task=text_classification", f"data.path={tmp_path / 'rows.csv'}", *few[:3]]
    metrics = finetune(pretrained / "handoff" / "last", tmp_path / "text", *given, "task.inputs.max_tokens=16")
    assert metrics["test_examples"] == 4


def test_what_cannot_be_is_told_in_one_line(pretrained, tmp_path):
    last = pretrained / "handoff" / "last"
    with pytest.raises(HandoffError, match=r"has no tower 'sound': choose tower=image, text"):
        finetune(last, tmp_path / "run", "task=zero_shot", "tower=sound")
    with pytest.raises(HandoffError, match=r"holds image, text: choose one with tower="):
        finetune(last, tmp_path / "run", "task=image_classification", "data.path=nowhere")
    with pytest.raises(RunError, match=r"set mode=as_is"):
        finetune(last, tmp_path / "run", "task=compositional", "mode=full", *SCENES)
    with pytest.raises(RunError, match=r"task.templates with 'a digit'"):
        finetune(last, tmp_path / "run", "task=zero_shot", "task.templates=[a digit]", *SCENES)
    with pytest.raises(RunError, match=r"task.names of 2 classes, but the data has 10"):
        finetune(last, tmp_path / "run", "task=zero_shot", "task.names=[a,b]", *SCENES)
    with pytest.raises(RunError, match=r"the class name 'a' twice: give each class its own in task.names"):
        names = "task.names=[a,a,b,c,d,e,f,g,h,i]"
        finetune(last, tmp_path / "run", "task=zero_shot", names, *SCENES, "data.label=digit", "data.most=1")
    alone = handoff.write(tmp_path / "alone" / "step-1", towers={"image": handoff.read(str(last), tower="image").tower},
                          origin={"objective": "SimCLR"}, heads={})  # fmt: skip
    with pytest.raises(HandoffError, match=r"holds no second network in the same space"):
        finetune(alone, tmp_path / "run", "task=zero_shot", "tower=null", *SCENES)
    with pytest.raises(RunError, match=r"Clip learns from pairs, data=Digits is image"):
        main(compose(["objective=clip", "data=digits", *QUIET, f"run_dir={tmp_path / 'run'}"]))
    with pytest.raises(RunError, match=r"SimCLR learns from image, data=SceneCaptions is pairs"):
        main(compose(["objective=simclr", "data=digit_scenes", "probe=none", *QUIET, f"run_dir={tmp_path / 'run'}"]))
    with pytest.raises(
        RunError, match=r"probe=online is not for pairs \(data=SceneCaptions\): set probe=pairs or probe"
    ):
        pretrain(tmp_path, "objective=clip", "probe=online")
    with pytest.raises(RunError, match=r"SigLip learns from pairs, but data=Digits is image: choose data"):
        evaluated(last, "data=digits")
    with pytest.raises(HandoffError, match=r"step-1 does not say which objective"):
        evaluated(alone, "data=digit_scenes", "data.batch_size=8")
    with pytest.raises(RunError, match=r"collate.sides.text.max_tokens=100, but this backbone has positions for 64"):
        pretrain(tmp_path, "objective=clip", "collate.sides.text.max_tokens=100")


def test_captions_that_a_task_cuts_are_counted(pretrained, capsys):
    space = Space.read(handoff.read(str(pretrained / "handoff" / "last"), tower="image"))
    longest = "a word " * space.other_tokens
    cut = space.texts([longest, "a red two", longest + "more"])
    told = f"2 of 3 captions have more than the hand-off's max_tokens={space.other_tokens} tokens and were cut"
    assert told in capsys.readouterr().err and torch.equal(cut[0], cut[2])


def test_a_network_for_texts_reads_as_many_tokens_as_captions_had(pretrained):
    """There are 64 positions, and captions were cut at 32 tokens."""
    texts, place = ["a red two " * 12, "a red two " * 12 + "left"], str(pretrained / "handoff" / "last")
    own, shared = load(place, tower="text").embed(texts), load(place).tower("text").embed(texts)
    assert (own[0] == own[1]).all() and (shared[0] == shared[1]).all()
    space = Space.read(handoff.read(place, tower="image"))
    assert space.other_tokens == 32 and np.allclose(shared, space.texts(texts), atol=1e-5)
    longer = load(place, side="text", max_tokens=64).embed(texts)
    assert not np.allclose(longer[0], longer[1], atol=1e-4)


def test_weights_drawn_anew_are_another_space(pretrained, tmp_path):
    last = pretrained / "handoff" / "last"
    measured = [
        finetune(f"random:{last}", tmp_path / str(number), "task=image_text_retrieval", *SCENES, f"seed={seed}")
        for number, seed in enumerate((1, 1, 2))
    ]
    distances = [one["test/cosine_distance"] for one in measured]
    assert distances[0] == distances[1] != distances[2]


def test_long_captions_are_cut_and_counted_and_a_locked_network_stays(tmp_path, capsys):
    given = ["objective=clip", "collate.sides.text.max_tokens=7", "backbone.locked=[image]", "trainer.handoff_every=1"]
    run = pretrain(tmp_path, *given)
    share = json.loads((run / "metrics.json").read_text())["data/text_cut_share"]
    assert 0.5 < share < 0.95  # all but captions of one digit
    assert f"{round(share * 32)} of 32 captions looked at are longer than" in capsys.readouterr().err
    first, last = (handoff.read(str(run / "handoff" / f"step-000000{step}")).towers for step in (1, 3))
    moved = {
        side: any(
            not torch.equal(one, other)
            for one, other in zip(*(of[side].backbone.state_dict().values() for of in (first, last)), strict=True)
        )
        for side in first
    }
    assert moved == {"image": False, "text": True}


def test_a_locked_network_computes_as_in_evaluation_from_the_first_step_on():
    """Nothing but the constructor is sure to be called before it: its batch statistics would move."""
    image = functools.partial(TorchvisionBackbone, name="resnet", layers=[1, 1, 1, 1], width=4, stem="cifar")
    text = functools.partial(TransformersBackbone, config=SMALL_BERT)
    both = DualEncoder(towers={"image": image, "text": text}, locked=["image"])
    kept = {name: value.clone() for name, value in both.towers["image"].state_dict().items()}
    both.towers["image"](images=torch.randn(4, 3, 32, 32))
    assert any("running_mean" in name for name in kept)
    for name, value in both.towers["image"].state_dict().items():
        assert torch.equal(value, kept[name]), name


def test_both_sides_are_shown(tmp_path, capsys):
    pretrain(tmp_path, "objective=clip", "dry_run=true")
    shown = capsys.readouterr().out
    assert shown.count("  text    [CLS] a ") == 3 and "views-image.png" in shown


def test_networks_of_hand_offs_begin_where_they_ended_and_a_locked_one_stays(pretrained, tmp_path):
    """Both towers of another run, as they would be of SimCLR and of a masked language model: LiT."""
    last = pretrained / "handoff" / "last"
    given = []
    for side in ("image", "text"):
        for part in (f"backbone.towers.{side}", f"preprocess.sides.{side}"):
            group = part.partition(".")[0]
            given += [f"{group}@{part}=_handoff", f"{part}.handoff={last}", f"{part}.tower={side}"]
    words = ["objective=clip", *given, *(word for word in SMALL if not word.startswith(("backbone", "preprocess")))]
    words += ["backbone.locked=[image]", "trainer.max_steps=1", f"data.cache_dir={tmp_path}", "optimizer.peak_lr=1e-3"]
    run = main(compose([*words, f"run_dir={tmp_path / 'run'}"]))
    before, after = (handoff.read(str(one / "handoff" / "last")).towers for one in (pretrained, run))
    moves = {
        side: max(
            (one - other).abs().max().item()
            for one, other in zip(after[side].backbone.parameters(), before[side].backbone.parameters(), strict=True)
        )
        for side in after
    }
    assert moves["image"] == 0.0 and 0.0 < moves["text"] < 2e-3  # one step of Adam away from where it began
    assert after["image"].preprocess.kwargs == before["image"].preprocess.kwargs
    assert after["text"].preprocess.digest == before["text"].preprocess.digest
