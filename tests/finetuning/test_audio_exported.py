"""Finetuned speech models that transformers loads: the same scores, and its processor writes the same texts."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import transformers

from finetuning.export import export
from finetuning.launch import load_run
from pretraining.audio.data.letters import KEYWORDS, spoken
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.cli.configuration import instantiate
from pretraining.errors import RunError
from pretraining.random import Keys
from tests.finetuning.conftest import Finetune
from tests.objectives.audio.small_audio import ENCODER

FAMILIES = {"wav2vec2": {}, "hubert": {}, "wavlm": {}, "data2vec-audio": {"conv_pos_kernel_size": 3}}
RATE = 8000


def checkpoint(family: str, directory: Path) -> Path:
    """Save a tiny random model as transformers does, and nothing of ours beside the description of its waves."""
    torch.manual_seed(0)
    changes = FAMILIES[family] | {"model_type": family}
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**ENCODER | changes)).save_pretrained(
        directory
    )
    AudioPreprocess(sample_rate=RATE, normalise=True).save(directory)
    return directory


def recordings(root: Path, *, keywords: bool) -> Path:
    for number in range(24):
        options = {"longest": 1, "lexicon": KEYWORDS[:2]} if keywords else {"longest": 2}
        clip = spoken(3, "train", number, **options)
        folder = root / clip.text if keywords else root
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{number:02d}.flac", clip.samples(RATE), RATE)
        if not keywords:
            (folder / f"{number:02d}.txt").write_text(clip.text)
    return root


def exported(run: Path, directory: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Path]:
    """Export a run; returns our scores and transformers' of the test split, what is real of them, and the folder."""
    config, task = load_run(run)
    encoded = task.encode(instantiate(config.data).splits().test)
    rows = np.arange(len(encoded.targets))
    batch = encoded.collate(encoded.read(0, rows), Keys(0, "test", np.zeros_like(rows), rows))
    folder = export(task, directory)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    waves = [encoded.samples[row].astype("float32") / 32768 for row in encoded.order]
    given = extractor(waves, sampling_rate=RATE, padding=True, return_tensors="pt")
    kind = transformers.AutoModelForCTC if task.per_position else transformers.AutoModelForAudioClassification
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        return (
            task.logits(batch),
            model.eval()(**given).logits,
            batch["frames"],
            torch.from_numpy(encoded.order),
            folder,
        )


def of_task(name: str, data: Path, start: Path, *more: str) -> list[str]:
    settings = [f"task={name}", f"data.path={data}", f"handoff=hf:{start}", "trainer.max_steps=6", *more]
    return [*settings, "optimizer.peak_lr=1e-2", "data.batch_size=8", "trainer.val_every=3"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_ctc_model_gives_our_scores_and_its_processor_our_texts(family, finetune: Finetune, tmp_path: Path) -> None:
    data, start = recordings(tmp_path / "data", keywords=False), checkpoint(family, tmp_path / "start")
    run = finetune(*of_task("speech_recognition", data, start))
    ours, theirs, frames, order, folder = exported(run, tmp_path / "exported")
    assert ours.shape == theirs.shape
    if family != "data2vec-audio":  # whose positions leak from padding in transformers: alone they agree (`_compare`)
        for row, count in enumerate(frames.tolist()):
            torch.testing.assert_close(ours[row, :count], theirs[row, :count], rtol=0, atol=1e-5)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    assert processor.feature_extractor.sampling_rate == RATE
    said = pq.read_table(run / "predictions.parquet")["prediction"].to_pylist()
    _, task = load_run(run)
    for row, count in enumerate(frames.tolist()):
        assert " ".join(processor.decode(ours[row, :count].argmax(-1)).split()) == said[order[row]]
        drawn = torch.randn(count, ours.shape[-1])  # says more than a model that has hardly learnt
        text = "".join(task.characters[symbol - 1] for symbol in task.decoding(drawn.numpy()))
        assert " ".join(processor.decode(drawn.argmax(-1)).split()) == " ".join(text.split()) != ""
    assert len(processor.tokenizer) == ours.shape[-1]


def test_classes_of_recordings_are_transformers_too(finetune: Finetune, tmp_path: Path) -> None:
    data, start = recordings(tmp_path / "data", keywords=True), checkpoint("wav2vec2", tmp_path / "start")
    run = finetune(*of_task("audio_classification", data, start))
    ours, theirs, _, _, folder = exported(run, tmp_path / "exported")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert [*transformers.AutoConfig.from_pretrained(folder).id2label.values()] == sorted(KEYWORDS[:2])
    layered = finetune(*of_task("audio_classification", data, start, "mode=frozen", "mode.layers=all"), name="all")
    with pytest.raises(RunError, match=r"mode\.layers=all, where AutoModelForSequenceClassification reads the last"):
        exported(layered, tmp_path / "no")
