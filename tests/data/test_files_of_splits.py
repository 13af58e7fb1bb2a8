"""Which files serve which split, in all data: by names without case and with affixes, and nothing silently."""

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetuning.data.splits import Split
from finetuning.data.text import LabelledText
from pretraining.data.splits import names_of_splits
from pretraining.image.data.decode import Decoding
from pretraining.image.data.files import ImageFolder
from pretraining.text.corpus.prepare import Preparation
from pretraining.text.data.base import TextFiles
from pretraining.text.data.hub import HubText
from pretraining.text.data.labelled import LabelledTextFiles
from tests.image.data.test_images import noise, png

SIZES = {"batch_size": 2, "eval_batch_size": 2, "workers": 0}


def tables(path, **named):
    split = {"train": None, "validation": None, "test": None, "validation_fraction": 0.2, "test_fraction": 0.2}
    split = Split(**split | {"seed": 0} | named)
    return LabelledText(path=str(path), text="text", text_pair=None, label="label", split=split, **SIZES)


def texts(path, **changes):
    return TextFiles(path=str(path) if isinstance(path, Path) else path, max_tokens=8, cache_dir="unused", **SIZES)


def images(path, tmp_path):
    return ImageFolder(path=str(path), decoding=Decoding(size=None), cache_dir=str(tmp_path / "cache"), **SIZES)


class Place:
    """A path of nobody's library."""

    def __init__(self, path):
        self.path = str(path)

    def __fspath__(self):
        return self.path


@pytest.mark.parametrize("kind", [Path, Place])
def test_paths_of_python_are_those_of_the_command_line(tmp_path, kind):
    file = tmp_path / "a.csv"
    file.write_text("text,label\n" + "".join(f"text {row},{'ab'[row % 2]}\n" for row in range(20)))
    for given, written in (
        (kind(file), str(file)),
        ([kind(file)], [str(file)]),
        ({"train": kind(file)}, {"train": str(file)}),
    ):
        data = TextFiles(path=given, max_tokens=8, cache_dir=kind(tmp_path), **SIZES)
        assert data.path == written and data.cache_dir == tmp_path
        assert data.files == TextFiles(path=written, max_tokens=8, cache_dir="unused", **SIZES).files
    found, _ = LabelledText(path=kind(file), **SIZES).found()
    assert found["train"].size == 20
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.png").write_bytes(png(noise(number)))
    assert ImageFolder(path=kind(tmp_path / "images"), decoding=Decoding(size=4), cache_dir="unused", **SIZES).tables


def csv(directory, **files):
    directory.mkdir(exist_ok=True)
    for name, count in files.items():
        rows = [f"{name} {row},{'ab'[row % 2]}\n" for row in range(count)]
        (directory / f"{name}.csv").write_text("text,label\n" + "".join(rows))
    return directory


def pictures(root, *folders, count=2):
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for index in range(count):
            (root / folder / f"{index}.png").write_bytes(png(noise(10 * number + index, (4, 4, 3))))
    return root


NAMED = [
    ({"Train": 20, "Test": 6}, {"train": 20, "test": 6}),
    ({"reviews_train": 20, "reviews_test": 6}, {"train": 20, "test": 6}),
    ({"train_reviews": 20, "valid_reviews": 4, "test_reviews": 6}, {"train": 20, "validation": 4, "test": 6}),
    ({"train": 20, "testing": 6}, {"train": 20, "test": 6}),
    ({"train": 20, "eval": 6}, {"train": 20, "test": 6}),
    ({"train": 20, "eval": 4, "test": 6}, {"train": 20, "validation": 4, "test": 6}),
    ({"train": 20, "train_extra": 10, "DEV": 4}, {"train": 30, "validation": 4}),
    ({"train1": 10, "train2": 10, "val-00000-of-00001": 4}, {"train": 20, "validation": 4}),
    ({"monday": 10, "tuesday": 10}, {"train": 20}),
]


@pytest.mark.parametrize(("files", "sizes"), NAMED)
def test_files_are_found_by_their_names_without_case_and_with_affixes(tmp_path, files, sizes):
    found, _ = tables(csv(tmp_path, **files)).found()
    assert {name: part.size for name, part in found.items()} == sizes
    listed = texts(tmp_path).files
    assert {name: sum(files[path.stem] for path in paths) for name, paths in listed.items()} == sizes
    columns, shares = {"text": "text", "label": "label"}, {"validation": 0.0, "test": 0.0}
    labelled = LabelledTextFiles(
        path=str(tmp_path), columns=columns, shares=shares, max_tokens=8, cache_dir="unused", **SIZES
    )
    assert {name: len(labelled.labelled(name).texts) for name in sizes} == sizes


def test_what_serves_each_split_and_what_is_left_aside_is_printed(tmp_path, capfd):
    csv(tmp_path, Train=20, Test=6, notes=3)
    tables(tmp_path).found()
    said = capfd.readouterr().err
    assert "train: Train.csv" in said and "test: Test.csv" in said and "unused: notes.csv" in said
    texts(tmp_path)
    said = capfd.readouterr().err
    assert "train: Train.csv" in said and "unused: notes.csv" in said


def test_names_that_leave_no_training_data_are_refused(tmp_path):
    for read in (lambda: tables(tmp_path).found(), lambda: texts(tmp_path)):
        csv(tmp_path, test=6, other=20)
        with pytest.raises(ValueError, match=r"test\.csv .*nothing called train.*other\.csv"):
            read()


def test_affixes_beside_other_names_are_refused_as_ambiguous_unless_one_kind_only(tmp_path):
    csv(tmp_path / "a", train_schedules=10, test_drives=5, buses=3)
    for read in (lambda: tables(tmp_path / "a").found(), lambda: texts(tmp_path / "a")):
        with pytest.raises(ValueError, match=r"buses\.csv"):
            read()
    csv(tmp_path / "b", train_schedules=10, buses=3)
    assert [path.name for path in texts(tmp_path / "b").files["train"]] == ["buses.csv", "train_schedules.csv"]


def test_a_name_that_does_not_exist_is_refused_also_beside_a_single_file(tmp_path):
    csv(tmp_path, data=20)
    with pytest.raises(ValueError, match=r"data\.split\.test=nowhere"):
        tables(tmp_path / "data.csv", test="nowhere").found()
    csv(tmp_path, more=8)
    found, _ = tables(tmp_path / "data.csv", test=str(tmp_path / "more.csv")).found()
    assert {name: part.size for name, part in found.items()} == {"train": 20, "test": 8}


def test_a_labelled_test_file_that_a_preset_passes_over_is_named(tmp_path, capfd):
    csv(tmp_path, train=20, validation=6, test=7)
    tables(tmp_path, validation="carve", test="validation").found()
    assert "unused: test.csv" in capfd.readouterr().err


def test_stored_splits_are_found_without_case_and_the_rest_is_named(tmp_path, capfd):
    part = datasets.Dataset.from_dict({"text": ["a", "b"] * 10, "label": [0, 1] * 10})
    stored = datasets.DatasetDict({"Train": part, "Test": part.select(range(6)), "unsupervised": part})
    stored.save_to_disk(str(tmp_path / "stored"))
    found, _ = tables(tmp_path / "stored").found()
    assert {name: part.size for name, part in found.items()} == {"train": 20, "test": 6}
    assert "unused: unsupervised" in capfd.readouterr().err
    assert names_of_splits(["Train", "Test"]) == {"train": "Train", "test": "Test"}


def test_splits_of_the_hub_are_found_by_the_same_table(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *_: ["Training", "eval", "extra"])
    settings = {"max_bytes": 10, "max_tokens": 8, "cache_dir": str(tmp_path), "preparation": Preparation()}
    assert HubText(name=str(tmp_path), **settings, **SIZES).given == {"train": "Training", "test": "eval"}
    assert "unused: extra" in capfd.readouterr().err


def test_folders_of_images_are_found_by_the_same_table(tmp_path):
    root = pictures(tmp_path / "a", "Train/cat", "Train/dog", "Test/cat", "Test/dog")
    data = images(root, tmp_path)
    assert {name: len(table.encoded) for name, table in data.tables.items()} == {"train": 4, "test": 4}
    assert data.tables["train"].class_names == ("cat", "dog")
    root = pictures(tmp_path / "b", "images_train/cat", "images_train/dog", "images_val/cat", "images_val/dog")
    assert set(images(root, tmp_path).tables) == {"train", "validation"}


@pytest.mark.parametrize("name", ["train", "Train", "photos_train"])
def test_a_lone_folder_of_training_data_is_a_split_whose_classes_are_below(tmp_path, capfd, name):
    tables = images(pictures(tmp_path / "a", f"{name}/cat", f"{name}/dog"), tmp_path).tables
    assert {split: table.class_names for split, table in tables.items()} == {"train": ("cat", "dog")}
    assert f"train: {name}; validation: cut from train" in capfd.readouterr().err


def test_a_class_that_is_called_like_a_split_is_refused_not_taken_for_all_of_the_training_data(tmp_path):
    with pytest.raises(ValueError, match=r"train .*bus, car"):
        images(pictures(tmp_path / "vehicles", "bus", "car", "train"), tmp_path)


def test_parquet_tables_of_text_by_folder(tmp_path):
    for folder, count in (("Train", 12), ("Val", 4)):
        (tmp_path / folder).mkdir()
        pq.write_table(
            pa.table({"text": ["a"] * count, "label": ["x", "y"] * (count // 2)}), tmp_path / folder / "0.parquet"
        )
    found, _ = tables(tmp_path).found()
    assert {name: part.size for name, part in found.items()} == {"train": 12, "validation": 4}
