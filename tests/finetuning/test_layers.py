"""Which layers of a frozen backbone a head reads, for backbones of every modality."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from finetuning.inputs.base import EncodedSplit
from finetuning.launch import load_run
from finetuning.layers import Layers, LayerSum
from finetuning.training import evaluation
from pretraining import handoff
from pretraining.audio.backbones.speech_encoder import SpeechEncoder
from pretraining.cli.configuration import instantiate
from pretraining.errors import RunError
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.text.modality import TEXT
from tests.finetuning.conftest import Finetune
from tests.objectives.audio.small_audio import ENCODER

TASK = ["task=text_classification", "task.inputs.max_tokens=32", "trainer.max_steps=40"]
SPEECH = {"wav2vec2": {}, "hubert": {}, "wavlm": {}, "data2vec-audio": {"conv_pos_kernel_size": 3}}


def numbers(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def text_layers(backbone, ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    return list(backbone.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states)


@torch.no_grad()
@pytest.mark.parametrize("impl", ["transformers", "fast"])
def test_layers_of_a_text_encoder_are_those_that_transformers_names(text_handoff: Path, impl: str) -> None:
    read = handoff.read(str(text_handoff)).backbone
    backbone = type(read)(**read.kwargs, impl=impl).eval()
    ids, mask = torch.randint(5, 100, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    mine = backbone.hidden_layers(input_ids=ids, document_ids=mask)
    assert [features.pooled.shape[1] for features in mine] == backbone.layer_widths == [32] * 3
    real = mask.bool()
    for ours, theirs in zip(mine, text_layers(backbone, ids, mask), strict=True):
        torch.testing.assert_close(ours.positions[real], theirs[real])
        torch.testing.assert_close(ours.pooled[1], theirs[1, :6].mean(0))
    torch.testing.assert_close(mine[-1].pooled, backbone(input_ids=ids, document_ids=mask).pooled)


@torch.no_grad()
@pytest.mark.parametrize("family", SPEECH)
def test_a_speech_encoder_s_layer_is_the_end_of_a_shorter_one(family: str) -> None:
    torch.manual_seed(0)
    config = ENCODER | SPEECH[family] | {"model_type": family, "do_stable_layer_norm": False, "num_hidden_layers": 3}
    whole = SpeechEncoder(encoder=config, sample_rate=8000).eval()
    waves, lengths = torch.randn(2, 4000), torch.tensor([4000, 2500])
    layers = whole.hidden_layers(waves=waves, lengths=lengths)
    assert len(layers) == len(whole.layer_widths) == 4
    for count in (1, 2, 3):
        shorter = SpeechEncoder(encoder=config | {"num_hidden_layers": count}, sample_rate=8000).eval()
        shorter.load_state_dict(whole.state_dict(), strict=False)
        torch.testing.assert_close(layers[count].pooled, shorter(waves, lengths).pooled)
    alone = whole.hidden_layers(waves=waves[1:, :2500])
    for padded, single in zip(layers, alone, strict=True):
        torch.testing.assert_close(padded.pooled[1], single.pooled[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_layers_of_a_vision_transformer_are_its_own_run_one_by_one() -> None:
    sizes = {"image_size": 16, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    backbone = TorchvisionBackbone(name="vision_transformer", options=sizes).eval()
    images, model = torch.randn(2, 3, 16, 16), backbone.model
    tokens = torch.cat([model.class_token.expand(2, -1, -1), model.conv_proj(images).flatten(2).transpose(1, 2)], 1)
    tokens = tokens + model.encoder.pos_embedding
    layers = backbone.hidden_layers(images=images)
    for number, layer in enumerate(model.encoder.layers):
        torch.testing.assert_close(layers[number].pooled, tokens[:, 0])
        tokens = layer(tokens)
    torch.testing.assert_close(layers[-1].pooled, model.encoder.ln(tokens)[:, 0])
    assert layers[0].grid == (2, 2) and layers[0].positions.shape == (2, 4, 16)


@torch.no_grad()
def test_layers_of_a_resnet_are_its_stages(image_handoff: Path) -> None:
    backbone = handoff.read(str(image_handoff)).backbone.eval()
    images = torch.randn(2, 1, 8, 8)
    layers, stages = backbone.hidden_layers(images=images), backbone(images=images).stages
    assert [features.pooled.shape[1] for features in layers] == backbone.layer_widths == [8, 8, 16, 32, 64]
    for features, stage in zip(layers[1:], stages, strict=True):
        torch.testing.assert_close(features.pooled, stage.mean((2, 3)))


@torch.no_grad()
def test_one_layer_of_all_is_the_last_and_numbers_stand_side_by_side(text_handoff: Path) -> None:
    backbone = handoff.read(str(text_handoff)).backbone.eval()
    ids = torch.randint(5, 100, (2, 9))
    inputs = {"input_ids": ids, "document_ids": torch.ones_like(ids)}
    last, both = (Layers(backbone, wanted)(backbone, inputs) for wanted in ([-1], [1, 2]))
    torch.testing.assert_close(last.pooled, backbone(**inputs).pooled, rtol=0, atol=0)
    torch.testing.assert_close(both.pooled[:, 32:], last.pooled)
    torch.testing.assert_close(both.positions[..., 32:], last.positions)
    assert Layers(backbone, [0, 1, 2]).numbers == Layers(backbone, "all").numbers
    with pytest.raises(RunError, match=r"mode.layers=\[3\], but TransformersBackbone has the layers 0 to 2"):
        Layers(backbone, [3])


def test_weights_of_layers_sum_to_one_and_a_weight_of_one_is_its_layer() -> None:
    sum_of, vectors = LayerSum(3), torch.randn(5, 2, 12)
    torch.testing.assert_close(sum_of(vectors), vectors.unflatten(-1, (3, 4)).mean(-2))
    sum_of.scores.data = torch.tensor([0.3, -1.0, 2.0])
    torch.testing.assert_close(sum_of(torch.ones(1, 12)), torch.ones(1, 4))
    sum_of.scores.data = torch.tensor([0.0, 0.0, 100.0])
    torch.testing.assert_close(sum_of(vectors), vectors[..., 8:])


def test_a_sum_s_weights_go_to_the_layer_that_knows(text_handoff: Path) -> None:
    torch.manual_seed(0)
    classes, vectors = torch.arange(90) % 3, torch.randn(90, 3, 32)
    vectors[:, 1] += 3.0 * nn.functional.one_hot(classes, 32)
    head = Layers(handoff.read(str(text_handoff)).backbone, "weighted").head(3, dropout=0.0)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(vectors.flatten(1)), classes).backward()
        optimizer.step()
    weights = head[0].scores.detach().softmax(0)
    assert weights[1] > 2 * max(weights[0], weights[2])


@pytest.fixture(scope="module")
def planted(text_handoff: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a hand-off whose first-token vectors say something in layer 1 alone: below is one token, above nothing."""
    read = handoff.read(str(text_handoff))
    backbone = type(read.backbone)(**read.backbone.kwargs | {"pooling": "first"})
    backbone.load_state_dict(read.backbone.state_dict())
    first, last = backbone.model.encoder.layer
    nn.init.zeros_(last.output.LayerNorm.weight)
    first.attention.self.value.weight.data *= 20.0
    directory = tmp_path_factory.mktemp("planted") / "step-0000001"
    towers = TEXT.towers(backbone, read.preprocess)
    return handoff.write(directory, towers=towers, origin={"objective": "none"}, heads={})


@pytest.mark.parametrize("mode", ["linear_probe", "knn", "frozen"])
def test_the_best_layer_is_found_and_loaded_again(
    mode, finetune: Finetune, planted: Path, topics: Path, capsys
) -> None:
    given = [*TASK, f"handoff={planted}", f"data.path={topics}", f"mode={mode}"]
    run = finetune(*given, "mode.layers=best", name="best")
    found = numbers(run)
    assert found["layer"] == 1.0 and "mode.layers=best: layer 1 of 0 to 2" in capsys.readouterr().err
    assert found["validation/layer_1"] > max(found["validation/layer_0"], found["validation/layer_2"])
    alone = numbers(finetune(*given, "mode.layers=[1]", name="one"))
    assert found["test/accuracy"] == alone["test/accuracy"] > numbers(finetune(*given))["test/accuracy"]
    assert again(run) == pq.read_table(run / "predictions.parquet")["prediction"].to_pylist()


def again(run: Path) -> list:
    """Predict a finished run's test split anew."""
    config, task = load_run(run)
    data = instantiate(config.data)
    split: EncodedSplit = task.encode(data.splits().test)
    outputs, _ = task.compute_outputs(evaluation(split, data))
    return list(task.table(task.predict(outputs, split))["prediction"])


@pytest.mark.parametrize("cache", [True, False])
def test_a_weighted_sum_learns_its_weights(cache, finetune: Finetune, planted: Path, topics: Path) -> None:
    given = [*TASK, f"handoff={planted}", f"data.path={topics}", "mode=frozen", f"mode.cache={str(cache).lower()}"]
    run = finetune(*given, "mode.layers=weighted", "optimizer.peak_lr=5e-2")
    _, task = load_run(run)
    scores = task.head[0].scores.detach()
    assert scores.abs().min() > 1e-3 and scores.softmax(0).sum() == pytest.approx(1.0, abs=1e-6)
    assert again(run) == pq.read_table(run / "predictions.parquet")["prediction"].to_pylist()


def test_stages_of_a_resnet_differ_in_width(finetune: Finetune, image_handoff: Path) -> None:
    given = ["task=digits", f"handoff={image_handoff}", "mode=linear_probe", "shots=5"]
    every = numbers(finetune(*given, "mode.layers=all", name="all"))
    best = numbers(finetune(*given, "mode.layers=best", name="best"))
    assert {f"validation/layer_{number}" for number in range(5)} <= best.keys()
    assert min(every["test/accuracy"], best["test/accuracy"]) > 0.5
    with pytest.raises(RunError, match=r"mode.layers=weighted, but the layers of TorchvisionBackbone are \[8, 8, 16"):
        finetune(*given[:2], "mode=frozen", "mode.layers=weighted", name="sum")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["mode=linear_probe", "mode.layers=weighted"], "learns no weights of layers: take mode=frozen"),
        (["mode=frozen", "mode.layers=best", "mode.cache=false"], "take weighted, all or a list of numbers"),
        (["mode=knn", "mode.layers=first"], "mode.layers=first: choose last, all, best or weighted"),
        (["mode=frozen", "mode.layers=all", "head=native"], "head=native and mode.layers=all"),
    ],
)
def test_what_cannot_be_read_is_said(given, told, finetune: Finetune, text_handoff: Path, topics: Path) -> None:
    with pytest.raises(RunError, match=told):
        finetune(*TASK, f"handoff={text_handoff}", f"data.path={topics}", *given)


def test_tags_read_several_layers_too(finetune: Finetune, text_handoff: Path, tmp_path: Path) -> None:
    words = [[f"w{number}" for number in row] for row in np.random.default_rng(0).integers(0, 20, (60, 5))]
    for split in ("train", "validation", "test"):
        lines = [json.dumps({"tokens": row, "tags": [word[-1] for word in row]}) for row in words]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    given = ["task=tagging", "task.inputs.max_tokens=32", f"handoff={text_handoff}", f"data.path={tmp_path}"]
    run = finetune(*given, "mode=linear_probe", "mode.layers=all")
    _, task = load_run(run)
    assert task.head[-1].in_features == 96
