"""Runs on recordings: killed and resumed they end bit for bit the same; their hand-offs say what they cost."""

import json
import signal

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file

from pretraining.audio.data.letters import spoken
from pretraining.cli.configuration import compose
from pretraining.errors import RunError
from pretraining.evaluate import evaluate
from pretraining.launch import main
from tests.runs import assert_same_end, finish, kill_group, start, wait_for

TINY = [
    "data.size=60", "data.max_seconds=2.0", "data.batch_size=8", "data.eval_batch_size=6", "backbone=log_mel_tiny",
    "backbone.encoder.hidden_size=16", "backbone.encoder.num_hidden_layers=2", "backbone.encoder.intermediate_size=32",
    "backbone.encoder.conv_dim=[20,12,16]", "collate.span=5", "trainer.precision=fp32", "optimizer.warmup_steps=4",
    "trainer.max_steps=16", "trainer.log_every=4", "trainer.val_every=8", "trainer.checkpoint_every=4",
    "trainer.accumulate=2", "logger.wandb.mode=disabled", "logger.progress=false",
]  # fmt: skip
OBJECTIVES = {
    "wav2vec2": [
        *("objective.quantiser.codes=8", "objective.quantiser.width=8", "objective.width=8", "objective.negatives=9"),
    ],
    "masked_units": ["preprocess.units=10", "preprocess.sample_seconds=30", "objective.width=8"],
    "data2vec_audio": ["objective.momentum=0.9"],
}  # fmt: skip


def overrides(objective, cache_dir):
    return [f"objective={objective}", f"data.cache_dir={cache_dir}", *TINY, *OBJECTIVES[objective]]


SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in OBJECTIVES if name != "wav2vec2"]


@pytest.mark.parametrize("objective", ["wav2vec2", *SLOWER])
def test_a_run_that_is_killed_and_resumed_ends_bit_for_bit_the_same(objective, cache_dir, tmp_path):
    """Temperatures, teachers and units are among what must not be lost; every layer has dropout."""
    mine = [*overrides(objective, cache_dir), "resume=auto"]
    assert finish([*mine, f"run_dir={tmp_path / 'whole'}"]) == 0
    ended = tmp_path / "ended"
    process = start([*mine, f"run_dir={ended}"])
    wait_for(lambda: (ended / "checkpoints" / "step-0000004.json").exists() or not process.is_alive())
    kill_group(process, signal.SIGKILL)
    assert process.exitcode == -signal.SIGKILL
    assert finish([*mine, f"run_dir={ended}"]) == 0
    assert_same_end(tmp_path / "whole", ended)


@pytest.fixture(scope="module")
def finished(cache_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "units"
    return main(compose([*overrides("masked_units", cache_dir), f"run_dir={path}"]))


def test_seconds_of_audio_are_counted_exactly(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    lengths = np.array([min(len(spoken(0, "train", index, longest=4).samples(8000)), 16_000) for index in range(60)])
    rows = lengths[lengths >= 4000]  # of half a second
    whole, rest = divmod(16 * 8, len(rows))
    low, high = np.sort(rows)[:rest].sum(), np.sort(rows)[::-1][:rest].sum()
    assert whole * rows.sum() + low <= metrics["audio_seconds"] * 8000 + 0.5
    assert metrics["audio_seconds"] * 8000 - 0.5 <= whole * rows.sum() + high
    assert metrics["audio_seconds"] % 1 > 0  # not rounded
    assert 0 < metrics["validation/unit_entropy"] < metrics["validation/chance"] == pytest.approx(np.log(10))


def test_a_hand_off_is_evaluated_with_its_own_units(finished, cache_dir):
    given = [f"handoff={finished / 'handoff' / 'last'}", "data=spoken_letters", f"data.cache_dir={cache_dir}"]
    small = ["data.size=60", "data.max_seconds=2.0", "data.eval_batch_size=6", "data.batch_size=8"]
    found = evaluate(compose([*given, *small], root="evaluate"))
    metrics = json.loads((finished / "metrics.json").read_text())
    assert found["validation/masked_units"] == pytest.approx(metrics["validation/masked_units"], rel=1e-6)
    assert (finished / "handoff" / "last" / "units.safetensors").is_file()
    assert not any("units" in name for name in load_file(finished / "handoff" / "last" / "model.safetensors"))


def refused(words, tmp_path, *told):
    with pytest.raises(RunError) as caught:
        main(compose([*words, f"run_dir={tmp_path / 'run'}"]))
    assert all(part in str(caught.value) for part in told), str(caught.value)
    assert not (tmp_path / "run").exists()


def test_mistakes_are_named_before_anything_is_trained(cache_dir, tmp_path):
    mine = overrides("wav2vec2", cache_dir)
    refused([*mine, "collate.share=1.5"], tmp_path, "collate.share=1.5", "at most 1")
    refused([*mine, "objective.quantiser.width=9"], tmp_path, "quantiser.groups=2", "a width that groups divide")
    others = [word for word in mine if not word.startswith("backbone")]
    refused([*others, "backbone=bert_tiny"], tmp_path, "backbone=TransformersBackbone reads text")
    refused(
        [*mine, "data.min_seconds=0.05", "data.max_seconds=0.05"],
        tmp_path,
        "0.050 s, fewer than 3 frames",
        "data.min_seconds",
    )
    refused([*mine, "probe=online"], tmp_path, "probe=online is not for audio")
    units = [*overrides("masked_units", cache_dir), "preprocess=speech"]
    words = [word for word in units if not word.startswith(("preprocess.units", "preprocess.sample_seconds"))]
    refused(words, tmp_path, "objective.units=None", "preprocess=speech_units")
    folder = [word for word in mine if not word.startswith("data.size")]
    refused([*folder, "data=audio_folder", f"data.path={tmp_path / 'none'}"], tmp_path, "data.path=", "does not exist")
    (tmp_path / "own").mkdir()
    for number in range(12):
        soundfile.write(
            tmp_path / "own" / f"{number}.wav", np.zeros(9000) if number == 7 else np.ones(9000) * 0.1, 16_000
        )
    refused(
        [*folder, "data=audio_folder", f"data.path={tmp_path / 'own'}"], tmp_path, "7.wav is silent", "data.on_bad=skip"
    )
