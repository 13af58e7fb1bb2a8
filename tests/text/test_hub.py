"""Data sets read through `datasets`: a local directory stands for the hub."""

import pyarrow
import pyarrow.parquet
import pytest

from pretraining.text.corpus.prepare import Preparation
from pretraining.text.data.hub import HubText


def hub(name, cache_dir, max_bytes=10**6, **preparation):
    return HubText(
        name=str(name),
        max_bytes=max_bytes,
        max_tokens=32,
        batch_size=2,
        eval_batch_size=2,
        workers=0,
        cache_dir=str(cache_dir),
        preparation=Preparation(**preparation),
    )


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "dataset"
    path.mkdir()
    for split, count in (("train", 120), ("test", 7)):
        texts = [f"{split} document {i}." for i in range(count)]
        pyarrow.parquet.write_table(pyarrow.table({"body": texts, "n": list(range(count))}), path / f"{split}.parquet")
    return path


def test_its_own_splits_are_taken_and_the_missing_one_is_cut_from_training(directory, tmp_path):
    data = hub(directory, tmp_path, text_column="body", validation_share=0.2)
    train, validation, test = (list(data.texts(split)) for split in ("train", "validation", "test"))
    assert test == [f"test document {i}." for i in range(7)]
    assert sorted(train + validation) == sorted(f"train document {i}." for i in range(120))
    assert 8 < len(validation) < 45


def test_it_is_read_once_and_again_when_it_changes(directory, tmp_path, monkeypatch):
    first = hub(directory, tmp_path, text_column="body").fingerprint()
    with monkeypatch.context() as patch:
        patch.setattr("datasets.load_dataset", None)  # not to be called
        assert hub(directory, tmp_path, text_column="body").fingerprint() == first
    pyarrow.parquet.write_table(pyarrow.table({"body": ["other"], "n": [1]}), directory / "test.parquet")
    assert hub(directory, tmp_path, text_column="body").fingerprint() != first


def test_no_more_is_read_than_max_bytes_and_a_group_of_rows(directory, tmp_path, monkeypatch):
    monkeypatch.setattr("pretraining.text.data.hub.ROWS_PER_GROUP", 10)
    data = hub(directory, tmp_path, max_bytes=len("train document 0.") * 15, text_column="body", validation_share=0)
    assert list(data.texts("train")) == [f"train document {i}." for i in range(20)]


def test_a_source_that_cannot_be_read_and_a_missing_column_are_one_error(directory, tmp_path):
    with pytest.raises(
        ValueError, match=r"split t\w+ has no column 'text', but 'body', 'n': set data\.preparation\.text_column"
    ):
        hub(directory, tmp_path).fingerprint()
    with pytest.raises(FileNotFoundError, match=r"data\.name=nobody/nothing cannot be read .*give a local directory"):
        hub("nobody/nothing", tmp_path).fingerprint()


def test_null_texts_are_counted_and_what_is_no_text_is_named(tmp_path, capfd):
    directory = tmp_path / "set"
    directory.mkdir()
    texts = [f"document {i}." if i % 3 else None for i in range(30)]
    pyarrow.parquet.write_table(pyarrow.table({"body": texts, "n": list(range(30))}), directory / "train.parquet")
    hub(directory, tmp_path, text_column="body").fingerprint()
    assert "split train: 10 of 30 texts are null and left out" in capfd.readouterr().err
    with pytest.raises(ValueError, match=r"split train, row 1: column 'n' is not text \(1\)"):
        hub(directory, tmp_path, text_column="n").fingerprint()


def test_a_folder_of_save_to_disk_is_read_and_a_wrong_configuration_is_one_line(tmp_path):
    import datasets

    part = datasets.Dataset.from_dict({"text": [f"document {i}." for i in range(30)]})
    datasets.DatasetDict({"Train": part, "test": part.select(range(4))}).save_to_disk(str(tmp_path / "saved"))
    data = hub(tmp_path / "saved", tmp_path)
    assert list(data.texts("test")) == [f"document {i}." for i in range(4)]
    part.save_to_disk(str(tmp_path / "one"))
    assert (
        len(
            [text for split in ("train", "validation", "test") for text in hub(tmp_path / "one", tmp_path).texts(split)]
        )
        == 30
    )
    for name in (f"{tmp_path / 'one'}:other", "nobody/nothing:other"):
        with pytest.raises(ValueError, match=r"data\.name=.*cannot be read.*name:configuration") as caught:
            hub(name, tmp_path).fingerprint()
        assert "\n" not in str(caught.value)
