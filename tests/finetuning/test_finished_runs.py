"""What can be done with a finished run: predict, evaluate, export, finetune further."""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from finetuning.evaluate import cli as evaluate_command
from finetuning.evaluate import evaluate, with_data
from finetuning.export import export, transformers_model
from finetuning.launch import load_run
from finetuning.predictions import cli as predict_command
from finetuning.predictions import predict, read_inputs
from pretraining.cli.configuration import instantiate
from pretraining.errors import RunError
from tests.finetuning.conftest import Finetune, texts, write

SHORT = [
    "task=text_classification",
    "task.inputs.max_tokens=32",
    "trainer.max_steps=30",
    "trainer.val_every=15",
    "optimizer.peak_lr=3e-3",
]


@pytest.mark.parametrize("mode", ["full", "knn"])
def test_a_saved_model_predicts_and_scores_as_it_did_at_the_end_of_its_run(
    mode: str, finetune: Finetune, text_handoff: Path, topics: Path, tmp_path: Path
) -> None:
    run = finetune(*SHORT, f"handoff={text_handoff}", f"data.path={topics}", f"mode={mode}")
    config, task = load_run(run)
    records = list(predict(task, read_inputs(task, config.data, str(topics / "test.parquet"))))
    saved = pq.read_table(run / "predictions.parquet")
    assert [record["prediction"] for record in records] == saved["prediction"].to_pylist()
    lines = write_lines(tmp_path / "lines.txt", pq.read_table(topics / "test.parquet")["text"].to_pylist())
    assert [record["prediction"] for record in predict(task, read_inputs(task, config.data, str(lines)))] == saved[
        "prediction"
    ].to_pylist()
    values = evaluate(task, instantiate(with_data(config, {"data.path": str(topics)}).data))
    assert values["test/accuracy"] == pytest.approx(json.loads((run / "metrics.json").read_text())["test/accuracy"])
    other = write(tmp_path / "other.parquet", texts(30, 9))
    assert evaluate(task, instantiate(with_data(config, {"data.path": str(other)}).data))["test_examples"] == 30


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_labels_that_the_run_did_not_have_are_an_error(
    finetune: Finetune, text_handoff: Path, topics: Path, tmp_path: Path
) -> None:
    run = finetune(*SHORT, f"handoff={text_handoff}", f"data.path={topics}", "mode=knn")
    config, task = load_run(run)
    other = write(tmp_path / "other.parquet", texts(30, 9, kinds=4))
    with pytest.raises(RunError, match="labels 'art', which training did not have"):
        evaluate(task, instantiate(with_data(config, {"data.path": str(other)}).data))


def test_the_commands_print_json_or_one_error(
    finetune: Finetune, text_handoff: Path, topics: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    run = finetune(*SHORT, f"handoff={text_handoff}", f"data.path={topics}", "mode=knn")
    lines = write_lines(tmp_path / "lines.txt", ["bada befe", "keka"])
    monkeypatch.setattr(sys, "argv", ["predict", f"run_dir={run}", f"input={lines}"])
    capsys.readouterr()
    predict_command()
    said = [set(json.loads(line)) for line in capsys.readouterr().out.splitlines()]
    assert said == [{"id", "text", "prediction", "scores"}] * 2
    monkeypatch.setattr(sys, "argv", ["evaluate", f"run_dir={run}", f"data.path={topics}"])
    evaluate_command()
    assert json.loads(capsys.readouterr().out)["test_examples"] == 60
    monkeypatch.setattr(sys, "argv", ["predict", f"run_dir={run}", "inptu=x"])
    with pytest.raises(SystemExit, match="2"):
        predict_command()
    takes = "this command takes run_dir=, input=, output=: did you mean input?"
    assert capsys.readouterr().err == f"error: got 'inptu=x', but {takes}\n"


def test_pipelines_reproduce_our_predictions_exactly(finetune: Finetune, text_handoff: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    for seed, (split, count) in enumerate((("train", 60), ("validation", 30), ("test", 102))):
        write(tmp_path / "d" / f"{split}.parquet", texts(count, seed))
    run = finetune(*SHORT, f"handoff={text_handoff}", f"data.path={tmp_path / 'd'}", "pooling=pooler")
    _, task = load_run(run)
    folder = export(task, tmp_path / "exported")
    saved = pq.read_table(run / "predictions.parquet")
    given = pipeline("text-classification", model=str(folder), device="cpu")(
        pq.read_table(tmp_path / "d" / "test.parquet")["text"].to_pylist()
    )
    assert len(given) == 102 and [answer["label"] for answer in given] == saved["prediction"].to_pylist()
    best = [max(row) for row in saved["scores"].to_pylist()]
    assert torch.allclose(torch.tensor([answer["score"] for answer in given]), torch.tensor(best), atol=1e-5)


def test_a_vector_that_transformers_makes_in_another_way_is_refused(
    finetune: Finetune, text_handoff: Path, topics: Path
) -> None:
    run = finetune(*SHORT, f"handoff={text_handoff}", f"data.path={topics}", "mode=frozen")
    with pytest.raises(RunError, match="another way than pooling=mean: finetune with head=native and mode=full or"):
        transformers_model(load_run(run)[1])


def test_a_finetuned_model_is_a_handoff(finetune: Finetune, text_handoff: Path, topics: Path) -> None:
    first = finetune(*SHORT, f"handoff={text_handoff}", f"data.path={topics}")
    second = finetune(
        *SHORT, f"handoff={first / 'model' / 'last'}", f"data.path={topics}", "mode=linear_probe", name="second"
    )
    assert json.loads((second / "metrics.json").read_text())["test/accuracy"] > 0.8


def test_a_transformers_directory_is_finetuned(
    finetune: Finetune, text_handoff: Path, topics: Path, tmp_path: Path
) -> None:
    run = finetune(*SHORT, f"handoff={text_handoff}", f"data.path={topics}", "pooling=pooler")
    folder = export(load_run(run)[1], tmp_path / "checkpoint")
    again = finetune(*SHORT, f"handoff=hf:{folder}", f"data.path={topics}", "mode=knn", name="again")
    assert json.loads((again / "metrics.json").read_text())["test/accuracy"] > 0.8


def test_an_empty_input_is_an_error(finetune: Finetune, text_handoff: Path, topics: Path, tmp_path: Path) -> None:
    config, task = load_run(finetune(*SHORT, f"handoff={text_handoff}", f"data.path={topics}", "mode=knn"))
    (tmp_path / "none.txt").write_text("")
    with pytest.raises(RunError, match="holds no examples"):
        read_inputs(task, config.data, str(tmp_path / "none.txt"))


def test_a_folder_with_test_data_alone_is_enough_to_evaluate(
    finetune: Finetune, text_handoff: Path, topics: Path, tmp_path: Path
) -> None:
    config, task = load_run(finetune(*SHORT, f"handoff={text_handoff}", f"data.path={topics}", "mode=knn"))
    write(tmp_path / "other" / "test-00000-of-00002.parquet", texts(30, 9))
    write(tmp_path / "other" / "test-00001-of-00002.parquet", texts(30, 8))
    changed = with_data(config, {"data.path": str(tmp_path / "other")})
    assert evaluate(task, instantiate(changed.data))["test_examples"] == 60
