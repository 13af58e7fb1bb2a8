"""Configurations and finished runs of the release before, in which each task named its own tokens and pixels."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from finetuning.launch import compose, load_run
from finetuning.predictions import predict, read_inputs
from pretraining.runs.renamed import current
from tests.finetuning.conftest import Finetune

TASKS = "finetuning.tasks."
CLASSES = {"dropout": 0.1, "class_weights": None, "select": "accuracy"}
WRITING = {"prefix": "", "separator": "\n", "max_target_tokens": 64, "label_smoothing": 0.0}
BEFORE = {
    "text_classification": {"_target_": f"{TASKS}text_classification.TextClassification", "max_tokens": 128, **CLASSES},
    "digits": {"_target_": f"{TASKS}image_classification.ImageClassification", **CLASSES, "dropout": 0.0},
    "text_multi_label": {
        **{"_target_": f"{TASKS}text_multi_label.TextMultiLabel", "max_tokens": 128},
        **{"dropout": 0.1, "select": "f1_micro"},
    },
    "text_regression": {
        **{"_target_": f"{TASKS}text_regression.TextRegression", "max_tokens": 128},
        **{"dropout": 0.1, "select": "pearson"},
    },
    "tagging": {
        **{"_target_": f"{TASKS}tagging.Tagging", "max_tokens": 128},
        **{"dropout": 0.1, "align": "first", "select": "accuracy"},
    },
    "question_answering": {
        **{"_target_": f"{TASKS}question_answering.QuestionAnswering", "max_tokens": 128},
        **{"overlap": 32, "max_answer": 30, "select": "f1"},
    },
    "generation": {
        **{"_target_": f"{TASKS}generation.Generation", "max_tokens": 128, "select": "-loss"},
        "writing": {"_target_": "finetuning.writing.Writing", **WRITING},
        "decoding": {
            **{
                "_target_": "finetuning.decoding.TextDecoding",
                "max_new_tokens": 64,
                "num_beams": 4,
                "length_penalty": 1.0,
            },
            **{"no_repeat_ngram_size": 0, "do_sample": False, "temperature": 1.0, "top_p": 1.0, "seed": 0},
        },
    },
}
RUN = ["task=text_classification", "trainer.max_steps=4", "trainer.val_every=2", "optimizer.peak_lr=3e-3"]


@pytest.mark.parametrize("task", BEFORE)
def test_a_task_as_it_was_written_then_is_the_task_of_now(task: str) -> None:
    now = OmegaConf.to_container(compose([f"task={task}", "handoff=x", *([] if task == "digits" else ["data.path=x"])]))
    assert current({"task": BEFORE[task]})["task"] == now["task"]
    assert current(now) == now


def test_what_was_typed_then_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    common = ["handoff=x", "data.path=x"]
    assert compose(["task=tagging", *common, "task.max_tokens=7", "task.align=all"]).task.inputs == {
        **{"_target_": "finetuning.inputs.words.WordInputs", "max_tokens": 7, "align": "all"}
    }
    assert "task.max_tokens is called task.inputs.max_tokens now" in capsys.readouterr().err
    task = compose(["task=generation", *common, "task.writing.prefix=go", "task.writing.label_smoothing=0.1"]).task
    assert task.inputs.prefix == "go" and task.label_smoothing == 0.1


def test_a_run_that_ended_then_predicts_and_is_known_to_be_finished(
    finetune: Finetune, text_handoff: Path, topics: Path
) -> None:
    common = [*RUN, f"handoff={text_handoff}", f"data.path={topics}", "task.inputs.max_tokens=32", "name=run"]
    run = finetune(*common)
    config = OmegaConf.load(run / "config.yaml")
    config.task = BEFORE["text_classification"] | {"max_tokens": 32}
    del config.tower
    OmegaConf.save(config, run / "config.yaml")
    loaded, task = load_run(run)
    records = predict(task, read_inputs(task, loaded.data, str(topics / "test.parquet")))
    saved = pq.read_table(run / "predictions.parquet")["prediction"].to_pylist()
    assert [record["prediction"] for record in records] == saved and len(saved) == 60
    before = (run / "metrics.json").read_bytes()
    assert finetune(*common, "resume=auto") == run and (run / "metrics.json").read_bytes() == before
