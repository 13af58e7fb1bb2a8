"""Audio and text (CLAP): the same objective, networks and tasks, chosen by the data alone."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from finetuning import launch as finetuning
from pretraining import handoff
from pretraining.audio.data.letters import LEXICON, spoken
from pretraining.audio.modality import write_wav
from pretraining.cli.configuration import compose
from pretraining.errors import HandoffError
from pretraining.evaluate import evaluate
from pretraining.launch import main
from pretraining.pairs.data.sound_files import AudioTextFiles
from pretraining.text.raw import RawTexts, TokeniseTexts

QUIET = ["logger.wandb.mode=disabled", "logger.progress=false", "trainer.precision=fp32"]
SMALL = ["data.size=160", "data.max_words=1", "data.batch_size=32", "data.eval_batch_size=16", "objective.width=16"]
ENCODER = ["hidden_size=32", "num_hidden_layers=1", "num_attention_heads=2", "intermediate_size=32",
           "conv_dim=[20,32,32]", "hidden_dropout=0.0", "attention_dropout=0.0", "num_conv_pos_embeddings=3",
           "num_conv_pos_embedding_groups=2"]  # fmt: skip
BERT = ["hidden_size=16", "num_hidden_layers=1", "num_attention_heads=2", "intermediate_size=16"]
SIZES = [f"backbone.towers.audio.encoder.{word}" for word in ENCODER]
SIZES += [f"backbone.towers.text.config.{word}" for word in BERT]


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """A run whose command says what an image run's does, but for the data."""
    path = tmp_path_factory.mktemp("clap")
    words = ["objective=clip", "data=spoken_captions", *SMALL, *SIZES, *QUIET, "optimizer.peak_lr=1e-2"]
    words += ["trainer.max_steps=40", "optimizer.warmup_steps=0", f"data.cache_dir={path / 'cache'}"]
    return main(compose([*words, f"run_dir={path / 'run'}"]))


def test_words_that_are_said_are_learnt_from_nothing_but_the_data(heard):
    metrics = json.loads((heard / "metrics.json").read_text())
    assert metrics["pairs"] == 40 * 32 and metrics["flops"] > 0
    said = [spoken(0, "validation", index, longest=1).text for index in range(16)]
    chance = np.mean([1 / len(set(said)) for _ in said])
    assert metrics["probe/audio_to_text_recall_1"] > 3 * chance  # of voices that were not heard in training
    assert {"validation/audio_to_text", "validation/text_to_audio", "probe/text_to_audio_recall_1"} <= set(metrics)


def test_the_hand_off_has_both_networks_and_nothing_of_images(heard):
    last = heard / "handoff" / "last"
    given = handoff.read(str(last))
    assert list(given.towers) == ["audio", "text"] and not (last / "image").exists()
    assert set(load_file(last / "heads.safetensors")) == {
        "logit_scale", "projections.audio.weight", "projections.text.weight"}  # fmt: skip
    words = [f"handoff={last}", "data=spoken_captions", "data.size=160", "data.max_words=1", "data.eval_batch_size=16"]
    found = evaluate(compose([*words, f"data.cache_dir={heard.parent / 'cache'}"], root="evaluate"))
    metrics = json.loads((heard / "metrics.json").read_text())
    assert found["validation/audio_to_text_recall_1"] == metrics["probe/audio_to_text_recall_1"]
    assert found["validation/loss"] == pytest.approx(metrics["validation/loss"], abs=1e-5)


def test_each_network_is_finetuned_and_words_are_told_by_their_names(heard, tmp_path):
    """Keywords of new voices, zero-shot: the nearest of the text network's vectors, as by hand."""
    last = heard / "handoff" / "last"
    task = [f"handoff={last}", "tower=audio", "task=spoken_keywords", *QUIET]
    short = ["trainer.max_steps=2", "trainer.val_every=2"]
    finetuning.main(finetuning.compose([*task, *short, f"run_dir={tmp_path / 'tuned'}"]))
    assert json.loads((tmp_path / "tuned" / "metrics.json").read_text())["test_examples"] > 0
    zero = [f"handoff={last}", "task=zero_shot_keywords", *QUIET, f"run_dir={tmp_path / 'zero'}"]
    finetuning.main(finetuning.compose(zero))
    found = json.loads((tmp_path / "zero" / "metrics.json").read_text())
    _, loaded = finetuning.load_run(tmp_path / "zero")
    heads, text = load_file(last / "heads.safetensors"), handoff.read(str(last), tower="text")
    inputs = TokeniseTexts(preprocess=text.preprocess, max_tokens=32)(RawTexts.of(loaded.classes.names))["inputs"]
    with torch.no_grad():
        pooled = text.backbone.eval()(**inputs).pooled
    expected = F.normalize(F.linear(pooled, heads["projections.text.weight"]), dim=-1)
    torch.testing.assert_close(loaded.head.classes.detach(), expected, rtol=0, atol=1e-5)
    assert set(loaded.classes.names) <= set(LEXICON) and found["test/accuracy"] > 0.25  # ten words
    with pytest.raises(HandoffError, match=r"has no tower 'image': choose tower=audio, text"):
        finetuning.main(finetuning.compose([f"handoff={last}", "tower=image", "task=digits", *QUIET]))


def test_both_networks_of_a_hand_off_start_towers_and_hear_what_they_were_trained_on(heard, tmp_path):
    """The audio tower locked (LiT), and recordings of another rate than its own refused."""
    last, towers = heard / "handoff" / "last", []
    for side in ("audio", "text"):
        for part in (f"backbone.towers.{side}", f"preprocess.sides.{side}"):
            towers += [f"{part.partition('.')[0]}@{part}=_handoff", f"{part}.handoff={last}", f"{part}.tower={side}"]
    words = ["objective=clip", "data=spoken_captions", *towers, *SMALL, *QUIET, "backbone.locked=[audio]"]
    words += ["trainer.max_steps=1", "optimizer.peak_lr=1e-3", f"data.cache_dir={heard.parent / 'cache'}"]
    run = main(compose([*words, f"run_dir={tmp_path / 'run'}"]))
    before, after = (handoff.read(str(one / "handoff" / "last")).towers for one in (heard, run))
    moves = {
        side: max(
            (one - other).abs().max().item()
            for one, other in zip(after[side].backbone.parameters(), before[side].backbone.parameters(), strict=True)
        )
        for side in after
    }
    assert moves["audio"] == 0.0 and 0.0 < moves["text"] < 2e-3  # one step of Adam
    assert [after[side].preprocess.digest for side in after] == [before[side].preprocess.digest for side in before]
    from pretraining.errors import RunError

    told = (
        r"reads recordings at 8000 samples per second, and the data are read at 16000: set preprocess.sides.audio.sam"
    )
    with pytest.raises(RunError, match=told):
        main(compose([*words, "preprocess.sides.audio.sample_rate=16000", f"run_dir={tmp_path / 'other'}"]))


def test_sides_that_nothing_is_configured_for_are_refused(tmp_path):
    from pretraining.errors import RunError

    words = ["objective=clip", "data=spoken_captions", "~preprocess.sides.audio", *SMALL, *QUIET]
    with pytest.raises(RunError, match=r"preprocess.sides are image, text, and the data's sides audio, text"):
        main(compose([*words, "data.sample_rate=8000", f"data.cache_dir={tmp_path}", f"run_dir={tmp_path / 'run'}"]))


def test_recordings_are_cut_at_the_longest(tmp_path):
    from pretraining.pairs.data.sounds import SpokenCaptions

    sizes = {"size": 10, "max_words": 2, "seed": 0, "batch_size": 1, "eval_batch_size": 1, "workers": 0}
    data = SpokenCaptions(sample_rate=4000, max_seconds=0.5, on_bad="refuse", cache_dir=tmp_path, **sizes)
    read = data.source("train").read(0, np.array([3, 0]))
    clip = spoken(0, "train", 3, longest=2)
    np.testing.assert_array_equal(read.sides["audio"].each()[0], clip.samples(4000)[:2000])
    assert read.sides["text"].texts[0] == clip.text
    assert (
        data.fingerprint()
        != SpokenCaptions(sample_rate=4000, max_seconds=0.6, on_bad="refuse", cache_dir=tmp_path, **sizes).fingerprint()
    )


# -- recordings of one's own -------------------------------------------------------------------------------------------


def wave(number, rate=8000):
    return np.round(8000 * np.sin(np.arange(4000 + 100 * number) * (0.1 + 0.01 * number))).astype(np.int16)


def sounds(folder, change=lambda rows: None, kind="jsonl", first=0):
    rows = []
    for number in range(20):
        write_wav(folder / f"{number}.wav", wave(first + number), 8000)
        rows.append({"audio": f"{number}.wav", "text": [f"tone {number}", "a tone"]})
    change(rows)
    if kind == "jsonl":
        (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        cells = [row | {"audio": {"bytes": (folder / row["audio"]).read_bytes(), "path": None}} for row in rows]
        pq.write_table(pa.Table.from_pylist(cells), folder / "captions.parquet")
    return folder


SETTINGS = {
    **{"columns": {"audio": "audio", "text": "text"}, "mono": "mean", "on_bad": "refuse", "max_seconds": 1.0},
    **{"shares": {"validation": 0.2, "test": 0.2}, "batch_size": 1, "eval_batch_size": 1, "workers": 0},
    "sample_rate": 8000,
}


def files(folder, **changes):
    return AudioTextFiles(path=str(folder), cache_dir=folder / "cache", **(SETTINGS | changes))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_tables_of_recordings_are_read_with_all_their_captions(tmp_path, kind):
    data = files(sounds(tmp_path, kind=kind))
    said, known = [], []
    for split in ("train", "validation", "test"):
        source = data.source(split)
        read = source.read(0, np.arange(source.count(0)))
        said.append({text for text in read.sides["text"].texts if text != "a tone"})
        for samples, text, own in zip(read.sides["audio"].each(), read.sides["text"].texts, read.captions, strict=True):
            number = int(text.split()[1]) if text != "a tone" else None
            known.append(number)
            assert own[1] == "a tone"
            if number is not None:
                loudest = np.abs(wave(number)).max() / 32767  # write_wav writes the loudest at full scale
                np.testing.assert_allclose(samples * loudest, wave(number)[:8000], atol=2)
    assert sum(map(len, said)) == 20 and all(said) and len(known) == 40
    before = data.fingerprint()
    assert files(tmp_path).fingerprint() == before != files(tmp_path, max_seconds=0.2).fingerprint()


def test_the_same_recording_under_several_names_is_one(tmp_path, capsys):
    sounds(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        (tmp_path / f"copy {number}.wav").write_bytes((tmp_path / row["audio"]).read_bytes())
    more = [{"audio": f"copy {number}.wav", "text": f"again {number}"} for number in range(len(rows))]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))
    data = files(tmp_path)
    heard = [one.captions for split in ("train", "validation", "test") for one in data.heard(split)]
    assert len(heard) == 20 and all(captions[-1].startswith("again") for captions in heard)
    assert (
        "20 recordings are byte by byte another of their split, such as copy 0.wav: they are taken as one"
        in capsys.readouterr().err
    )


def test_recordings_of_the_same_name_in_several_folders_are_several(tmp_path):
    for first, folder in enumerate("ab"):
        (tmp_path / folder).mkdir()
        said = lambda rows, own=folder: [row.update(text=f"{own} {row['audio']}") for row in rows]  # noqa: E731
        sounds(tmp_path / folder, said, first=20 * first)
    data = AudioTextFiles(path=[str(tmp_path / folder) for folder in "ab"], cache_dir=tmp_path / "cache", **SETTINGS)
    heard = [one.captions for split in ("train", "validation", "test") for one in data.heard(split)]
    assert sorted(heard) == sorted([f"{folder} {number}.wav"] for folder in "ab" for number in range(20))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows[2].update(audio="gone.wav"), r"line 3: the recording gone.wav does not exist"),
        (lambda rows: rows[2].update(text=" "), r"line 3 has a recording, but the caption ' '"),
        (lambda rows: rows[2].update(audio=None), r"1 empty values in column 'audio'"),
        (lambda rows: [row.pop("text") for row in rows], r"no column 'text': set data.columns to two of audio"),
        (lambda rows: rows.__delitem__(slice(1, None)), r"1 recordings are too few to set some apart"),
    ],
)
def test_recordings_that_make_no_pair_are_refused(tmp_path, change, told):
    with pytest.raises(ValueError, match=told):
        files(sounds(tmp_path, change))


def test_a_recording_that_cannot_be_read_is_named_or_left_out(tmp_path, capsys):
    sounds(tmp_path)
    (tmp_path / "3.wav").write_bytes((tmp_path / "3.wav").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"3.wav \(.*captions.jsonl, line 4\) is cut short"):
        [files(tmp_path).source(split) for split in ("train", "validation", "test")]
    skipping = files(tmp_path, on_bad="skip")
    assert sum(skipping.source(split).count(0) for split in ("train", "validation", "test")) == 38
    assert "recordings are left out" in capsys.readouterr().err


def test_own_recordings_are_pretrained_on_by_the_command(tmp_path):
    words = [
        "objective=siglip",
        "data=audio_text",
        f"data.path={sounds(tmp_path)}",
        *SIZES,
        *QUIET,
        "data.batch_size=8",
    ]
    words += ["data.eval_batch_size=8", "objective.width=8", "trainer.max_steps=1", "data.shares.test=0.2"]
    words += ["data.shares.validation=0.2", f"data.cache_dir={tmp_path / 'cache'}", f"run_dir={tmp_path / 'run'}"]
    metrics = json.loads((main(compose(words)) / "metrics.json").read_text())
    assert metrics["pairs"] == 8 and "probe/text_to_audio_recall_1" in metrics
