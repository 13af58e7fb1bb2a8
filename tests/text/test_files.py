"""Local files: each format gives the same documents, and each unreadable one a single clear error."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from pretraining.text.corpus.prepare import Preparation
from pretraining.text.data.base import TextFiles
from pretraining.text.data.files import read_texts

TEXTS = [
    "First document. It has two sentences.",
    'Zweites Dokument, mit "Anführung".',
    "第三。",
    "Fourth,\nwith a line break.",
]


def files(path, **changes):
    return TextFiles(
        path=str(path), max_tokens=32, batch_size=2, eval_batch_size=2, workers=0, cache_dir="unused", **changes
    )


def all_texts(data):
    return sorted(text for split in ("train", "validation", "test") for text in data.texts(split))


def write(directory, kind):
    jsonl = "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in TEXTS).encode()
    path = directory / f"data.{kind}"
    if kind == "jsonl":
        path.write_bytes(jsonl)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(jsonl))
    elif kind == "jsonl.zst":
        zstandard = pytest.importorskip("zstandard", reason="the optional package zstandard is not installed")
        path.write_bytes(zstandard.compress(jsonl[:50]) + zstandard.compress(jsonl[50:]))
    elif kind == "csv":
        path.write_text("n,text\n" + "".join('1,"{}"\n'.format(text.replace('"', '""')) for text in TEXTS))
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"n": [1] * 4, "text": TEXTS}), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "csv", "parquet"])
def test_every_format_gives_the_same_documents(tmp_path, kind):
    assert all_texts(files(write(tmp_path, kind))) == sorted(TEXTS)


@pytest.mark.parametrize(
    ("layout", "documents"),
    [
        ("paragraphs", ["A b.\nC d.\n", "E f.\n"]),
        ("sentences", ["A b.\nC d.\n", "E f.\n"]),
        ("lines", ["A b.\n", "C d.\n", "E f.\n"]),
        ("files", ["A b.\nC d.\n \n\nE f.\n"]),
    ],
)
def test_the_layout_says_what_a_document_of_a_text_file_is(tmp_path, layout, documents):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfA b.\nC d.\n \n\nE f.\n")
    assert list(read_texts(path, column="text", layout=layout)) == documents


def test_lines_are_sentences_in_the_sentences_layout(tmp_path):
    (tmp_path / "a.txt").write_text("One. Two.\nThree\n")
    data = files(tmp_path / "a.txt", preparation=Preparation(layout="sentences", validation_share=0, test_share=0))
    assert list(data.documents("train")) == [["One. Two.", "Three"]]


def test_a_document_without_end_is_cut_so_that_memory_is_bounded(tmp_path):
    (tmp_path / "a.txt").write_text("word " * 9 + "\n" + ("x" * 1023 + "\n") * 3000)
    lengths = [len(text) for text in read_texts(tmp_path / "a.txt", column="text", layout="paragraphs")]
    assert len(lengths) == 3
    assert sum(lengths) == 46 + 3000 * 1024
    assert max(lengths) <= 2**20


def test_given_splits_are_taken_and_the_missing_one_is_cut_from_training(tmp_path):
    for name, count in (("train", 200), ("validation", 30)):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": f"{name} {i}"}) + "\n" for i in range(count))
        )
    paths = {"train": str(tmp_path / "train.jsonl"), "validation": str(tmp_path / "validation.jsonl")}
    data = TextFiles(path=paths, max_tokens=8, batch_size=1, eval_batch_size=1, workers=0, cache_dir="unused")
    train, validation, test = (list(data.texts(split)) for split in ("train", "validation", "test"))
    assert validation == [f"validation {i}" for i in range(30)]
    assert sorted(train + test) == sorted(f"train {i}" for i in range(200))
    assert 0 < len(test) < 30


def test_the_split_of_a_document_does_not_depend_on_where_it_stands(tmp_path):
    texts = [f"document {i}" for i in range(300)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in reversed(texts[:200])))
    first, second = (set(files(tmp_path / name).texts("test")) for name in ("a.jsonl", "b.jsonl"))
    assert second == first & set(texts[:200])
    assert second


def test_the_tokenizer_sample_takes_from_every_file(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("\n\n".join(f"{name}{name} {i}" for i in range(100)))
    sample = list(files(tmp_path).sample("train", 200))
    assert sum(len(text.encode()) for text in sample) == 200
    assert sum(text.startswith("aa") for text in sample) == pytest.approx(len(sample) / 2, abs=1)


def test_the_fingerprint_follows_content_of_small_files_and_not_their_times(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one two")
    before = files(path).fingerprint()
    path.write_text("one two")
    assert files(path).fingerprint() == before
    path.write_text("one six")
    assert files(path).fingerprint() != before
    assert files(path, preparation=Preparation(layout="lines")).fingerprint() != files(path).fingerprint()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, r"data\.path=.*none\.txt does not exist .*set data\.path"),
        ("none-*.txt", None, r"data\.path=.*none-\*\.txt matches no file"),
        ("empty.txt", b"", r"data\.path=.*empty\.txt empty \(0 bytes\)"),
        ("data.pdf", b"x", r"data\.pdf ends in \.pdf, but we take \.txt, \.jsonl, \.csv and \.parquet"),
        ("bad.txt", b"good line\nbad \xff\xfe line\n", r"bad\.txt is not UTF-8: byte 0xff at offset 14 .*iconv"),
        ("bad.jsonl", b'{"text": "ok"}\n{"text": "caf\xe9"}\n', r"bad\.jsonl is not UTF-8: byte 0xe9 at offset 28"),
        ("bad.jsonl", b'{"text": "ok"}\n{"text": \n', r"bad\.jsonl, line 2 is not JSON"),
        (
            "bad.jsonl",
            b'{"body": "ok", "id": 3}\n',
            r"line 1 has no column 'text', but 'body', 'id': set data\.preparation\.text_column",
        ),
        ("bad.jsonl", b'{"text": 3}\n', r"column 'text' holds int, not text"),
        ("bad.csv", b"body,id\nok,3\n", r"bad\.csv has no column 'text', but 'body', 'id'"),
        (
            "bad.parquet",
            b"PAR1 and then nothing",
            r"bad\.parquet cannot be read as parquet .*leave it out",
        ),
        (
            "cut.jsonl.gz",
            gzip.compress(b'{"text": "ok"}\n' * 999, mtime=0)[:-20],
            r"cut\.jsonl\.gz cannot be decompressed .*damaged or cut short",
        ),
        ("bad.txt.gz", b"no gzip at all", r"bad\.txt\.gz cannot be decompressed after 0 bytes"),
    ],
)
def test_bad_input_is_one_error_that_says_what_to_change(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        all_texts(files(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_truncated_parquet_file_and_a_missing_column_are_named(tmp_path):
    path = write(tmp_path, "parquet")
    with pytest.raises(ValueError, match=r"data\.parquet has no column 'body', but 'n', 'text'"):
        all_texts(files(path, preparation=Preparation(text_column="body")))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"data\.parquet cannot be read as parquet"):
        all_texts(files(path))


def test_a_cut_zstd_file_is_not_taken_for_a_whole_one(tmp_path):
    path = write(tmp_path, "jsonl.zst")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"cannot be decompressed .*damaged or cut short"):
        all_texts(files(path))


def test_a_directory_without_text_an_unknown_layout_and_impossible_shares_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is a directory without a text file"):
        files(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(
        ValueError, match=r"data\.preparation\.layout=pages: choose one of paragraphs, sentences, lines, files"
    ):
        files(tmp_path, preparation=Preparation(layout="pages"))
    with pytest.raises(ValueError, match=r"validation_share=0\.6 and test_share=0\.5"):
        Preparation(validation_share=0.6, test_share=0.5)
    with pytest.raises(ValueError, match=r"data\.path has the splits \['dev', 'train'\]"):
        TextFiles(
            path={"train": "a", "dev": "b"},
            max_tokens=8,
            batch_size=1,
            eval_batch_size=1,
            workers=0,
            cache_dir="unused",
        )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system_end_lines_of_text(tmp_path, end):
    lines = ["one two", "three", "", "four"]
    for last in ("", end):
        (tmp_path / "a.txt").write_bytes(("\ufeff" + end.join(lines) + last).encode())
        read = {
            layout: read_texts(tmp_path / "a.txt", column="text", layout=layout) for layout in ("lines", "paragraphs")
        }
        assert [text.rstrip("\r\n") for text in read["lines"]] == ["one two", "three", "four"]
        assert [text.split() for text in read["paragraphs"]] == [["one", "two", "three"], ["four"]]


def test_a_carriage_return_between_line_feeds_ends_nothing(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\rtwo\nthree\n")
    assert list(read_texts(tmp_path / "a.txt", column="text", layout="lines")) == ["one\rtwo\n", "three\n"]
