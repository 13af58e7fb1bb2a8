"""Networks as ONNX files: equal to torch at free shapes, from fast implementations too, with what prepares inputs."""

import json
import shutil

import numpy as np
import pytest
import torch

from finetuning import export as of_runs
from pretraining import export as of_handoffs
from pretraining import handoff, onnx_form
from pretraining.audio.backbones.speech_encoder import SpeechEncoder
from pretraining.audio.modality import AUDIO
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.errors import HandoffError, RunError
from pretraining.export import export
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess
from pretraining.text.modality import TEXT
from tests.objectives.text.small_text import BERT, backbone, preprocess

SPEECH = {
    **{"model_type": "wav2vec2", "conv_dim": [8, 8, 8], "conv_kernel": [10, 8, 4], "conv_stride": [5, 4, 4]},
    **{"feat_extract_norm": "layer", "do_stable_layer_norm": True, "hidden_size": 16, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "intermediate_size": 16, "num_conv_pos_embeddings": 5},
    **{"num_conv_pos_embedding_groups": 2, "conv_bias": True},
}


def text():
    return TEXT.towers(backbone({**BERT, "num_hidden_layers": 1}, "wordpiece", impl="fast"), preprocess("wordpiece"))


def image():
    shape = {"image_size": 16, "patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16}
    network = TorchvisionBackbone(name="vision_transformer", options=shape)
    return IMAGE.towers(network, ImagePreprocess(size=16, channels=3, mean=[0.5] * 3, std=[0.25] * 3))


def speech():
    network = SpeechEncoder(encoder=SPEECH, sample_rate=8000)
    return AUDIO.towers(network, AudioPreprocess(sample_rate=8000, normalise=True))


def written(towers, directory):
    place = handoff.write(directory / "step-1", towers=towers, origin={"objective": "x"}, heads={})
    return handoff.read(str(place))


def session(path):
    return pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])


@torch.no_grad()
def test_a_text_encoder_takes_any_batch_and_length(tmp_path, capsys):
    given = written(text(), tmp_path)
    network = given.backbone.eval()
    place = export(given, "onnx", tmp_path / "model", int8="true")
    said = capsys.readouterr().out.splitlines()
    assert [line[:10] for line in said] == ["torch fp32", "onnx fp32 ", "onnx int8 "]
    assert {"model.onnx", "model.int8.onnx", "tokenizer.json", "preprocess.json", "README.md"} <= {
        path.name for path in place.iterdir()
    }
    found: dict = {}
    exec((place / "README.md").read_text().split("```")[1].removeprefix("python").replace("DIR", str(place)), found)
    assert found["positions"].shape[:2] == (2, 8) and np.isfinite(found["pooled"]).all()
    ids = torch.randint(5, 90, (4, 19))
    real = (torch.arange(19) < torch.tensor([19, 3, 8, 1])[:, None]).long()
    run = session(place / "model.onnx")
    assert [[part.name, part.shape[0]] for part in run.get_inputs()] == [
        [name, "batch"] for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    inputs = {"input_ids": ids.numpy(), "attention_mask": real.numpy(), "token_type_ids": np.zeros_like(ids)}
    expected = network(input_ids=ids, document_ids=real)
    for name, close in (("model.onnx", 1e-5), ("model.int8.onnx", 0.2)):
        pooled, positions = session(place / name).run(["pooled", "positions"], inputs)
        np.testing.assert_allclose(pooled, expected.pooled, atol=close)
        np.testing.assert_allclose(positions[real > 0], expected.positions[real > 0], atol=4 * close)
    assert (place / "model.int8.onnx").stat().st_size < 0.6 * (place / "model.onnx").stat().st_size


@pytest.fixture(scope="module")
def of_image(tmp_path_factory):
    directory = tmp_path_factory.mktemp("image")
    given = written(image(), directory)
    return given, export(given, "onnx", directory / "model")


@torch.no_grad()
def test_an_image_network_takes_any_batch(of_image):
    given, place = of_image
    images = torch.randn(7, 3, 16, 16)
    pooled, positions = session(place / "model.onnx").run(None, {"images": images.numpy()})
    expected = given.backbone.eval()(images=images)
    np.testing.assert_allclose(pooled, expected.pooled, atol=1e-5)
    np.testing.assert_allclose(positions, expected.positions, atol=1e-5)
    assert json.loads((place / "preprocess.json").read_text())["kwargs"]["mean"] == [0.5] * 3


def test_the_readme_says_names_types_and_shapes_and_runs(of_image):
    _, place = of_image
    code = (place / "README.md").read_text().split("```")[1].removeprefix("python")
    assert (
        "# reads images: float32 [batch, 3, 16, 16]\n# gives pooled: float32 [batch, 16]\n# gives positions: " in code
    )
    found = {}
    exec(code.replace("DIR", str(place)), found)
    assert found["pooled"].shape == (2, 16) and found["positions"].shape == (2, 4, 16)


@pytest.mark.slow
@torch.no_grad()
def test_a_speech_encoder_takes_any_batch_and_length_and_where_rows_end(tmp_path):
    given = written(speech(), tmp_path)
    place = export(given, "onnx", tmp_path / "model")
    waves, lengths = torch.randn(3, 9001), torch.tensor([9001, 4000, 700])
    pooled, positions = session(place / "model.onnx").run(None, {"waves": waves.numpy(), "lengths": lengths.numpy()})
    expected = given.backbone.eval()(waves=waves, lengths=lengths)
    np.testing.assert_allclose(pooled, expected.pooled, atol=1e-5)
    np.testing.assert_allclose(positions[expected.valid], expected.positions[expected.valid], atol=1e-5)
    assert json.loads((place / "preprocessor_config.json").read_text())["sampling_rate"] == 8000


def test_a_file_that_differs_from_torch_is_not_left_behind(of_image, tmp_path, monkeypatch):
    _, place = of_image
    torch.manual_seed(1)
    given = written(image(), tmp_path)
    monkeypatch.setattr(onnx_form, "_export", lambda *parts: shutil.copy(place / "model.onnx", parts[-1]))
    with pytest.raises(HandoffError, match=r"ONNX Runtime differs from torch by .*, more than 0.0001: not written"):
        export(given, "onnx", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_form.importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else name)
    told = r"to=onnx needs onnx, onnxscript, onnxruntime: pip install 'pretraining\[ex"
    with pytest.raises(RunError, match=told):
        export(written(image(), tmp_path), "onnx", tmp_path / "model")
    for command, words in ((of_handoffs, {"handoff": "/nowhere"}), (of_runs, {"run_dir": "/nowhere"})):
        with pytest.raises(RunError, match=told):  # before anything is read
            list(command.carry_out({**words, "to": "onnx", "output": str(tmp_path / "model")}))


def test_what_torch_cannot_export_is_one_line(tmp_path, monkeypatch):
    given = written(image(), tmp_path)
    monkeypatch.setattr(TorchvisionBackbone, "forward", lambda self, images: exec("raise KeyError(3)"))
    with pytest.raises(HandoffError, match=r"torch\.onnx has no form for this network .*another backbone") as found:
        export(given, "onnx", tmp_path / "model")
    assert "\n" not in str(found.value)
