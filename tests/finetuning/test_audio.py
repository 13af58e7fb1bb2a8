"""Tasks on recordings: recognition and classification, from a hand-off to metrics and predictions."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from torch.nn import functional as F

from finetuning.data.audio import LabelledAudio
from finetuning.metrics import recognition
from finetuning.tasks.ctc import CtcDecoding, greedy, needed_frames, prefix_beam_search
from finetuning.tasks.speech_recognition import normalised
from pretraining import handoff
from pretraining.audio.data.letters import spoken
from pretraining.audio.modality import AUDIO
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.audio.spectrum import mfcc
from pretraining.data.batches import LengthBatches
from pretraining.errors import HandoffError, RunError
from tests.finetuning.conftest import Finetune
from tests.objectives.audio.small_audio import encoder

# -- decoding and counting ---------------------------------------------------------------------------------------------


def collapsed(path):
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol)


def by_all_alignments(chances):
    """Add the probabilities of every alignment of every text."""
    texts: dict = {}
    for path in itertools.product(range(chances.shape[1]), repeat=len(chances)):
        text = collapsed(path)
        texts[text] = texts.get(text, 0.0) + math.exp(sum(chances[frame, symbol] for frame, symbol in enumerate(path)))
    return texts


def drawn_chances(seed, frames=5, symbols=4, sharpness=1.5):
    logits = np.random.default_rng(seed).normal(size=(frames, symbols)) * sharpness
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


@pytest.mark.parametrize("seed", range(12))
def test_a_wide_search_finds_the_most_probable_text_of_all(seed):
    chances = drawn_chances(seed)
    texts = by_all_alignments(chances)
    assert sum(texts.values()) == pytest.approx(1.0)
    assert tuple(prefix_beam_search(chances, 2000)) == max(texts, key=texts.get)


def test_search_and_best_frames_differ_where_alignments_add_up():
    differ = 0
    for seed in range(60):
        chances = drawn_chances(seed, sharpness=0.7)
        texts = by_all_alignments(chances)
        found, first = tuple(prefix_beam_search(chances, 2000)), tuple(greedy(chances))
        assert first == collapsed(chances.argmax(1))
        assert texts[found] >= texts[first] - 1e-12
        differ += found != first
    assert differ > 5


def test_the_loss_is_that_of_all_alignments_and_the_frames_that_a_text_needs():
    chances = drawn_chances(3)
    texts = by_all_alignments(chances)
    for text in [(1,), (1, 2), (2, 2), (3, 1, 3), (1, 1, 1), (1, 2, 3, 1, 2)]:
        loss = F.ctc_loss(
            torch.from_numpy(chances)[:, None],
            torch.tensor([text]),
            torch.tensor([5]),
            torch.tensor([len(text)]),
            reduction="sum",
        )
        assert math.exp(-loss.item()) == pytest.approx(texts[text])
    targets, per_row = torch.tensor([1, 1, 2, 2, 2, 3, 3]), torch.tensor([3, 0, 3, 1])
    assert needed_frames(targets, per_row).tolist() == [4, 0, 4, 1]
    assert (1, 1, 1, 1) not in texts and needed_frames(torch.tensor([1, 1, 1, 1]), torch.tensor([4])).item() == 7


def written_out_distance(first, second):
    """Levenshtein by recursion on the definition."""
    table = {}

    def distance(i, j):
        if i == 0 or j == 0:
            return i + j
        if (i, j) not in table:
            same = first[i - 1] == second[j - 1]
            table[i, j] = min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (not same))
        return table[i, j]

    return distance(len(first), len(second))


def test_error_rates_are_those_of_another_implementation():
    from torchmetrics.functional.text import char_error_rate, word_error_rate

    random = np.random.default_rng(0)
    words = ["a", "be", "see", "dee", "e"]
    texts = [[" ".join(random.choice(words, random.integers(1, 9))) for _ in range(40)] for _ in range(2)]
    for reference, said in zip(*texts, strict=True):
        assert recognition.edit_distance(reference, said) == written_out_distance(reference, said)
    values = recognition.summary(*texts)
    assert values["wer"] == pytest.approx(word_error_rate(texts[1], texts[0]).item())
    assert values["cer"] == pytest.approx(char_error_rate(texts[1], texts[0]).item())
    low, high = recognition.intervals(*texts)["wer"]
    assert low < values["wer"] < high and high - low < 0.3
    assert recognition.summary(["a b", ""], ["", "c c c"])["wer"] == 2.5  # 2 deletions and 3 insertions over 2 words
    assert recognition.edit_distance("", "") == 0 and recognition.edit_distance("", "abc") == 3


def test_texts_are_normalised_as_the_task_says():
    assert normalised("  It\u2019s 5 o'clock \u2014 well-known,\tÉtÉ! ", None) == "it's 5 o'clock well known été"
    assert normalised("It's 5, A-B!", "abcdefghijklmnopqrstuvwxyz") == "its a b"
    assert normalised("ﬁne", None) == "fine"
    assert normalised("3\u00bd km/h, \u00bc and 2/3", None) == "3 1 2 km h 1 4 and 2 3"


# -- runs --------------------------------------------------------------------------------------------------------------

LOG_MEL = {"conv_dim": [20, 32, 32], "conv_kernel": [200, 3, 3], "conv_stride": [80, 2, 2], "hidden_size": 32}


@pytest.fixture(scope="module")
def audio_handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a hand-off of a tiny encoder on log-mel energies, never trained."""
    towers = AUDIO.towers(encoder("log_mel", **LOG_MEL), AudioPreprocess(sample_rate=8000, normalise=True))
    directory = tmp_path_factory.mktemp("audio") / "step-0000001"
    return handoff.write(directory, towers=towers, origin={"objective": "none"}, heads={})


def numbers(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())


def test_keywords_are_learnt_by_voices_that_nobody_heard(finetune: Finetune, audio_handoff: Path) -> None:
    run = finetune(
        "task=spoken_keywords",
        f"handoff={audio_handoff}",
        "data.size=200",
        "trainer.max_steps=60",
        "trainer.val_every=30",
        "optimizer.peak_lr=5e-3",
    )
    values = numbers(run)
    assert values["test/accuracy"] > 0.6 and values["test_examples"] == 50  # of ten words
    probe = numbers(
        finetune("task=spoken_keywords", f"handoff={audio_handoff}", "data.size=200", "mode=linear_probe", name="probe")
    )
    assert probe["test/accuracy"] > 0.15  # what an untrained network tells apart already


def test_classical_features_are_a_hand_off_of_their_own(finetune: Finetune) -> None:
    """Mean and deviation of MFCC, computed here by themselves, with the same linear model on top."""
    words = ["task=spoken_keywords", "data.size=200", "mode=linear_probe"]
    values = numbers(finetune(*words, "handoff=mfcc:8000"))
    backbone = handoff.read("mfcc:8000", modality=AUDIO).backbone
    rows = [torch.from_numpy(spoken(1, "test", n, longest=1).samples(8000).astype(np.float32)) for n in (0, 1)]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    together = backbone(padded, torch.tensor(list(map(len, rows)))).pooled
    for row, wave in enumerate(rows):
        frames = mfcc(wave.numpy(), 8000)
        np.testing.assert_allclose(together[row, :39], frames.mean(0), rtol=1e-5)
        np.testing.assert_allclose(together[row, 39:], frames.std(0), rtol=1e-5)
    assert 0.3 < values["test/accuracy"] <= 1.0
    with pytest.raises(HandoffError, match="'fast' is no sample rate: give one, such as mfcc:16000"):
        finetune(*words, "handoff=mfcc:fast", name="fast")


@pytest.mark.parametrize("task", ["speech_recognition", "speech_translation"])
def test_classical_features_have_no_frames_for_a_task_to_read(task: str, finetune: Finetune, tmp_path: Path) -> None:
    place = folder_of(tmp_path / "own", count=12)
    words = [f"task={task}", f"data.path={place}", *(["task.decoder=none"] if task == "speech_translation" else [])]
    with pytest.raises(RunError, match=r"got MfccStatistics, features of whole examples, for Speech.*of a network"):
        finetune(*words, "handoff=mfcc:8000", "trainer.max_steps=1", name=task)


def test_speakers_are_told_apart(finetune: Finetune, audio_handoff: Path) -> None:
    run = finetune(
        "task=spoken_keywords",
        "data.target=speaker",
        f"handoff={audio_handoff}",
        "data.size=800",
        "mode=linear_probe",
    )
    assert numbers(run)["test/accuracy"] > 0.12  # of 24 voices, by an untrained network


def folder_of(root: Path, count: int = 8, longest: int = 2) -> Path:
    """Write recordings with their transcripts, as LibriSpeech has them."""
    root.mkdir(parents=True)
    lines = []
    for number in range(count):
        clip = spoken(3, "train", number, longest=longest)
        soundfile.write(root / f"{number:02d}.flac", clip.samples(8000), 8000)
        lines.append(f"{number:02d} {clip.text.upper()}.")
    (root / "all.trans.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def overfitted(audio_handoff: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learn eight recordings by heart: they are train, validation and test."""
    from finetuning.launch import compose, main
    from tests.finetuning.conftest import QUIET

    place = tmp_path_factory.mktemp("heart")
    for split in ("train", "validation", "test"):
        folder_of(place / "data" / split)
    words = ["task=speech_recognition", f"handoff={audio_handoff}", f"data.path={place / 'data'}"]
    words += [
        "data.batch_size=8",
        "trainer.max_steps=150",
        "trainer.val_every=50",
        "optimizer.peak_lr=1e-2",
        "task.dropout=0",
    ]
    return main(compose([*QUIET, *words, f"run_dir={place / 'run'}"]))


def test_eight_recordings_are_learnt_by_heart_letter_by_letter(overfitted: Path) -> None:
    values = numbers(overfitted)
    assert values["test/wer"] <= 0.1 and values["test/cer"] <= 0.05
    assert values["test/wer_low"] <= values["test/wer"] <= values["test/wer_high"]
    said = pq.read_table(overfitted / "predictions.parquet").to_pydict()
    assert said["label"] == [spoken(3, "train", number, longest=2).text for number in range(8)]


def test_new_recordings_are_turned_into_text(overfitted: Path, tmp_path: Path) -> None:
    from finetuning.launch import load_run
    from finetuning.predictions import predict, read_inputs

    config, task = load_run(overfitted)
    place = folder_of(tmp_path / "new")
    found = list(predict(task, read_inputs(task, config.data, str(place))))
    expected = pq.read_table(overfitted / "predictions.parquet").to_pydict()["prediction"]
    assert [record["prediction"] for record in found] == expected
    task.decoding = CtcDecoding(beam=8)
    searched = list(predict(task, read_inputs(task, config.data, str(place / "03.flac"))))
    assert searched[0]["prediction"] == expected[3]
    with pytest.raises(RunError, match="input=/dev/stdin for a run on recordings"):
        list(read_inputs(task, config.data, "-"))


def test_the_loss_of_a_batch_is_the_sum_of_its_rows_and_padding_counts_for_nothing(overfitted: Path) -> None:
    from finetuning.launch import load_run
    from finetuning.predictions import read_inputs

    config, task = load_run(overfitted)
    place = Path(config.data.path) / "train"
    split = task.encode(_labelled(read_inputs(task, config.data, str(place))))

    def loss_of(rows):
        batch = {**split.stack(np.array(rows))}
        chosen = [split.targets[row] for row in rows]
        batch |= {
            "targets": torch.from_numpy(np.concatenate(chosen)),
            "targets_per_row": torch.tensor(list(map(len, chosen))),
        }
        with torch.no_grad():
            return task.loss(batch).terms["ctc"]

    each, together = [loss_of([row]) for row in range(8)], loss_of(range(8))
    assert together.total.item() == pytest.approx(sum(term.total.item() for term in each), rel=1e-4, abs=1e-4)
    assert together.count == sum(term.count for term in each) == sum(map(len, split.targets))


def _labelled(inputs):
    from finetuning.data.splits import Examples

    texts = [spoken(3, "train", number, longest=2).text for number in range(8)]
    return Examples.of(audio=[example.columns["audio"] for example in inputs], label=texts)


def test_tables_name_files_or_hold_recordings(finetune: Finetune, audio_handoff: Path, tmp_path: Path) -> None:
    place = tmp_path / "own"
    place.mkdir()
    rows = [spoken(4, "train", number, longest=1, lexicon=("sea", "oreo")) for number in range(60)]
    for number, clip in enumerate(rows):
        soundfile.write(place / f"{number}.wav", clip.samples(16000), 16000)
    table = pa.table({"file": [f"{n}.wav" for n in range(60)], "word": [clip.text for clip in rows]})
    pa.csv.write_csv(table, place / "all.csv")
    held = pa.table({
        "audio": [{"bytes": (place / f"{n}.wav").read_bytes(), "path": None} for n in range(60)],
        "label": [clip.text for clip in rows],
    })  # fmt: skip
    (tmp_path / "parquet").mkdir()
    pq.write_table(held, tmp_path / "parquet" / "all.parquet")
    common = [f"handoff={audio_handoff}", "task=audio_classification", "mode=linear_probe"]
    named = numbers(finetune(*common, f"data.path={place}", "data.audio=file", "data.label=word", name="named"))
    inside = numbers(finetune(*common, f"data.path={tmp_path / 'parquet'}", name="inside"))
    assert named["test/accuracy"] == inside["test/accuracy"] > 0.7  # of two words
    with pytest.raises(RunError, match=r"60\.wav at .*, which does not exist"):
        pa.csv.write_csv(pa.table({"file": ["60.wav"] * 9, "word": ["a", "b", "c"] * 3}), place / "all.csv")
        finetune(*common, f"data.path={place}", "data.audio=file", "data.label=word", name="lacking")


def test_bad_recordings_and_labels_are_named(finetune: Finetune, audio_handoff: Path, tmp_path: Path) -> None:
    common = [f"handoff={audio_handoff}", "task=audio_classification", "mode=linear_probe"]
    for name in ("a", "b"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(12):
            samples = spoken(5, "train", number, longest=1).samples(8000)
            soundfile.write(tmp_path / "own" / name / f"{number}.wav", samples, 8000)
    bad = tmp_path / "own" / "a" / "3.wav"
    for samples, told in ((np.zeros(800), r"3\.wav is silent throughout"), (np.ones(60) * 0.1, "makes no frame")):
        soundfile.write(bad, samples, 8000)
        with pytest.raises(RunError, match=told):
            finetune(*common, f"data.path={tmp_path / 'own'}", name=told[-5:])
    bad.unlink()
    (tmp_path / "own" / "stray.wav").write_bytes((tmp_path / "own" / "b" / "1.wav").read_bytes())
    with pytest.raises(RunError, match=r"1 of 24 recordings without a label, such as .*stray\.wav"):
        finetune(*common, f"data.path={tmp_path / 'own'}", name="stray")
    with pytest.raises(RunError, match=r"more than task\.inputs\.max_seconds=0\.2: cut it into pieces"):
        folder_of(tmp_path / "long", count=30)
        finetune(f"handoff={audio_handoff}", "task=speech_recognition", f"data.path={tmp_path / 'long'}",
                 "task.inputs.max_seconds=0.2", name="refused")  # fmt: skip


def test_recordings_without_a_transcript_are_named_or_left_out(tmp_path: Path, capsys) -> None:
    place = folder_of(tmp_path / "own", count=12)
    for number in range(4, 12):
        (place / f"{number:02d}.txt").write_text("sea")
    (place / "05.txt").write_text(" \n")
    (place / "all.trans.txt").write_text("00 one\n01 two\n02 three\n")
    names = [str(place / f"{number:02d}.flac") for number in (3, 5)]
    with pytest.raises(RunError, match=r"2 of 12 recordings without a label, such as .*\.flac.*data\.missing=drop"):
        LabelledAudio(path=str(place), eval_batch_size=4).splits()
    found = LabelledAudio(path=str(place), eval_batch_size=4, missing="drop").splits()
    parts = [found.train, found.validation, found.test]
    kept = [clip.name for part in parts for clip in part.column("audio")]
    assert len(kept) == 10 and not {*kept} & {*names}
    assert "train: dropped 2 of 12 recordings without a label" in capsys.readouterr().err
    with pytest.raises(RunError, match=r"data\.missing=skip: choose null"):
        LabelledAudio(path=str(place), eval_batch_size=4, missing="skip").splits()
    for file in place.glob("*.txt"):
        file.unlink()
    with pytest.raises(RunError, match=r"12 of 12 recordings without a label, .*\(\.txt\)$"):
        LabelledAudio(path=str(place), eval_batch_size=4, missing="drop").splits()


def test_recordings_too_short_for_their_text_are_counted(
    finetune: Finetune, audio_handoff: Path, tmp_path: Path, capsys
) -> None:
    place = folder_of(tmp_path / "own", count=24)
    text = (place / "all.trans.txt").read_text().replace("05 ", "05 " + "lll " * 60)
    (place / "all.trans.txt").write_text(text)
    common = [f"handoff={audio_handoff}", "task=speech_recognition", f"data.path={place}", "trainer.max_steps=2"]
    values = numbers(finetune(*common))
    assert math.isfinite(values["test/ctc"])
    assert "have fewer frames than their text needs: nothing is learnt from them" in capsys.readouterr().err


def test_a_text_task_refuses_a_speech_encoder(finetune: Finetune, audio_handoff: Path) -> None:
    with pytest.raises(RunError, match=r"is for audio, but task=Classification reads text"):
        finetune("task=docs_topic", f"handoff={audio_handoff}")


def test_steps_by_duration_serve_each_recording_once_per_epoch(finetune: Finetune, audio_handoff: Path) -> None:
    """Two epochs, counted from the lengths alone."""
    words = ["task=spoken_letters", f"handoff={audio_handoff}", "data.size=60", "epochs=2", "trainer.accumulate=2"]
    run = finetune(*words, "data.batch_seconds=10")
    seconds = np.array([len(spoken(1, "train", n, longest=4).samples(8000)) for n in range(60)]) / 8000
    batches = LengthBatches(np.sort(seconds)[::-1], 10.0, "data.batch_seconds")
    assert numbers(run)["steps"] == 2 * batches.behind[-1] and math.isfinite(numbers(run)["test/ctc"])
    with pytest.raises(RunError, match=r"data\.batch_seconds=1 holds no row of"):
        finetune(*words, "data.batch_seconds=1", name="short")
    cached = finetune(*[word.replace("letters", "keywords") for word in words], "data.batch_seconds=10", "mode=frozen",
                      name="cached")  # fmt: skip
    assert 2 < numbers(cached)["steps"] < 2 * 60 / 2
