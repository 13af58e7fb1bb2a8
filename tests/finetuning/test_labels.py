"""Labels are read as they are written, with one type over all splits; what is missing or odd is named."""

import datetime
import decimal
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetuning.data.image import LabelledDigits, LabelledImageFiles
from finetuning.data.splits import strata
from finetuning.data.text import LabelledText, Questions, TaggedText, TextPairs
from finetuning.labels import collect_classes
from finetuning.tasks.multi_label import MultiLabel
from finetuning.tasks.regression import Regression
from finetuning.tasks.tagging import Tagging
from pretraining.errors import RunError
from pretraining.image.data.decode import Decoding
from pretraining.image.data.files import HubImages
from pretraining.text.data.labelled import LabelledTextFiles
from tests.data.test_files_of_splits import pictures
from tests.finetuning.test_data import carving
from tests.image.data.test_images import noise, png

SIZES = {"batch_size": 4, "eval_batch_size": 4, "workers": 0, "split": carving()}


def text_data(path, **changes):
    return LabelledText(**{"path": str(path), "text": "text", "text_pair": None, "label": "label"} | SIZES | changes)


def csv(path, labels):
    path.write_text("text,label\n" + "".join(f"text {n},{label}\n" for n, label in enumerate(labels)))
    return path


def parquet(path, labels, **columns):
    table = {"text": [f"text {row}" for row in range(len(labels))], "label": labels} | columns
    pq.write_table(pa.table(table), path)
    return path


def jsonl(path, **columns):
    records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def classes(path, **changes):
    return collect_classes(text_data(path, **changes).splits())["names"]


def test_text_stays_as_it_is_written_and_integers_stay_integers(tmp_path):
    assert classes(csv(tmp_path / "a.csv", ["007", "7", "x"] * 10)) == ["007", "7", "x"]
    assert classes(csv(tmp_path / "b.csv", ["007", "7"] * 10)) == ["007", "7"]
    assert classes(csv(tmp_path / "c.csv", [2, 10, 1] * 10)) == ["1", "2", "10"]
    assert classes(csv(tmp_path / "d.csv", ["2021-01-01", "2022-01-01"] * 10)) == ["2021-01-01", "2022-01-01"]


def test_one_type_over_all_splits(tmp_path):
    csv(tmp_path / "train.csv", ["1", "2", "x"] * 10)
    csv(tmp_path / "test.csv", ["1", "2"] * 5)
    assert classes(tmp_path) == ["1", "2", "x"]
    csv(tmp_path / "test.csv", ["01", "2"] * 5)
    with pytest.raises(RunError, match="'01'"):
        classes(tmp_path)


@pytest.mark.parametrize("missing", ["", "  "])
def test_an_empty_label_is_missing_not_a_class(tmp_path, missing):
    path = csv(tmp_path / "a.csv", ["x", "y", missing] * 10)
    with pytest.raises(RunError, match=r"10 empty values in column 'label'.*a\.csv, line 4"):
        classes(path)
    data = text_data(path, missing="drop")
    assert collect_classes(data.splits())["names"] == ["x", "y"]


def test_dropped_rows_are_counted(tmp_path, capfd):
    data = text_data(parquet(tmp_path / "a.parquet", ["x", "y", None] * 10), missing="drop")
    assert data.found()[0]["train"].size == 20
    assert "dropped 10 of 30 rows" in capfd.readouterr().err


def test_null_is_named_with_file_and_row(tmp_path):
    with pytest.raises(RunError, match=r"1 empty values in column 'label'.*a\.parquet, row 3"):
        classes(parquet(tmp_path / "a.parquet", ["x", "y", "x", None, *("x", "y") * 10]))
    with pytest.raises(RunError, match=r"1 empty values in column 'label'.*b\.parquet, row 1"):
        classes(parquet(tmp_path / "b.parquet", [1.0, float("nan"), 0.0, *(1.0, 0.0) * 10]))


def test_whole_floats_are_classes_and_are_carved_like_classes(tmp_path):
    splits = text_data(parquet(tmp_path / "a.parquet", [0.0] * 40 + [1.0] * 10)).splits()
    assert strata(splits.train) is not None
    assert sum(splits.test.column("label")) == 2 and splits.test.size == 10


ODD = {
    "dates": [datetime.date(2021, 1, 1), datetime.date(2022, 1, 1)] * 15,
    "times": [datetime.datetime(2021, 1, 1), datetime.datetime(2022, 1, 1)] * 15,
    "decimals": [decimal.Decimal("1.5"), decimal.Decimal("2.5")] * 15,
    "bytes": [b"a", b"b"] * 15,
}


@pytest.mark.parametrize("name", ODD)
def test_what_cannot_be_saved_is_refused_at_the_start(tmp_path, name):
    with pytest.raises(RunError, match=r"column 'label'.*(date|timestamp|decimal|binary).*text or (whole )?numbers"):
        classes(parquet(tmp_path / "a.parquet", ODD[name]))


def test_text_and_numbers_in_one_column_are_refused(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", text=["a"] * 30, label=["1", 1, "x"] * 10)
    with pytest.raises(RunError, match=r"a\.jsonl, line 2.*'label'.*1"):
        classes(path)


def test_indicator_vectors_are_no_sets(tmp_path):
    for rows in ([[1, 0, 0], [0, 1, 1]] * 15, [[1, 0], [0, 1]] * 15, [[True, False, True], [False, False, True]] * 15):
        with pytest.raises(RunError, match="indicator"):
            MultiLabel.collect_labels(text_data(parquet(tmp_path / "a.parquet", rows)).splits())
    found = MultiLabel.collect_labels(text_data(parquet(tmp_path / "b.parquet", [[0, 2], [1], []] * 10)).splits())
    assert found["values"] == [0, 1, 2]


# -- images ------------------------------------------------------------------------------------------------------------


def image_table(path, labels, **columns):
    cells = [{"bytes": png(noise(row, (4, 4, 3))), "path": None} for row in range(len(labels))]
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": cells, "label": labels} | columns), path)
    return path


def image_data(path, tmp_path, **changes):
    settings = {"decoding": Decoding(size=None), "cache_dir": str(tmp_path / "cache")}
    return LabelledImageFiles(
        path=str(path), columns={"image": "image", "label": "label"}, **settings, **SIZES | changes
    )


def test_labels_of_images_are_read_like_those_of_texts(tmp_path):
    with pytest.raises(RunError, match=r"empty values in column 'label'.*a\.parquet, row 2"):
        image_data(image_table(tmp_path / "a.parquet", [0, 1, None, 1] * 5), tmp_path).splits()
    with pytest.raises(RunError, match="real numbers"):
        collect_classes(image_data(image_table(tmp_path / "b.parquet", [0.5, 1.5] * 10), tmp_path).splits())
    path = image_table(tmp_path / "c.parquet", ["03", "3", "x", "y"] * 5)
    assert collect_classes(image_data(path, tmp_path).splits())["names"] == ["03", "3", "x", "y"]
    dropped = image_data(image_table(tmp_path / "d.parquet", [0, 1, None, 1] * 5), tmp_path, missing="drop")
    assert dropped.found()[0]["train"].size == 15


def test_labels_of_the_hub_have_one_numbering_for_all_splits(tmp_path):
    image_table(tmp_path / "set" / "train.parquet", ["cat", "dog", "eel"] * 10)
    image_table(tmp_path / "set" / "test.parquet", ["dog", "eel"] * 5)
    settings = {"decoding": Decoding(size=None), "cache_dir": str(tmp_path), "batch_size": 4, "eval_batch_size": 4}
    data = HubImages(name=str(tmp_path / "set"), image="image", label="label", workers=0, **settings)
    assert data.split("test").labels.tolist() == [1, 2] * 5
    assert data.split("test").class_names == data.split("train").class_names == ("cat", "dog", "eel")


# -- pretraining with labels -------------------------------------------------------------------------------------------


def test_labelled_text_of_pretraining_reads_labels_in_the_same_way(tmp_path):
    def data(path):
        columns, shares = {"text": "text", "label": "label"}, {"validation": 0.1, "test": 0.1}
        sizes = {"batch_size": 4, "eval_batch_size": 4, "workers": 0}
        return LabelledTextFiles(
            path=str(path), columns=columns, shares=shares, max_tokens=8, cache_dir="unused", **sizes
        )

    assert data(csv(tmp_path / "a.csv", ["007", "7"] * 20)).labelled("train").class_names == ["007", "7"]
    with pytest.raises(ValueError, match=r"b\.csv, line 4"):
        data(csv(tmp_path / "b.csv", ["x", "y", ""] * 20)).labelled("train")


# -- rows --------------------------------------------------------------------------------------------------------------


def tagged(path):
    return TaggedText(path=str(path), tokens="tokens", tags="tags", **SIZES)


GOOD = [["a", "b"], ["O", "B-X"]]
TAGGED = {
    "null word": ([["a", None]], [["O", "O"]], r"t\.jsonl, line 21.*'tokens'.*null"),
    "number as word": ([["a", 3]], [["O", "O"]], r"t\.jsonl, line 21.*'tokens'.*3"),
    "null tag": ([["a", "b"]], [["O", None]], r"t\.jsonl, line 21.*'tags'.*null"),
    "mixed tags": ([["a", "b"]], [["O", 1]], r"t\.jsonl, line 21.*'tags'.*1"),
    "unequal": ([["a", "b"]], [["O"]], r"row 20 .*tags.*t\.jsonl, line 21"),
    "text for a list": (["ab"], [["O", "O"]], r"t\.jsonl, line 21"),
}


def test_entities_are_not_begun_without_what_judges_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "seqeval.metrics", None)
    plain = jsonl(tmp_path / "p.jsonl", tokens=[GOOD[0]] * 20, tags=[["DET", "NOUN"]] * 20)
    assert Tagging.collect_labels(tagged(plain).splits())["names"] == ["DET", "NOUN"]
    path = jsonl(tmp_path / "t.jsonl", tokens=[GOOD[0]] * 20, tags=[GOOD[1]] * 20)
    with pytest.raises(
        RunError, match=r"judged by seqeval, which is not installed: pip install 'pretraining\[tasks\]'"
    ):
        Tagging.collect_labels(tagged(path).splits())


@pytest.mark.parametrize("name", TAGGED)
def test_what_is_wrong_in_tagged_text_is_named(tmp_path, name):
    tokens, tags, message = TAGGED[name]
    path = jsonl(tmp_path / "t.jsonl", tokens=[GOOD[0]] * 20 + tokens, tags=[GOOD[1]] * 20 + tags)
    with pytest.raises(RunError, match=message):
        Tagging.collect_labels(tagged(path).splits())


ANSWERS = {
    "unequal lists": ({"text": ["a", "b"], "answer_start": [0]}, r"q\.jsonl, line 11.*'answers'"),
    "null text": ({"text": [None], "answer_start": [0]}, r"q\.jsonl, line 11.*'answers'"),
    "text as place": ({"text": ["a"], "answer_start": ["0"]}, r"q\.jsonl, line 11.*'answers'"),
    "text for a list": ({"text": "a", "answer_start": [0]}, r"q\.jsonl, line 11.*'answers'"),
    "null lists": ({"text": None, "answer_start": None}, r"q\.jsonl, line 11.*'answers'"),
    "beyond": ({"text": ["a"], "answer_start": [-2]}, r"q\.jsonl, line 11.*'answers'|at -2"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_wrong_in_answers_is_named(tmp_path, name):
    answer, message = ANSWERS[name]
    good = {"text": ["a"], "answer_start": [0]}
    path = jsonl(tmp_path / "q.jsonl", question=["q"] * 11, context=["a b"] * 11, answers=[good] * 10 + [answer])
    data = Questions(path=str(path), question="question", context="context", answers="answers", **SIZES)
    with pytest.raises(RunError, match=message):
        data.found()


def test_what_is_wrong_in_texts_sets_and_references_is_named(tmp_path):
    path = jsonl(tmp_path / "t.jsonl", text=["a"] * 9 + [7], label=["x", "y"] * 5)
    with pytest.raises(RunError, match=r"t\.jsonl, line 10.*7|7.*t\.jsonl, line 10"):
        text_data(path).found()
    path = jsonl(tmp_path / "s.jsonl", text=["a"] * 30, label=[["x"], ["y"]] * 14 + [["x"], ["y", None]])
    with pytest.raises(RunError, match=r"s\.jsonl, line 30.*'label'.*null"):
        MultiLabel.collect_labels(text_data(path).splits())
    path = jsonl(tmp_path / "m.jsonl", text=["a"] * 30, label=[["x"], ["y"]] * 14 + [["x"], ["y", 1]])
    with pytest.raises(RunError, match=r"m\.jsonl, line 30.*'label'.*1"):
        MultiLabel.collect_labels(text_data(path).splits())
    path = jsonl(tmp_path / "r.jsonl", source=["a"] * 5, target=["b"] * 5, more=[["c"]] * 4 + [["c", 4]])
    pairs = TextPairs(path=str(path), source="source", target="target", references="more", **SIZES)
    with pytest.raises(RunError, match=r"r\.jsonl, line 5.*'more'.*4"):
        pairs.found()


def test_numbers_beyond_float32_and_words_among_numbers_are_named(tmp_path):
    path = parquet(tmp_path / "n.parquet", [float(row) for row in range(29)] + [1e300])
    with pytest.raises(RunError, match=r"1e\+300.*n\.parquet, row 29"):
        Regression.collect_labels(text_data(path).splits())
    path = csv(tmp_path / "w.csv", [*range(29), "n/a"])
    with pytest.raises(RunError, match=r"'n/a' among .*numbers are needed.*w\.csv, line 31"):
        Regression.collect_labels(text_data(path).splits())
    for row in (0, 7, 14, 21, 28):  # in whichever split the row is
        path = csv(tmp_path / "w.csv", [*range(row), "n/a", *range(row, 29)])
        with pytest.raises(RunError, match=rf"'n/a' among .*w\.csv, line {row + 2}"):
            Regression.collect_labels(text_data(path).splits())
    numbers = [0.5, 1.25, 3.0, 4.75] * 10
    splits = text_data(csv(tmp_path / "f.csv", numbers)).splits()
    assert np.isclose(Regression.collect_labels(splits)["mean"], np.mean(splits.train.column("label")))


def test_names_of_splits_hold_for_folders_of_images_and_are_refused_where_data_has_its_own(tmp_path):
    pictures(tmp_path / "a", "train/x", "train/y", "val/x", "val/y", "final/x", "final/y", count=5)

    def found(**named):
        split = {"split": carving(**named)}
        return {name: part.size for name, part in image_data(tmp_path / "a", tmp_path, **split).found()[0].items()}

    assert found() == {"train": 10, "validation": 10}
    assert found(test="final") == {"train": 10, "validation": 10, "test": 10}
    assert found(validation="carve", test="val") == {"train": 10, "test": 10}
    with pytest.raises(RunError, match="nowhere does not exist"):
        found(test="nowhere")
    digits = LabelledDigits(**SIZES | {"split": carving(test="val")})
    with pytest.raises(RunError, match=r"data\.split\.test=val, but this data comes with its three splits"):
        digits.found()
