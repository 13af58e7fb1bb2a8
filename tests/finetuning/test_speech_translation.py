# ruff: noqa: F811 - fixtures that are imported
"""Texts written after recordings: a pretrained decoder of texts on a pretrained encoder of speech."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from finetuning.evaluate import evaluate
from finetuning.inputs.base import Picked
from finetuning.launch import compose, load_run, main
from finetuning.predictions import predict, read_inputs
from pretraining import handoff
from pretraining.audio.data.letters import spoken
from pretraining.cli.configuration import instantiate
from pretraining.errors import RunError
from pretraining.random import Keys
from tests.finetuning.conftest import QUIET, Finetune
from tests.finetuning.test_audio import audio_handoff, folder_of  # noqa: F401 - fixtures
from tests.finetuning.test_generation import writers  # noqa: F401 - fixtures

SHORT = [
    "task=speech_translation",
    "task.inputs.max_target_tokens=32",
    "task.decoding.max_new_tokens=32",
    "task.decoding.num_beams=2",
    "task.dropout=0",
    "data.batch_size=8",
    "optimizer.peak_lr=1e-2",
    "trainer.val_every=1000",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write eight recordings, which are train, validation and test."""
    place = tmp_path_factory.mktemp("spoken")
    for split in ("train", "validation", "test"):
        folder_of(place / split)
    return place


@pytest.fixture(scope="module")
def learnt(data: Path, audio_handoff: Path, writers: dict[str, Path], tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("learnt") / "run"
    words = [*SHORT, f"handoff={audio_handoff}", f"task.decoder={writers['bart']}", f"data.path={data}"]
    return main(compose([*QUIET, *words, "trainer.max_steps=150", f"run_dir={run}"]))


def test_eight_recordings_are_learnt_by_heart_word_by_word(learnt: Path, tmp_path: Path) -> None:
    values = json.loads((learnt / "metrics.json").read_text())
    assert values["test/exact_match"] == 1.0 and values["test/chrf"] == pytest.approx(100)
    said = pq.read_table(learnt / "predictions.parquet").to_pydict()
    texts = [f"{spoken(3, 'train', number, longest=2).text.upper()}." for number in range(8)]
    assert said["label"] == [[text] for text in texts] and said["prediction"] == texts
    config, task = load_run(learnt)
    assert evaluate(task, instantiate(config.data))["test/exact_match"] == 1.0
    place = folder_of(tmp_path / "new")
    found = list(predict(task, read_inputs(task, config.data, str(place))))
    assert [record["prediction"] for record in found] == texts


def encoded(run: Path):
    config, task = load_run(run)
    return task, task.encode(instantiate(config.data).found()[0]["train"])


def batch(split, rows: list[int]):
    """Stack rows as an evaluation would."""
    return split.collate(Picked(np.array(rows)), Keys(0, "validation", np.zeros(len(rows), int), np.array(rows)))


def test_the_loss_is_transformers_own_and_padding_counts_for_nothing(learnt: Path) -> None:
    task, split = encoded(learnt)
    task.eval()
    with torch.no_grad():
        together = task.loss(batch(split, list(range(8)))).terms["cross_entropy"]
        each = [task.loss(batch(split, [row])).terms["cross_entropy"] for row in range(8)]
        frames = task.read(task.features(batch(split, [3])))
        labels = torch.from_numpy(split.targets[3])[None]
        states = BaseModelOutput(frames.positions)
        theirs = task.writer.model(encoder_outputs=states, attention_mask=frames.valid.long(), labels=labels).loss
    torch.testing.assert_close(each[3].total / each[3].count, theirs, rtol=1e-4, atol=1e-5, check_dtype=False)
    torch.testing.assert_close(together.total, sum(part.total for part in each), rtol=1e-4, atol=1e-4)
    assert together.count == sum(part.count for part in each)


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_a_frozen_encoder_stays_while_the_decoder_learns(
    kind: str,
    data: Path,
    audio_handoff: Path,
    writers: dict[str, Path],
    finetune: Finetune,
) -> None:
    words = [*SHORT, f"handoff={audio_handoff}", f"task.decoder={writers[kind]}", f"data.path={data}", "mode=frozen"]
    _, task = load_run(finetune(*words, "trainer.max_steps=3"))
    before = handoff.read(str(audio_handoff)).backbone.state_dict()
    assert all((value == before[name]).all() for name, value in task.backbone.state_dict().items())
    decoder = handoff.read(str(writers[kind])).backbone.model.get_decoder().state_dict()
    now = task.writer.model.get_decoder().state_dict()
    assert any((now[name] != value).any() for name, value in decoder.items())
    assert not any(name.startswith(("layers.", "block.")) for name in task.writer.model.get_encoder().state_dict())


def test_what_cannot_write_is_refused(
    data: Path,
    audio_handoff: Path,
    writers: dict[str, Path],
    learnt: Path,
    finetune: Finetune,
    tmp_path: Path,
) -> None:
    words = [*SHORT, f"handoff={audio_handoff}", f"data.path={data}", "trainer.max_steps=1"]
    with pytest.raises(RunError, match="holds no encoder–decoder: give a hand-off of objective=denoising_bart"):
        finetune(*words, f"task.decoder={writers['gpt2']}")
    with pytest.raises(RunError, match="max_new_tokens=99, but the decoder has positions for 64: lower them"):
        finetune(*words, f"task.decoder={writers['bart']}", "task.decoding.max_new_tokens=99", name="long")
    with pytest.raises(RunError, match=r"task\.decoder: handoff=.*: no handoff"):
        finetune(*words, f"task.decoder={tmp_path}", name="none")
    copy = tmp_path / "run"
    shutil.copytree(learnt, copy, symlinks=True)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace(str(writers["bart"]), str(writers["t5"])))
    with pytest.raises(RunError, match="is not the hand-off that this model was trained with"):
        load_run(copy)
