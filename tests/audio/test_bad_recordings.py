"""Every kind of bad recording, through pretraining's data and through a task: refused or handled, by name."""

import io

import numpy as np
import pytest
import soundfile

from finetuning.launch import compose as finetuning
from finetuning.launch import main as finetune
from pretraining import handoff
from pretraining.audio.modality import AUDIO
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.cli.configuration import compose, instantiate
from pretraining.errors import RunError
from tests.audio.test_presets import wave
from tests.finetuning.conftest import QUIET
from tests.finetuning.test_audio import LOG_MEL
from tests.objectives.audio.small_audio import encoder

PLAIN = AudioPreprocess(sample_rate=8000, normalise=True)


def encoded(samples, rate=8000, kind="WAV", subtype=None):
    held = io.BytesIO()
    soundfile.write(held, samples, rate, format=kind, subtype=subtype)
    return held.getvalue()


GOOD = wave(0, 8000, 1.0)
BAD = {
    "silent throughout": encoded(np.zeros(8000, np.int16)),
    "empty": encoded(np.zeros(0, np.int16)),
    "holds values that are no numbers": encoded(np.where(np.arange(8000) == 5, np.nan, 0.1), subtype="FLOAT"),
    "holds values up to": encoded(GOOD.astype(np.float32), subtype="FLOAT"),
    "is cut short": encoded(GOOD)[:-9000],
    "not a readable recording": b"<html>404</html>",
}


def folder(root, bad=None, **changes):
    """Write 24 good recordings of two classes, and one more."""
    for number in range(24):
        place = root / ("a", "b")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        soundfile.write(place / f"{number:02d}.wav", wave(number, 8000, 1.0), 8000)
    if bad is not None:
        (root / "a" / "strange.wav").write_bytes(bad)
    return root


def pretrained_on(root, tmp_path, *more):
    given = ["objective=masked_units", "backbone=log_mel_tiny", "data=audio_folder", f"data.path={root}"]
    data = instantiate(compose([*given, f"data.cache_dir={tmp_path / 'cache'}", "data.batch_size=2", *more]).data)
    return data.source("train", PLAIN)


@pytest.fixture(scope="module")
def audio_handoff(tmp_path_factory):
    towers = AUDIO.towers(encoder("log_mel", **LOG_MEL), PLAIN)
    directory = tmp_path_factory.mktemp("audio") / "step-0000001"
    return handoff.write(directory, towers=towers, origin={"objective": "none"}, heads={})


def finetuned_on(root, path, run, *more):
    words = [f"handoff={path}", "task=audio_classification", f"data.path={root}", "mode=linear_probe", f"run_dir={run}"]
    return finetune(finetuning([*QUIET, *words, *more]))


@pytest.mark.parametrize("told", BAD)
def test_what_cannot_be_heard_is_refused_by_name_or_left_out_and_named(told, audio_handoff, tmp_path, capsys):
    root, run = folder(tmp_path / "own", BAD[told]), tmp_path / "run"
    with pytest.raises(ValueError, match=rf"strange\.wav .*{told}.*\(or set data\.on_bad=skip\)"):
        pretrained_on(root, tmp_path)
    with pytest.raises(RunError, match=rf"strange\.wav .*{told}.*data\.on_bad=skip"):
        finetuned_on(root, audio_handoff, run)
    assert not run.exists()
    kept = pretrained_on(root, tmp_path, "data.on_bad=skip")
    assert len(kept.recordings.kept) == 20  # of 21: four stand for the other splits
    assert "1 of 21 recordings are left out" in (said := capsys.readouterr().err) and told in said
    finetuned_on(root, audio_handoff, run, "data.on_bad=skip")
    said = capsys.readouterr().err
    assert "1 of 25 recordings are left out" in said and "strange.wav" in said and told in said


def test_another_rate_is_resampled_and_several_channels_are_mixed_as_is_said(audio_handoff, tmp_path):
    both = np.stack([wave(1, 44_100, 1.0), wave(2, 44_100, 1.0)], 1)
    root = folder(tmp_path / "own", encoded(both, 44_100))
    source = pretrained_on(root, tmp_path)
    assert set(np.diff(source.recordings.offsets)) == {8000}
    finetuned_on(root, audio_handoff, tmp_path / "run")
    with pytest.raises(ValueError, match=r"strange\.wav has 2 channels: set data\.mono=mean or first"):
        pretrained_on(root, tmp_path, "data.mono=refuse")
    with pytest.raises(RunError, match=r"strange\.wav has 2 channels: set data\.mono=mean or first"):
        finetuned_on(root, audio_handoff, tmp_path / "other", "data.mono=refuse")


def test_twenty_minutes_are_cut_into_rows_and_for_a_task_cut_or_refused(audio_handoff, tmp_path, capsys):
    root = folder(tmp_path / "own", encoded(np.resize(GOOD, 20 * 60 * 8000)))
    source = pretrained_on(root, tmp_path, "data.max_seconds=10")
    assert source.lengths.max() == 10 * 8000 and (source.lengths == 10 * 8000).sum() == 120
    finetuned_on(root, audio_handoff, tmp_path / "run")
    assert "1 of 18 recordings have more than task.inputs.max_seconds=15.0 and were cut" in capsys.readouterr().err
    with pytest.raises(RunError, match=r"strange\.wav has 1200\.0 s, more than task\.inputs\.max_seconds=15\.0"):
        finetuned_on(root, audio_handoff, tmp_path / "other", "task.inputs.longer=refuse")


def test_what_is_too_short_is_left_out_of_pretraining_and_refused_by_a_task(audio_handoff, tmp_path):
    root = folder(tmp_path / "own", encoded(GOOD[4000:4200]))
    source = pretrained_on(root, tmp_path)
    assert source.lengths.min() == 8000 and source.count(0) == len(source.recordings.kept) - 1
    with pytest.raises(RunError, match=r"strange\.wav has 0\.025 s, of which this backbone makes no frame: remove it"):
        finetuned_on(root, audio_handoff, tmp_path / "run")


def test_a_run_of_which_nothing_can_be_read_is_an_error(audio_handoff, tmp_path):
    for split in ("train", "validation", "test"):
        (tmp_path / "own" / split / "a").mkdir(parents=True)
        (tmp_path / "own" / split / "a" / "1.wav").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"none of 1 recordings can be read; the first: .*1\.wav is not a readable"):
        finetuned_on(tmp_path / "own", audio_handoff, tmp_path / "run", "data.on_bad=skip")
    with pytest.raises(RunError, match=r"data\.on_bad=maybe"):
        finetuned_on(tmp_path / "own", audio_handoff, tmp_path / "run", "data.on_bad=maybe")
