"""What is measured of both networks on data of one's own, in which nothing is set apart to learn from."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pretraining.errors import RunError
from tests.pairs.test_runs import finetune, pretrain

COLOURS = {"blue": (0, 0, 250), "green": (0, 250, 0), "red": (250, 0, 0)}
SHAPE = (32, 32)


@pytest.fixture(scope="module")
def last(tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("pairs"), "objective=siglip") / "handoff" / "last"


@pytest.fixture
def zero_shot(last, tmp_path):
    """Run task=zero_shot_images on a path; returns the metrics and the predictions."""

    def run(path, *words, name="run"):
        given = ["task=zero_shot_images", f"data.path={path}", f"data.cache_dir={tmp_path / 'cache'}", *words]
        metrics = finetune(last, tmp_path / name, *given)
        return metrics, pq.read_table(tmp_path / name / "predictions.parquet").to_pydict()

    return run


def shade(name, number):
    return Image.new("RGB", SHAPE, tuple(max(0, part - 3 * number) for part in COLOURS[name]))


def pictures(folder, count=4, names=tuple(COLOURS)):
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            shade(name, number).save(folder / name / f"{number}.png")
    return folder


def table(file, count=4):
    file.parent.mkdir(exist_ok=True)
    rows = []
    for name in COLOURS:
        for number in range(count):
            shade(name, number).save(file.parent / "one.png")
            rows.append({"image": {"bytes": (file.parent / "one.png").read_bytes(), "path": None}, "label": name})
    (file.parent / "one.png").unlink()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


@pytest.mark.parametrize("form", ["folder of test", "classes", "table", "folder of a table", "named"])
def test_pictures_without_others_to_learn_from_are_all_tested_on(form, zero_shot, tmp_path):
    words = []
    if form in ("classes", "folder of test"):
        path = tmp_path / "pictures"
        pictures(path / "test" if form == "folder of test" else path)
    elif form == "named":
        pictures(tmp_path / "pictures" / "unseen")
        path, words = tmp_path / "pictures", ["data.split.test=unseen"]
    else:
        file = table(tmp_path / "tables" / "test.parquet")
        path = file if form == "table" else file.parent
    metrics, rows = zero_shot(path, *words)
    assert rows["label"] == [name for name in COLOURS for _ in range(4)]
    assert metrics["test_examples"] == 12 and metrics["train_examples"] == 0
    assert not any(name.startswith("validation/") for name in metrics)


def test_other_splits_stay_what_they_are_and_add_their_classes(zero_shot, tmp_path):
    pictures(tmp_path / "pictures" / "train", 3)
    pictures(tmp_path / "pictures" / "val", 2, ("red", "blue"))
    pictures(tmp_path / "pictures" / "test", 5, ("red", "blue"))
    metrics, rows = zero_shot(tmp_path / "pictures")
    assert metrics["test_examples"] == 10 and "validation/accuracy" in metrics and len(rows["scores"][0]) == 3
    pictures(tmp_path / "more" / "val", 2, ("red", "blue"))
    pictures(tmp_path / "more" / "train", 3)
    with pytest.raises(RunError, match=r"got the splits train, validation and no test split: name one with data.split"):
        zero_shot(tmp_path / "more", name="again")
    metrics, _ = zero_shot(tmp_path / "more", "data.split.test=val", name="again")
    assert metrics["test_examples"] == 4


def test_what_learns_is_told_that_it_lacks_training_data_and_carves_what_is_whole(zero_shot, tmp_path):
    path = pictures(tmp_path / "pictures" / "test", 10).parent
    with pytest.raises(RunError, match=r"got test and no training examples: name them with data.split.train=, or set"):
        zero_shot(path, "mode=full")
    metrics, _ = zero_shot(path / "test", "data.split.test=carve", name="carved")
    assert metrics["test_examples"] == 6


def captioned(folder, name, count=30):
    """Write a table of as many pictures with two captions each."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        colour = tuple(COLOURS)[number % 3]
        shade(colour, number).save(folder / "pictures" / f"{number}.png")
        rows.append({"image": f"pictures/{number}.png", "text": [f"a {colour} one", f"number {number}"]})
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


@pytest.fixture
def retrieved(last, tmp_path):
    def run(path, *words, name="run"):
        given = ["task=captioned_files", f"data.path={path}", f"data.cache_dir={tmp_path / 'cache'}", *words]
        metrics = finetune(last, tmp_path / name, *given, "data.decoding.size=32")
        return metrics, pq.read_table(tmp_path / name / "predictions.parquet").to_pydict()

    return run


def test_captions_are_tested_on_where_pretraining_did_not_learn_from_them(retrieved, tmp_path):
    file = captioned(tmp_path / "photos", "captions.jsonl")
    metrics, rows = retrieved(file, "data.shares.test=0.2", "data.shares.validation=0.2")
    assert metrics["test_examples"] == len(rows["label"]) < 15 and "validation/image_to_text_recall_1" in metrics
    for number, path in enumerate((f"{{test: {file}}}", captioned(tmp_path / "others", "test.jsonl"))):
        metrics, rows = retrieved(path, name=f"whole-{number}")
        assert [own[1] for own in rows["label"]] == [f"number {number}" for number in range(30)]
        assert metrics["test_examples"] == 30 and metrics["train_examples"] == 0
