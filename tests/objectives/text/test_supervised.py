"""Supervised pretraining on texts: rows with their classes, a run and its hand-off, and data without labels."""

import json
import pickle

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from pretraining import handoff
from pretraining.cli.configuration import compose
from pretraining.errors import RunError
from pretraining.launch import main
from pretraining.objectives.text.supervised import LabelledTexts
from pretraining.random import Keys
from pretraining.text.data.labelled import LabelledTextFiles
from pretraining.text.tokenizer_recipes import WordPiece

QUIET = ["logger.wandb.mode=disabled", "logger.progress=false", "trainer.precision=fp32", "optimizer.warmup_steps=2"]
TOPICS = {
    "sea": "ship wave harbour sail tide anchor",
    "wood": "tree leaf root branch moss bark",
    "sky": "cloud star moon wind rain sun",
}


@pytest.fixture(scope="module")
def topics(tmp_path_factory):
    """Write 300 short texts, each of words of one topic."""
    generator, path = np.random.default_rng(0), tmp_path_factory.mktemp("topics") / "topics.parquet"
    labels = [str(label) for label in generator.choice(sorted(TOPICS), 300)]
    texts = [f"{number} " + " ".join(generator.choice(TOPICS[label].split(), 5)) for number, label in enumerate(labels)]
    pyarrow.parquet.write_table(pyarrow.table({"sentence": texts, "topic": labels}), path)
    return path


def data_of(topics, cache_dir, **changes):
    sizes = {"max_tokens": 16, "batch_size": 8, "eval_batch_size": 8, "workers": 0, "cache_dir": str(cache_dir)}
    shares, columns = {"validation": 0.2, "test": 0.1}, {"text": "sentence", "label": "topic"}
    return LabelledTextFiles(path=str(topics), **{"columns": columns, "shares": shares, **sizes, **changes})


def test_rows_with_missing_values_are_refused_or_dropped_and_counted(tmp_path, capsys):
    rows = {"sentence": [f"text {n}" for n in range(60)], "topic": ["a", "b", "c"] * 20}
    rows["sentence"][7], rows["topic"][9], rows["topic"][11] = None, None, " "
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet, row 7: .*data\.missing=drop"):
        data_of(tmp_path / "t.parquet", tmp_path).labelled("train")
    config = compose(["objective=supervised_text", "data=labelled_text", "data.path=x", "data.missing=drop"])
    data = data_of(tmp_path / "t.parquet", tmp_path, missing=config.data.missing)
    texts = {text for split in ("train", "validation", "test") for text in data.labelled(split).texts}
    assert texts == {f"text {n}" for n in range(60) if n not in (7, 9, 11)}
    assert "train: dropped 3 of 60 rows with empty values" in capsys.readouterr().err


def test_each_row_is_a_text_with_its_own_class(topics, tmp_path):
    data = data_of(topics, tmp_path)
    preprocess = WordPiece(vocab_size=120, lowercase=True, sample_bytes=100_000).fit(data)
    collate = LabelledTexts(preprocess=preprocess, max_tokens=16)
    source = data.source("train", preprocess, collate.plan, seed=1)
    assert source.class_count == 3 and source.count(0) == len(data.labelled("train").texts) > 150
    source = pickle.loads(pickle.dumps(source.corpus)), source  # as a worker process gets it
    assert source[0].class_count == 3
    rows = np.array([3, 0, 77])
    batch = collate(source[1].read(0, rows), Keys(1, "train", np.zeros(3, np.int64), rows))
    names, given = sorted(TOPICS), data.labelled("train")
    for row, ids, documents, label in zip(
        rows, batch["inputs"]["input_ids"], batch["inputs"]["document_ids"], batch["labels"], strict=True
    ):
        read = preprocess.tokenizer.decode(ids[documents > 0], skip_special_tokens=True)
        assert read == given.texts[row] and set(read.split()[1:]) <= set(TOPICS[names[label]].split())
    sizes = [len(data.labelled(split).texts) for split in ("train", "validation", "test")]
    assert sum(sizes) == 300 and not set(given.texts) & set(data.labelled("validation").texts)


def test_long_texts_are_cut_and_keep_their_class(topics, tmp_path):
    data = data_of(topics, tmp_path, max_tokens=6)
    preprocess = WordPiece(vocab_size=120, lowercase=True, sample_bytes=100_000).fit(data)
    collate = LabelledTexts(preprocess=preprocess, max_tokens=6)
    source = data.source("train", preprocess, collate.plan, seed=1)
    rows = np.arange(20)
    batch = collate(source.read(0, rows), Keys(1, "train", np.zeros(20, np.int64), rows))
    assert batch["inputs"]["input_ids"].shape == (20, 6) and (batch["inputs"]["document_ids"] == 1).all()
    assert batch["labels"].tolist() == data.labelled("train").labels[:20]


def test_a_run_on_texts_learns_their_topics_and_hands_over(topics, cache_dir, tmp_path):
    data = [
        "data=labelled_text",
        f"data.path={topics}",
        "data.columns.text=sentence",
        "data.columns.label=topic",
        f"data.cache_dir={cache_dir}",
    ]
    sizes = [
        "data.max_tokens=16",
        "data.batch_size=16",
        "preprocess.vocab_size=120",
        "backbone=bert_tiny",
        "backbone.config.hidden_size=32",
    ]
    steps = ["trainer.max_steps=60", "trainer.val_every=60", "optimizer.peak_lr=5e-3", "optimizer.weight_decay=0"]
    run = main(compose(["objective=supervised_text", *data, *sizes, *steps, *QUIET, f"run_dir={tmp_path / 'run'}"]))
    assert json.loads((run / "metrics.json").read_text())["validation/accuracy"] > 0.9
    assert handoff.read(str(run / "handoff" / "last")).card["origin"]["objective"] == "SupervisedText"


def test_texts_without_labels_are_refused(topics, cache_dir, tmp_path):
    plain = tmp_path / "plain.txt"
    plain.write_text("\n\n".join(f"One sentence about number {number}." for number in range(200)))
    refused = {
        ("data=text_files", f"data.path={plain}"): "learns from labels, but the data has none: set data=labelled_text",
        ("data=labelled_text", f"data.path={plain}"): r"holds no labels: give .parquet, .csv or .jsonl",
        (
            "data=labelled_text",
            f"data.path={topics}",
        ): r"has no column 'text': set data.columns to two of sentence, topic",
    }
    for data, message in refused.items():
        with pytest.raises(RunError, match=message):
            sizes = [f"data.cache_dir={cache_dir}", "preprocess.vocab_size=200"]
            main(compose(["objective=supervised_text", *data, *sizes, *QUIET, f"run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()
