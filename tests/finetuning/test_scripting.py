"""Finetuning and predicting from a script: the runs, the records and the refusals of the command line."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import finetuning as ft
import pretraining as pt
from finetuning.export import export
from finetuning.launch import compose, load_run, main
from pretraining.errors import RunError
from tests.finetuning.conftest import QUIET, texts
from tests.finetuning.test_text_tasks import splits
from tests.test_scripting import Heard

KNN = ["mode=knn", *QUIET]


@pytest.fixture(scope="module")
def sorter(text_handoff, tmp_path_factory):
    data = splits(tmp_path_factory.mktemp("topics"), texts, (40, 12, 20))
    task = ["task=text_classification", "task.inputs.max_tokens=32", f"data.path={data}"]
    return ft.finetune(text_handoff, *task, *KNN, run_dir=tmp_path_factory.mktemp("o'clock") / "a run"), data


@pytest.fixture(scope="module")
def painter(image_handoff, tmp_path_factory):
    return ft.finetune(image_handoff, "task=digits", "shots=5", *KNN, run_dir=tmp_path_factory.mktemp("d") / "run")


def test_finetune_is_the_run_of_the_command_line(painter, image_handoff, tmp_path):
    words = [f"handoff={image_handoff}", "task=digits", "shots=5", *KNN, f"run_dir={tmp_path / 'typed'}"]
    typed = main(compose(words), words)
    configs = [(run / "config.yaml").read_text().replace(str(run), "RUN") for run in (painter.run_dir, typed)]
    assert configs[0] == configs[1]
    numbers = json.loads((typed / "metrics.json").read_text())
    assert {name: value for name, value in painter.metrics.items() if name != "seconds"} == {
        name: value for name, value in numbers.items() if name != "seconds"
    }
    assert painter.predictions.equals(pq.read_table(typed / "predictions.parquet"))
    assert repr(painter).startswith(
        f"Classification, NearestNeighbours: test accuracy {numbers['test/accuracy']:.3f} ["
    )
    assert (painter.run_dir / "overrides.txt").read_text().split()[1:-1] == words[1:-1]


def test_loggers_are_given_as_to_fit(image_handoff, tmp_path):
    own = {
        "_target_": "pytorch_lightning.loggers.CSVLogger",
        "save_dir": "{run_dir}/loggers",
        "name": "",
        "version": "",
    }
    words = ["task=digits", "shots=5", "mode=frozen", "trainer.max_steps=2", "trainer.log_every=1"]
    words += ["trainer.val_every=2", "trainer.precision=fp32"]
    heard, quiet = Heard(), {"wandb": {"mode": "disabled"}, "progress": False}
    result = ft.finetune(
        image_handoff, *words, run_dir=tmp_path / "own", loggers=[heard], logger={**quiet, "others": {"mine": own}}
    )
    rows = [(step, name) for step, row in heard.rows for name in row]
    assert {(1, "train/loss"), (2, "validation/accuracy"), (2, "test/accuracy")} <= set(rows)
    assert result.metrics["test/accuracy"] == heard.rows[-1][1]["test/accuracy"]
    with (result.run_dir / "loggers" / "metrics.csv").open() as file:
        assert any(row["test/accuracy"] for row in csv.DictReader(file))


def test_a_list_of_texts_is_predicted_as_the_test_file(sorter):
    result, data = sorter
    expected = ft.predict(result.run_dir, data / "test.parquet")
    rows = pq.read_table(data / "test.parquet").to_pylist()
    assert ft.predict(result, [row["text"] for row in rows]) == expected == ft.predict(result, rows)
    assert [record["prediction"] for record in expected] == result.predictions.column("prediction").to_pylist()
    assert expected[3]["id"] == 3 and expected[3]["text"] == rows[3]["text"]


def test_images_in_memory_are_predicted_as_their_files(painter, tmp_path):
    pixels = [np.round(image / 16 * 255).astype(np.uint8) for image in load_digits().images[:6]]
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(tmp_path / f"{number}.png")
    files = sorted(tmp_path.glob("*.png"))
    expected = [record["prediction"] for record in ft.predict(painter, tmp_path)]
    coloured = [np.repeat(each[..., None], 3, -1) for each in pixels]
    rows = [{"image": path.read_bytes(), "id": number} for number, path in enumerate(files)]
    named = ft.predict(painter, [row | {"id": f"picture {row['id']}"} for row in rows])
    assert [record["id"] for record in named] == [f"picture {number}" for number in range(6)]
    for given in (pixels, coloured, [Image.fromarray(each) for each in pixels], files, list(map(str, files)), rows):
        found = ft.predict(painter, given)
        assert [record["prediction"] for record in found] == expected
        assert [record["id"] for record in found] == list(range(6))


def pretraining_run():
    """The directory of a run of pretraining, as far as `predict` reads it before it knows."""
    path = Path("run")
    path.mkdir()
    (path / "config.yaml").write_text(str(pt.recipe("objective=simclr")))
    return path


MISTAKES = {
    "no hand-off": (lambda *_: ft.finetune("/nowhere", "task=digits"), "/nowhere"),
    "no text": (lambda *_: ft.finetune("x", 5), "5: give settings as name=value"),
    "no task": (lambda *_: ft.finetune("x", "task=digit"), "task=digit: there is no such option: did you mean digits"),
    "other modality": (
        lambda sorter, painter: ft.finetune(painter.run_dir / "model/last", "task=docs_topic"),
        "is for image, but task=Classification reads text",
    ),
    "no run": (lambda *_: ft.predict("/nowhere", ["a"]), "run_dir=/nowhere holds no finetuned model"),
    "a pretraining run": (
        lambda _, painter: ft.predict(pretraining_run(), ["a"]),
        "is no run of finetuning, but of pretraining: give one of finetuning",
    ),
    "a finetuned run": (lambda _, painter: pt.load(painter.run_dir), "(it is a finetuned run: name its model/last)"),
    "no class of transformers": (
        lambda _, painter: export(load_run(painter.run_dir)[1], Path("exported")),
        "for which transformers has no class: take to=onnx",
    ),
    "nothing": (lambda sorter, _: ft.predict(sorter, []), "got an empty list of inputs"),
    "a number": (lambda sorter, _: ft.predict(sorter, ["a", 3]), "got input 1, which is no text: give texts, or rows"),
    "half a letter": (lambda sorter, _: ft.predict(sorter, ["\udc80"]), "input 0 holds half of a surrogate pair"),
    "a table": (lambda sorter, _: ft.predict(sorter, pa.table({"text": ["a"]})), "got a table (Table)"),
    "one image": (lambda _, painter: ft.predict(painter, np.zeros((8, 8, 3), np.uint8)), "got one array [8, 8, 3]"),
    "two hand-offs": (lambda *_: ft.finetune("x", "handoff=y", "task=digits"), "got handoff twice"),
    "two loggers": (lambda *_: ft.finetune("x", "logger=csv", "task=digits", logger="csv"), "got logger twice"),
    "no such logger": (lambda *_: ft.finetune("x", "task=digits", logger="tensorbord"), "did you mean tensorboard"),
    "one logger": (lambda *_: ft.finetune("x", "task=digits", loggers=Heard()), "got Heard as loggers=: give a list"),
    "no column": (lambda sorter, _: ft.predict(sorter, [{"words": "a"}]), "or rows with text"),
    "no file": (
        lambda _, painter: ft.predict(painter, ["nowhere.png"]),
        "input 0 names the file nowhere.png, which cannot be",
    ),
    "no image": (
        lambda _, painter: ft.predict(painter, [np.zeros((2, 2, 9))]),
        "input 0 is an array float64 [2, 2, 9]: give uint8",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_an_error_of_one_line_and_leaves_nothing(mistake, sorter, painter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, told = MISTAKES[mistake]
    with pytest.raises(RunError) as caught:
        make(sorter[0], painter)
    assert told in str(caught.value) and "\n" not in str(caught.value)
    shutil.rmtree("run", ignore_errors=True)
    assert list(tmp_path.iterdir()) == []


def test_recordings_in_memory_are_read_as_their_files(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    from finetuning.inputs.audio import AudioInputs
    from pretraining.audio.preprocess import AudioPreprocess

    samples = np.random.default_rng(0).integers(-3000, 3000, 400).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 8000)
    inputs, preprocess = AudioInputs(max_seconds=1.0, longer="cut"), AudioPreprocess(sample_rate=8000, normalise=True)
    (file,) = inputs.read(tmp_path / "a.wav", {}, preprocess)
    floats = samples / np.float32(32768)
    given = [(samples, 8000), (floats, 8000), str(tmp_path / "a.wav"), {"audio": (floats, 8000)}]
    for each in inputs.read(given, {}, preprocess):
        read, expected = (part.columns["audio"].samples(8000) for part in (each, file))
        assert np.allclose(preprocess(read), preprocess(expected), atol=1e-6)
    with pytest.raises(RunError, match=r"input 0 is ndarray, and this network reads recordings: give a path, or"):
        next(inputs.read([np.zeros((2, 5))], {}, preprocess))
