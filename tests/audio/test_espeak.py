"""Texts spoken by a program: here a stub of its name, which says a tone as long as its text."""

import os
import stat
import sys

import numpy as np
import pytest

from pretraining.audio.preprocess import AudioPreprocess
from pretraining.cli.configuration import compose, instantiate
from pretraining.errors import RunError

PLAIN = AudioPreprocess(sample_rate=16_000, normalise=False)
STUB = """#!{python}
import array, math, struct, sys
if "--version" in sys.argv:
    print("eSpeak NG text-to-speech: 1.0-stub")
    raise SystemExit
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if given["-v"] == "klingon":
    print("Error: The specified espeak-ng voice does not exist.", file=sys.stderr)
    raise SystemExit(1)
text = sys.stdin.read()
count = 22050 * len(text.split()) * 60 // int(given["-s"])
pitch = 200 + 4 * int(given["-p"])
samples = array.array("h", (int(8000 * math.sin(2 * math.pi * pitch * n / 22050)) for n in range(count)))
head = b"RIFF" + struct.pack("<I", 0x7FFFF024) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 22050, 44100, 2, 16)
sys.stdout.buffer.write(head + b"data" + struct.pack("<I", 0x7FFFF000) + samples.tobytes())
"""
SENTENCES = [f"Number {n} is a sentence of seven words." if n % 3 else f"Number {n}." for n in range(200)]


@pytest.fixture
def program(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    path = tmp_path / "bin" / "espeak-ng"
    path.write_text(STUB.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


def words(tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(SENTENCES) + "\n")
    of_texts = [f"data.texts.path={texts}", "data.texts.preparation.layout=paragraphs"]
    return [*of_texts, f"data.texts.cache_dir={tmp_path / 'texts'}", "data.size=20", "data.min_words=4"]


def spoken_by(tmp_path, *more):
    given = ["objective=masked_units", "backbone=log_mel_tiny", "data=espeak", "data@data.texts=text_files"]
    given += [*words(tmp_path), f"data.cache_dir={tmp_path / 'cache'}", "data.batch_size=4"]
    return instantiate(compose([*given, *more]).data)


def test_sentences_are_said_by_voices_that_no_other_split_has(program, tmp_path):
    data = spoken_by(tmp_path)
    parts = {split: data.clips(split) for split in ("train", "validation", "test")}
    assert [len(part) for part in parts.values()] == [20, 2, 2]
    voices = [{clip.voice for clip in part} for part in parts.values()]
    assert not voices[0] & voices[1] and not voices[0] & voices[2] and not voices[1] & voices[2]
    said = [clip.text for part in parts.values() for clip in part]
    assert len(set(said)) == 24 and set(said) <= {text for text in SENTENCES if len(text.split()) > 3}
    assert all(20 <= clip.pitch <= 80 and 130 <= clip.speed <= 220 for clip in parts["train"])
    assert len({clip.pitch for clip in parts["train"]}) > 5 < len({clip.speed for clip in parts["train"]})
    assert parts["train"] == spoken_by(tmp_path).clips("train") != spoken_by(tmp_path, "data.seed=1").clips("train")


def test_what_the_program_says_is_resampled_and_kept(program, tmp_path):
    data = spoken_by(tmp_path)
    source = data.source("train", PLAIN)
    clips = data.clips("train")
    seconds = np.array([len(clip.text.split()) * 60 / clip.speed for clip in clips])
    np.testing.assert_allclose(source.lengths / 16_000, seconds, rtol=1e-3)
    samples = source.read(0, np.array([0])).samples[:16_000]
    loudest = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * 16_000 / len(samples)
    assert loudest == pytest.approx(200 + 4 * clips[0].pitch, abs=2)
    program.write_text("#!/bin/sh\nexit 1\n")  # what was said is read from then on
    again = data.source("train", PLAIN)
    np.testing.assert_array_equal(again.lengths, source.lengths)
    assert source.read(0, np.array([3])).samples.any()


def test_the_same_sentences_are_a_task(program, tmp_path):
    given = ["handoff=x", "task=espeak", "data@data.texts=text_files", *words(tmp_path)]
    splits = instantiate(compose(given, root="finetune").data).splits()
    assert splits.train.size == 20 and splits.train.column("label") == [c.text for c in splits.train.column("audio")]


def test_a_machine_without_the_program_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    told = r"the program espeak-ng, which is not on the PATH: install it \(Debian: apt-get install espeak-ng\)"
    with pytest.raises(ValueError, match=told):
        spoken_by(tmp_path)
    given = ["handoff=x", "task=espeak", "data@data.texts=text_files", *words(tmp_path)]
    with pytest.raises(RunError, match=told):
        instantiate(compose(given, root="finetune").data).splits()


def test_what_cannot_be_said_is_named(program, tmp_path):
    data = spoken_by(tmp_path, "data.voices=[en-us,en-gb,klingon,klingon,klingon]")
    with pytest.raises(
        ValueError, match=r"said by klingon: espeak-ng says nothing \(Error: The specified .* data\.voices"
    ):
        for split in ("train", "validation", "test"):
            data.source(split, PLAIN)
    with pytest.raises(ValueError, match=r"data\.voices has 2 speakers, a, b, for 3 splits: give more"):
        spoken_by(tmp_path, "data.voices=[a,b]").clips("train")
    with pytest.raises(ValueError, match=r"data\.texts has \d+ sentences of 4 to 20 words .* but 500 are to be said"):
        spoken_by(tmp_path, "data.size=500").clips("train")
    with pytest.raises(ValueError, match=r"data\.speeds=\[10, 20\]: give a lowest and a highest, from 80 to 450"):
        spoken_by(tmp_path, "data.speeds=[10,20]")
