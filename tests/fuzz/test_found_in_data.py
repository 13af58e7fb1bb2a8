"""What damage was once answered by a traceback, or by another's words without the file: one line that names it."""

import datetime
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from finetuning.data.audio import _transcripts
from finetuning.data.objects import LabelledObjects
from finetuning.data.tables import class_names, read_splits
from pretraining.audio.data.clips import decode as decode_sound
from pretraining.audio.data.files import table_clips, tables_of
from pretraining.data import hub
from pretraining.data.loader import StepLoader
from pretraining.data.tables import read_table
from pretraining.errors import RunError
from pretraining.image.data.decode import Decoding, decode
from pretraining.image.data.tables import read_parquet
from tests.data.test_files_of_splits import tables
from tests.finetuning.dense.made_up import drawn, png, write_tables, write_voc
from tests.finetuning.test_data import carving
from tests.fuzz import line_of

SIZES = {"batch_size": 4, "eval_batch_size": 4, "workers": 0}
DEEP = b"[" * 100_000


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "content"), [("a.json", DEEP), ("a.jsonl", b'{"text": ""}\n' + DEEP)])
def test_json_that_never_ends_is_named(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="is not JSON") as caught:
        read_table([tmp_path / name], ["text"])
    line_of(caught, name)


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_a_file_of_nothing_but_the_mark_of_its_encoding_is_empty(kind, tmp_path):
    (tmp_path / f"a.{kind}").write_bytes(b"\xef\xbb\xbf")
    assert read_table([tmp_path / f"a.{kind}"], ["text"]).size == 0


def test_labels_without_end_are_no_numbers(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("text,label\n" + "".join(f"text {row},{['2', '1e999'][row % 2]}\n" for row in range(8)))
    with pytest.raises(RunError, match="the value inf of type float: give text or numbers") as caught:
        tables(path).found()
    line_of(caught, "data.csv, line 3")


def test_dates_that_python_has_not_are_named(tmp_path):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"when": pa.array([2**52], pa.timestamp("ms"))}), path)
    with pytest.raises(ValueError, match="cannot be read as parquet") as caught:
        read_table([path], ["when"])
    line_of(caught, path)
    assert datetime.MAXYEAR < 2**52 / 1000 / 3600 / 24 / 366


@pytest.mark.parametrize(
    "stored", [b"[]", b"null", b'{"info": null}', b'{"info": {"features": {"label": {"_type": "ClassLabel"}}}}']
)
def test_what_datasets_stored_beside_a_table_may_say_nothing(stored):
    assert class_names({b"huggingface": stored}, "label") is None


def test_what_datasets_stored_beside_a_table_is_json():
    features = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}}}
    assert class_names({b"huggingface": json.dumps(features).encode()}, "label") == ["a", "b"]
    with pytest.raises(RunError, match="is not JSON") as caught:
        class_names({b"huggingface": b"{nonsense"}, "label")
    line_of(caught, "metadata")


@pytest.mark.parametrize("name", ["dataset_dict.json", "train/state.json", "train/dataset_info.json"])
def test_a_saved_data_set_whose_description_was_damaged_is_named(name, tmp_path):
    import datasets

    whole = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"], "label": [0]})})
    whole.save_to_disk(str(tmp_path / "saved"))
    for content in ("null", "[]", '{"x": 1}'):
        (tmp_path / "saved" / name).write_text(content)
        if content.startswith("{") and "info" in name:  # which has no key that must be there
            continue
        with pytest.raises(ValueError, match="cannot be read") as caught:
            hub.load(str(tmp_path / "saved"))
        line_of(caught, tmp_path / "saved")
        with pytest.raises(RunError, match="cannot be read") as caught:
            read_splits(str(tmp_path / "saved"), dict.fromkeys(("train", "validation", "test")), {"data.text": "text"})
        line_of(caught, tmp_path / "saved")


# -- pictures ----------------------------------------------------------------------------------------------------------


def cells_of(folder, form):
    """Write a table of four pictures, which are in files of their own where `form` is path."""
    contents = [png(scene.image.transpose(1, 2, 0)) for scene in drawn()["train"][:4]]
    cells: list = contents
    if form != "bytes":
        cells = [
            {"bytes": content if form == "both" else None, "path": f"{n}.png"} for n, content in enumerate(contents)
        ]
    (folder / "pictures").mkdir(exist_ok=True)
    for number, content in enumerate(contents):
        (folder / "pictures" / f"{number}.png").write_bytes(content)
    path = folder / "pictures" / f"train-{form}.parquet"
    pq.write_table(pa.table({"image": cells, "label": [0, 1, 0, 1]}), path)
    return path


def test_a_picture_is_read_from_the_file_that_its_row_names(tmp_path):
    paths = [cells_of(tmp_path, form) for form in ("path", "both", "bytes")]
    table = read_parquet({"train": paths}, image="image", label="label")["train"]
    images = [decode(table.encoded.read(row), table.encoded.names[row], Decoding(size=None)) for row in range(12)]
    assert all(np.array_equal(images[row], drawn()["train"][row % 4].image) for row in range(12))
    (tmp_path / "pictures" / "1.png").write_bytes(png(np.zeros((48, 48, 3), np.uint8)))
    changed = read_parquet({"train": paths}, image="image", label="label")["train"]
    assert changed.identity != table.identity  # or the pixels would be those of before
    (tmp_path / "pictures" / "1.png").unlink()
    with pytest.raises(RunError, match=r"names the file 1\.png, which cannot be read") as caught:
        table.encoded.read(1)
    line_of(caught, "train-path.parquet, row 1")


def test_dense_tables_may_name_files_too(tmp_path):
    def outside(columns):
        for row, cell in enumerate(columns["image"]):
            (tmp_path / f"{row}.png").write_bytes(cell["bytes"])
        columns["image"] = [{"bytes": None, "path": f"../{row}.png"} for row in range(len(columns["image"]))]

    columns = {"image": "image", "boxes": "objects.bbox", "classes": "objects.category", "masks": None, "name": None}
    settings = {"columns": columns, "boxes": "xyxy", "channels": 3, "masks": False, "class_names": None}
    data = LabelledObjects(path=str(write_tables(tmp_path / "d", outside)), split=carving(), **settings, **SIZES)
    train = data.splits().train
    assert np.array_equal(train.columns["image"][0], drawn()["train"][0].image)


def test_a_damaged_picture_is_named_without_an_address_in_memory():
    with pytest.raises(RunError, match=r"a.png is not a readable image \(cannot identify image file\)"):
        decode(b"no picture", "a.png", Decoding())
    with pytest.raises(ValueError, match=r"a.wav is not a readable recording \(Error opening: Format not recognised"):
        decode_sound(b"no sound", "a.wav")


class Broken:
    """A source whose rows cannot be read."""

    def count(self, epoch):
        return 8

    def read(self, epoch, rows):
        raise RunError("a.jpg is not a readable image (cut): repair or remove it")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_met_in_training_is_one_line_from_a_worker_too(workers):
    loader = StepLoader(Broken(), lambda examples, keys: {}, batch_size=4, max_steps=1, seed=0, workers=workers)
    with pytest.raises(RunError) as caught:
        next(iter(loader))
    assert str(caught.value) == "a.jpg is not a readable image (cut): repair or remove it"


def test_lists_of_names_are_read_like_any_text(tmp_path):
    root = write_voc(tmp_path / "d")
    names = root / "ImageSets" / "Main" / "train.txt"
    whole = names.read_bytes()
    columns = {"image": "image", "boxes": "objects.bbox", "classes": None, "masks": None, "name": None}
    settings = {"columns": columns, "boxes": "xyxy", "channels": 3, "masks": False, "class_names": None}
    names.write_bytes(b"\xef\xbb\xbf" + whole)
    data = LabelledObjects(path=str(root), split=carving(), **settings, **SIZES)
    assert data.found()[0]["train"].size == 6
    names.write_bytes(b"\xff" + whole)
    with pytest.raises(RunError, match="is not UTF-8") as caught:
        data.found()
    line_of(caught, names)


# -- recordings --------------------------------------------------------------------------------------------------------


def sound(kind="FLAC"):
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(8000) / 9).astype(np.float32), 8000, format=kind)
    return file.getvalue()


def test_a_header_that_announces_more_than_fits_in_memory_is_named():
    whole = sound()
    with pytest.raises(ValueError, match=r"a.flac (is not a readable recording|is cut short)"):
        decode_sound(whole[:21] + b"\xff" * 5 + whole[26:], "a.flac")  # 2**36 - 1 samples
    samples, rate = decode_sound(whole, "a.flac")
    assert samples.shape == (8000, 1) and rate == 8000


def test_a_rate_that_no_recording_has_is_named():
    whole = sound("WAV")
    with pytest.raises(ValueError, match=r"a.wav claims 1 samples per second, not 1000 to 1000000"):
        decode_sound(whole[:24] + b"\1\0\0\0" + whole[28:], "a.wav")


def test_transcripts_are_read_like_any_text(tmp_path):
    path = tmp_path / "all.trans.txt"
    path.write_bytes("\ufeff1 ONE\u2028MORE\n2 TWO\n".encode())
    assert _transcripts(tmp_path) == {tmp_path / "1": "ONE\u2028MORE", tmp_path / "2": "TWO"}
    path.write_bytes(b"1 ONE \xff\n")
    with pytest.raises(ValueError, match="is not UTF-8") as caught:
        _transcripts(tmp_path)
    line_of(caught, path)


def test_names_in_capitals_are_read_too(tmp_path):
    (tmp_path / "a.TXT").write_text("one\n")
    assert _transcripts(tmp_path) == {tmp_path / "a": "one"}
    pq.write_table(pa.table({"audio": [sound()]}), tmp_path / "TRAIN.PARQUET")
    assert tables_of(str(tmp_path), {}) == {"train": [tmp_path / "TRAIN.PARQUET"]}


def test_a_recording_is_read_from_the_file_that_its_row_names(tmp_path):
    (tmp_path / "a.flac").write_bytes(sound())
    cells = [{"bytes": None, "path": "a.flac"}, {"bytes": sound(), "path": None}, {"bytes": None, "path": "b.flac"}]
    pq.write_table(pa.table({"audio": cells}), tmp_path / "t.parquet")
    clips = table_clips(tmp_path / "t.parquet", "audio", "mean")
    assert np.array_equal(clips[0].samples(8000), clips[1].samples(8000))
    with pytest.raises(ValueError, match=r"names the file b\.flac, which cannot be read"):
        clips[2].samples(8000)
