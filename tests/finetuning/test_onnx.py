"""Finetuned models as ONNX files, images as transformers' classes, and what is said of both before training."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from finetuning import export as command
from finetuning.export import export, export_onnx
from finetuning.launch import load_run
from pretraining import handoff
from pretraining.errors import RunError
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess
from tests.finetuning.conftest import Finetune
from tests.finetuning.test_text_tasks import splits, tagged
from tests.hub_stub import running

SHORT = ["task.inputs.max_tokens=32", "trainer.max_steps=20", "trainer.val_every=20", "optimizer.peak_lr=3e-3"]


def logits(folder: Path, **inputs: np.ndarray) -> np.ndarray:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return session.run(["logits"], inputs)[0]


def tokens(folder: Path, *texts: object, **options: object) -> dict[str, np.ndarray]:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return dict(tokenizer(*texts, padding=True, return_tensors="np", split_special_tokens=True, **options))


@pytest.mark.slow
def test_the_default_head_on_texts_goes_to_onnx_and_to_the_hub(
    finetune: Finetune, text_handoff: Path, topics: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    words = ["task=text_classification", *SHORT, f"handoff={text_handoff}", f"data.path={topics}"]
    run = finetune(*words, "logger.progress=true")
    note = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert note == [
        "note: finetuning.export will write this model as ONNX, not for transformers "
        "(BertForSequenceClassification does not read pooling=mean); head=native goes there"
    ]
    with pytest.raises(RunError, match=r"pooling=mean: finetune with head=native"):
        export(load_run(run)[1], tmp_path / "refused")
    with running(monkeypatch, tmp_path) as hub:
        given = [f"run_dir={run}", "to=onnx", f"output={tmp_path / 'onnx'}", "push=us/topics"]
        monkeypatch.setattr(sys, "argv", ["export", *given])
        command.cli()
        assert capsys.readouterr().out.splitlines()[-1].endswith("/us/topics")
        card = hub.repositories["us/topics"]["README.md"].decode()
    measured = json.loads((run / "metrics.json").read_text())
    accuracy, low, high = (measured[f"test/accuracy{end}"] for end in ("", "_low", "_high"))
    assert f"| accuracy | {accuracy:.4g} | {low:.4g} to {high:.4g} |" in card and "library_name: onnx" in card
    texts = pq.read_table(topics / "test.parquet")["text"].to_pylist()
    found = torch.from_numpy(logits(tmp_path / "onnx", **tokens(tmp_path / "onnx", texts))).softmax(1)
    ours = pq.read_table(run / "predictions.parquet").to_pydict()
    np.testing.assert_allclose(found, ours["scores"], atol=1e-5)
    names = json.loads((tmp_path / "onnx" / "labels.json").read_text())["names"]
    assert [names[place] for place in found.argmax(1)] == ours["prediction"]


@pytest.mark.slow
def test_tags_go_to_both_without_a_note(finetune: Finetune, text_handoff: Path, tmp_path: Path, capsys) -> None:
    data = splits(tmp_path / "d", tagged, (16, 8, 8))
    run = finetune("task=tagging", *SHORT, f"handoff={text_handoff}", f"data.path={data}", "logger.progress=true")
    assert "note: " not in capsys.readouterr().err
    task = load_run(run)[1]
    folder = export_onnx(task, tmp_path / "onnx")
    assert [line[:10] for line in capsys.readouterr().out.splitlines()] == ["torch fp32", "onnx fp32 "]
    sentences = pq.read_table(data / "test.parquet")["tokens"].to_pylist()
    found = logits(folder, **tokens(folder, sentences, is_split_into_words=True))
    import transformers

    model = transformers.AutoModelForTokenClassification.from_pretrained(export(task, tmp_path / "model")).eval()
    rows = {name: torch.from_numpy(part) for name, part in tokens(folder, sentences, is_split_into_words=True).items()}
    with torch.no_grad():
        expected = model(**rows).logits
    real = rows["attention_mask"] > 0
    np.testing.assert_allclose(found[real], expected[real], atol=1e-5)
    assert found.std() > 0.01


@pytest.mark.parametrize(("precision", "notes"), [("fp32", 0), ("bf16", 1)])
def test_a_run_in_bf16_is_told_that_its_predictions_differ(
    precision: str, notes: int, finetune: Finetune, image_handoff: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    words = ["task=digits", f"handoff={image_handoff}", "shots=5", "mode=linear_probe"]
    task = load_run(finetune(*words, f"trainer.precision={precision}"))[1]
    monkeypatch.setattr(command, "write_function", lambda *_, **__: None)
    capsys.readouterr()
    export_onnx(task, tmp_path / "model")
    assert capsys.readouterr().err.count("note: this run computes in bf16 (trainer.precision), and") == notes


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_classes_of_images_are_those_of_transformers_class(kind: str, finetune: Finetune, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    shape = {"image_size": 32, "patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16}
    network = (TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=8, in_channels=1) if kind == "resnet"
               else TorchvisionBackbone(name="vision_transformer", options=shape, in_channels=1))  # fmt: skip
    towers = IMAGE.towers(network, ImagePreprocess(size=32, channels=1, mean=[0.3], std=[0.35]))
    given = handoff.write(tmp_path / "images" / "step-1", towers=towers, origin={"objective": "none"}, heads={})
    run = finetune("task=digits", f"handoff={given}", "trainer.max_steps=5", "trainer.val_every=5", "shots=5")
    task = load_run(run)[1]
    model = transformers.AutoModelForImageClassification.from_pretrained(export(task, tmp_path / "model")).eval()
    images = torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        expected = task.head(task.backbone(images=images).pooled)
        torch.testing.assert_close(model(pixel_values=images).logits, expected, rtol=0, atol=1e-5)
    assert len(model.config.id2label) == 10 and expected.std() > 1e-3


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["to=onx"], r"to=onx: a finetuned model is written as transformers, onnx"),
        (["int8=true"], r"int8= is not for to=transformers"),
        (["to=onnx", "int8=1"], r"int8=1: choose true or false"),
        (["private=no"], r"private=no: choose true or false"),
    ],
)
def test_wrong_words_are_refused_before_a_run_is_read(words: list[str], why: str) -> None:
    with pytest.raises(RunError, match=why):
        list(command.carry_out(dict(word.split("=") for word in ["run_dir=nothing", *words])))
