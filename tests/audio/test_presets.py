"""Presets: each reads a tiny folder in the layout that it is for, to pretrain on and to finetune on."""

import io
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from pretraining.audio.data.letters import spoken
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.cli.configuration import compose, instantiate
from pretraining.errors import RunError

SPLITS = ("train", "validation", "test")
DIGITS = ("zero", "one", "two", "three")


def wave(number, rate=16_000, seconds=None):
    samples = spoken(0, "train", number, longest=2).samples(rate)
    return samples if seconds is None else np.resize(samples, round(seconds * rate))


def encoded(number, kind="FLAC", rate=8000, seconds=0.5):
    held = io.BytesIO()
    soundfile.write(held, wave(number, rate, seconds), rate, format=kind)
    return held.getvalue()


def cell(number, **changes):
    return {"bytes": encoded(number, **changes), "path": None}


def write(path, **columns):
    pq.write_table(pa.table(columns), path)


def tables(root, counts, columns, **changes):
    for split, count in counts.items():
        rows = range(count)
        write(root / f"{split}.parquet", audio=[cell(n, **changes) for n in rows], **columns(rows))


def free_spoken_digit(root):
    def columns(rows):
        words = [DIGITS[n % 4] for n in rows]
        return {"label": [n % 4 for n in rows], "text": words, "speaker": [n // 4 % 4 for n in rows]}

    tables(root, {"train": 32, "validation": 16, "test": 16}, columns)


def yesno(root):
    tables(root, {"train": 12, "test": 4}, lambda rows: {"text": ["yes no"] * len(rows), "id": list(map(str, rows))})


def ljspeech_32(root):
    tables(root, {"train": 12, "test": 4}, lambda rows: {"text": [f"A sentence, {n}." for n in rows]}, rate=16_000)


def barista_speech(root):
    def columns(rows):
        return {
            "coffee_drink": [("latte", "mocha")[n % 2] for n in rows],
            "size": [(None, "large")[n % 2] for n in rows],
        }

    tables(root, {"train": 20, "test": 6}, columns, kind="OGG", rate=16_000)


def speech_commands(root):
    for word in ("bed", "cat"):
        for number in range(12):
            file = root / word / f"{number:08x}_nohash_0.wav"
            file.parent.mkdir(exist_ok=True)
            soundfile.write(file, wave(number, seconds=1.0), 16_000)
    (root / "_background_noise_").mkdir()
    soundfile.write(root / "_background_noise_" / "pink_noise.wav", wave(1, seconds=3.0), 16_000)
    (root / "_background_noise_" / "README.md").write_text("noise")
    (root / "README.md").write_text("Speech Commands")
    (root / "LICENSE").write_text("CC BY")
    for name, numbers in (("validation", (1, 2)), ("testing", (3, 4))):
        lines = [f"{word}/{number:08x}_nohash_0.wav\n" for word in ("bed", "cat") for number in numbers]
        (root / f"{name}_list.txt").write_text("".join(lines))


def librispeech(root):
    for part, count in {
        "train-clean-100": 3,
        "train-other-500": 2,
        "dev-clean": 2,
        "dev-other": 1,
        "test-clean": 2,
    }.items():
        for speaker in range(count):
            folder = root / part / f"{speaker + 10}" / "123"
            folder.mkdir(parents=True)
            names = [f"{speaker + 10}-123-{number:04d}" for number in range(4)]
            for number, name in enumerate(names):
                soundfile.write(folder / f"{name}.flac", wave(number, seconds=1.0), 16_000)
            said = "".join(f"{name} {part.upper().replace('-', ' ')} {n}\n" for n, name in enumerate(names))
            (folder / f"{speaker + 10}-123.trans.txt").write_text(said)
    for name in ("SPEAKERS.TXT", "README.TXT", "CHAPTERS.TXT", "BOOKS.TXT", "LICENSE.TXT"):
        (root / name).write_text(";ID |SEX |\n")


def common_voice(root):
    (root / "clips").mkdir()
    sentences = ['"Quoted," he said', "She's here", 'an "odd" one', "plain"]
    header = "client_id\tpath\tsentence_id\tsentence\tup_votes\n"
    for part, count in (("train", 24), ("dev", 3), ("test", 3), ("validated", 30), ("invalidated", 1), ("other", 1)):
        rows = []
        for number in range(count):
            name = f"common_voice_en_{part}{number}.mp3"
            soundfile.write(root / "clips" / name, wave(number, 32_000, 1.0), 32_000)
            rows.append(f"abc{number}\t{name}\tf00\t{sentences[number % 4]}\t2\n")
        (root / f"{part}.tsv").write_text(header + "".join(rows))
    (root / "clip_durations.tsv").write_text("clip\tduration[ms]\ncommon_voice_en_1.mp3\t1000\n")


MADE = (free_spoken_digit, yesno, ljspeech_32, barista_speech, speech_commands, librispeech, common_voice)
LAYOUTS = {each.__name__: each for each in MADE}
PRETRAINED = {  # recordings of train, validation, test
    "free_spoken_digit": (32, 16, 16),
    "yesno": (11, 1, 4),
    "ljspeech_32": (11, 1, 4),
    "barista_speech": (18, 2, 6),
    "speech_commands": (16, 4, 4),
    "librispeech": (20, 8, 8),
    "common_voice": (24, 3, 3),
}


@pytest.fixture
def laid_out(tmp_path, request):
    (tmp_path / "data").mkdir()
    LAYOUTS[request.param](tmp_path / "data")
    return request.param, str(tmp_path / "data"), tmp_path / "cache"


def data_of(name, path, cache, *more):
    given = ["objective=masked_units", "backbone=log_mel_tiny", f"data={name}", f"data.path={path}"]
    config = compose([*given, f"data.cache_dir={cache}", "data.batch_size=2", *more])
    return instantiate(config.data), config.preprocess.sample_rate


@pytest.mark.parametrize("laid_out", LAYOUTS, indirect=True)
def test_a_preset_finds_the_recordings_of_each_split_at_the_rate_that_it_names(laid_out):
    name, path, cache = laid_out
    data, rate = data_of(name, path, cache)
    clips = {split: data.clips(split) for split in SPLITS}
    assert tuple(map(len, clips.values())) == PRETRAINED[name]
    names = [{clip.name for clip in part} for part in clips.values()]
    assert len(set.union(*names)) == sum(PRETRAINED[name]) and not any("noise" in each for each in names[0])
    source = data.source("train", AudioPreprocess(sample_rate=rate, normalise=True))
    assert source.count(0) == PRETRAINED[name][0] and source.mean_seconds == pytest.approx(
        0.5 if name in ("free_spoken_digit", "yesno", "ljspeech_32", "barista_speech") else 1.0, rel=0.02
    )


def labelled(name, path, *more):
    return instantiate(compose(["handoff=x", f"task={name}", f"data.path={path}", *more], root="finetune").data)


@pytest.mark.parametrize("laid_out", LAYOUTS, indirect=True)
def test_a_preset_finds_the_labels_of_each_split(laid_out):
    name, path, _ = laid_out
    splits = labelled(name, path).splits()
    sizes = splits.train.size, splits.validation.size, splits.test.size
    assert sum(sizes) == sum(PRETRAINED[name]) and sizes[2] == PRETRAINED[name][2]
    labels = set(splits.train.column("label"))
    expected = {
        "free_spoken_digit": set(DIGITS),
        "yesno": {"yes no"},
        "barista_speech": {"latte", "mocha"},
        "speech_commands": {"bed", "cat"},
        "librispeech": {f"TRAIN {part} {n}" for part in ("CLEAN 100", "OTHER 500") for n in range(4)},
        "common_voice": {'"Quoted," he said', "She's here", 'an "odd" one', "plain"},
    }
    assert labels == expected.get(name, labels) and all(isinstance(label, str) and label for label in labels)
    assert all(len(clip.samples(8000)) >= 4000 for clip in splits.test.column("audio"))
    if name == "speech_commands":
        assert {str(clip.name)[-19:] for clip in splits.test.column("audio")} == {
            f"{n:08x}_nohash_0.wav"[-19:] for n in (3, 4)
        }


@pytest.mark.parametrize("laid_out", ["barista_speech"], indirect=True)
def test_slots_that_are_not_said_may_be_dropped(laid_out):
    name, path, _ = laid_out
    with pytest.raises(RunError, match=r"data\.missing=drop"):
        labelled(name, path, "data.label=size").splits()
    assert labelled(name, path, "data.label=size", "data.missing=drop").splits().test.size == 3


@pytest.mark.parametrize("laid_out", ["librispeech"], indirect=True)
def test_splits_may_be_named_otherwise_and_what_is_not_there_is_named(laid_out):
    name, path, cache = laid_out
    assert len(data_of(name, path, cache, "data.split.validation=dev-*")[0].clips("validation")) == 12
    splits = labelled(name, path, "data.split.train=train-clean-100", "data.split.validation=carve").splits()
    assert splits.train.size + splits.validation.size == 12
    told = (
        "data.split.test=test-other, but data.path=.* holds BOOKS.TXT, .*: name a folder, a glob of folders or a list"
    )
    with pytest.raises(RunError, match=told):
        labelled(name, path, "data.split.test=test-other").splits()
    with pytest.raises(FileNotFoundError, match=told):
        data_of(name, path, cache, "data.split.test=test-other")


@pytest.mark.parametrize("laid_out", ["speech_commands"], indirect=True)
def test_a_list_that_names_what_is_not_there_is_an_error(laid_out, tmp_path):
    name, path, cache = laid_out
    (tmp_path / "data" / "validation_list.txt").write_text("bed/none.wav\n")
    with pytest.raises(
        FileNotFoundError, match=r"validation_list\.txt lists .*none\.wav, which does not exist: correct the list"
    ):
        data_of(name, path, cache)


@pytest.mark.parametrize("laid_out", ["common_voice"], indirect=True)
def test_a_table_that_names_what_is_not_there_is_an_error(laid_out):
    name, path, cache = laid_out
    with pytest.raises(FileNotFoundError, match=r"got the recording .* at .*train\.tsv, line 2, which does not exist"):
        data_of(name, path, cache, "data.folder=none")[0].clips("train")
    with pytest.raises(RunError, match=r"line 2, which does not exist: correct data\.audio=path"):
        labelled(name, path, "data.folder=none").splits()


# -- connected digits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("laid_out", ["free_spoken_digit"], indirect=True)
def test_clips_of_one_speaker_are_joined_and_nobody_is_heard_in_two_splits(laid_out):
    _, path, cache = laid_out
    data, _ = data_of("connected_digits", path, cache, "data.size=60")
    heard = {}
    for split in SPLITS:
        clips = data.clips(split)
        assert len(clips) == (60 if split == "train" else 6)
        assert all(len({each.speaker for each in clip.words}) == 1 for clip in clips)
        assert {len(clip.words) for clip in clips} <= {3, 4, 5, 6}
        heard[split] = {clip.speaker for clip in clips}
    assert [len(heard[split]) for split in SPLITS] == [2, 1, 1] and len(set.union(*heard.values())) == 4
    assert {len(clip.words) for clip in data.clips("train")} == {3, 4, 5, 6}
    other, _ = data_of("connected_digits", path, cache, "data.size=60", "data.seed=1")
    assert (
        [c.text for c in data.clips("train")]
        == [c.text for c in data.clips("train")]
        != [c.text for c in other.clips("train")]
    )
    assert data.identity("train") != other.identity("train")
    table = pq.read_table(f"{path}/train.parquet")
    texts = pa.array([None, *table["text"].to_pylist()[1:]])
    pq.write_table(table.set_column(table.column_names.index("text"), "text", texts), f"{path}/train.parquet")
    with pytest.raises(
        ValueError, match=r"1 empty values in column 'text' \(data.text\), the first at .*, row 0: fill"
    ):
        data_of("connected_digits", path, cache, "data.size=60")[0].clips("train")


@pytest.mark.parametrize("laid_out", ["free_spoken_digit"], indirect=True)
def test_what_is_heard_are_the_clips_of_the_words_that_are_said(laid_out):
    _, path, cache = laid_out
    data, _ = data_of("connected_digits", path, cache, "data.size=20")
    for clip in data.clips("train")[:5]:
        samples, place = clip.samples(8000), 0
        for number, each in enumerate(clip.words):
            part = each.clip.samples(8000)
            if number:
                gap = round(clip.gaps[number - 1] * 8000)
                assert not samples[place : place + gap].any() and gap <= 0.19 * 8000
                place += gap
            np.testing.assert_array_equal(samples[place : place + len(part)], part)
            place += len(part)
        assert place == len(samples) and clip.text.split() == [each.text for each in clip.words]


@pytest.mark.parametrize("laid_out", ["free_spoken_digit"], indirect=True)
def test_connected_digits_are_a_task_with_text_or_speaker(laid_out):
    _, path, _ = laid_out
    splits = labelled("connected_digits", path, "data.size=40").splits()
    assert [part.size for part in (splits.train, splits.validation, splits.test)] == [40, 4, 4]
    assert {word for text in splits.train.column("label") for word in text.split()} == set(DIGITS)
    shared = labelled("connected_digits", path, "data.size=80", "data.speakers=shared", "data.target=speaker").splits()
    assert set(shared.test.column("label")) <= set(shared.train.column("label")) == {"0", "1", "2", "3"}
    train, test = ({each.clip.name for clip in part.column("audio") for each in clip.words} for part in shared[:3:2])
    assert not train & test
    with pytest.raises(RunError, match=r"data\.min_words=4, data\.max_words=3.*not below it"):
        labelled("connected_digits", path, "data.min_words=4", "data.max_words=3").splits()
    with pytest.raises(RunError, match=r"has no column 'who'"):
        labelled("connected_digits", path, "data.speaker=who").splits()
    with pytest.raises(RunError, match=r"data\.speaker=speaker has 1 speakers, yes no, for 3 splits"):
        one = [cell(n) for n in range(4)]
        for split in SPLITS:
            write(f"{path}/{split}.parquet", audio=one, text=["a"] * 4, speaker=["yes no"] * 4)
        labelled("connected_digits", path).splits()


def test_presets_name_no_place_of_a_machine():
    from pathlib import Path

    from pretraining.cli.configuration import CONF

    for name in [*LAYOUTS, "connected_digits"]:
        for group in ("data", "task"):
            text = (Path(CONF) / group / f"{name}.yaml").read_text()
            assert not any(part in text for part in ("/work", "/home", "/tmp", "/root")), (group, name)
    assert all(a <= b for a, b in pairwise(sorted(PRETRAINED)))
