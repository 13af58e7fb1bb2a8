"""Files and tables, the same everywhere: one table of formats, one resolver of paths, one strict reader of csv."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetuning.inputs.text import TextInputs
from pretraining.data.columns import named_rows
from pretraining.errors import RunError
from tests.data.test_files_of_splits import tables, texts

HEAD = "text,label\n"
ROWS = "".join(f"text {row},{'ab'[row % 2]}\n" for row in range(20))


def labelled(path):
    found, _ = tables(path).found()
    return found["train"]


def documents(path):
    data = texts(path)
    return [text for split in ("train", "validation", "test") for text in data.texts(split)]


def predicted(path):
    return [one.columns["text"] for one in TextInputs(max_tokens=8).read(path, {"text": "text"}, None)]


READERS = {
    "labelled": lambda path: labelled(path).column("text"),
    "pretraining": documents,
    "predict": predicted,
}


@pytest.fixture(params=READERS)
def read(request):
    return READERS[request.param]


BROKEN = {
    "unquoted comma": (HEAD + ROWS + "one, two,a\n" + ROWS, r"line 22 .*3 fields.*2.*quote"),
    "too few fields": (HEAD + ROWS + "one\n" + ROWS, r"line 22 .*1 field.*2"),
    "unclosed quote": (HEAD + ROWS + '"never closed,a\n' + ROWS, r"line 22"),
    "backslash quote": (HEAD + ROWS + '"say \\"so\\"",a\n' + ROWS, r"line 22"),
    "duplicate columns": ("text,label,text\n" + "a,b,c\n" * 20, r"'text' twice"),
    "latin-1": ((HEAD + ROWS).encode() + "caf\u00e9,a\n".encode("latin-1"), r"not UTF-8.*0xe9"),
    "nothing but a header": (HEAD, r"."),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_csv_is_one_line_that_says_where(tmp_path, read, name):
    content, message = BROKEN[name]
    path = tmp_path / "data.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if name == "nothing but a header":
        return
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert "data.csv" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_empty_cell_of_csv_is_null_as_in_other_formats(tmp_path, capfd, kind):
    rows = [{"text": f"text {row}", "label": "ab"[row % 2]} for row in range(20)] + [{"text": None, "label": "a"}]
    path = tmp_path / f"data.{kind}"
    whole = "".join(f"{row['text'] or ''},{row['label']}\n" for row in rows)
    path.write_text(HEAD + whole if kind == "csv" else "".join(json.dumps(row) + "\n" for row in rows))
    line = 22 if kind == "csv" else 21
    with pytest.raises(
        RunError, match=rf"1 empty values in column 'text' \(data.text\), the first at .*, line {line}:"
    ):
        labelled(path)
    with pytest.raises(
        RunError, match=rf"got data.text=text, of which .*, line {line} has no value, but text is needed"
    ):
        predicted(path)
    found = tables(path)
    found.missing = "drop"
    assert sum(map(len, (part.column("text") for part in found.found()[0].values()))) == 20
    assert "dropped 1 of 21 rows with empty values" in capfd.readouterr().err
    assert len(documents(path)) == 20 and "1 of 21 texts are null and left out" in capfd.readouterr().err


def test_line_ends_of_every_system_and_quoted_line_breaks_are_read(tmp_path, read):
    expected = sorted(f"text {row}" for row in range(20))
    for end in ("\n", "\r\n", "\r"):
        path = tmp_path / "data.csv"
        path.write_bytes((HEAD + ROWS).replace("\n", end).encode())
        assert sorted(read(path)) == expected, repr(end)
    path.write_bytes(("\ufeff" + HEAD + ROWS + '"line\nbreak, and ""quotes""",a\n').encode())
    assert sorted(read(path)) == sorted([*expected, 'line\nbreak, and "quotes"'])


def content_of(kind):
    records = [{"text": f"text {row}", "label": "ab"[row % 2]} for row in range(20)]
    if kind in (".json", ".JSON"):
        return json.dumps(records, indent=1).encode()
    if kind.startswith((".jsonl", ".ndjson")):
        return "".join(json.dumps(record) + "\n" for record in records).encode()
    return (HEAD + ROWS).replace(",", "\t" if kind.lower().startswith(".tsv") else ",").encode()


@pytest.mark.parametrize("kind", [".csv", ".CSV", ".tsv", ".TSV", ".json", ".JSON", ".jsonl", ".csv.gz", ".jsonl.gz"])
def test_every_format_is_read_by_every_command(tmp_path, read, kind):
    content = content_of(kind)
    path = tmp_path / f"data{kind}"
    path.write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    assert sorted(read(path)) == sorted(f"text {row}" for row in range(20))


def test_names_with_brackets_home_and_lists_are_resolved_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a[1].csv").write_text(HEAD + ROWS)
    (tmp_path / "b.csv").write_text(HEAD + ROWS.replace("text", "more"))
    for count, path in ((20, "~/a[1].csv"), (20, str(tmp_path / "a[[]1].csv")), (40, f"{tmp_path}/*.csv")):
        data = tables(tmp_path)
        data.path = path
        assert data.found()[0]["train"].size == count
        assert len(documents(path)) == count
    both = [str(tmp_path / "a[1].csv"), "~/b.csv"]
    data.path = both
    assert data.found()[0]["train"].size == 40 and len(documents(both)) == 40


def test_columns_that_are_not_used_may_differ(tmp_path):
    for number, extra in enumerate(([1] * 10, ["x"] * 10)):
        columns = {"text": [f"{number} {row}" for row in range(10)], "label": ["a", "b"] * 5, "extra": extra}
        pq.write_table(pa.table(columns), tmp_path / f"part-{number}.parquet")
        lines = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        (tmp_path / f"part-{number}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert labelled(tmp_path).size == 40


def test_a_lone_surrogate_is_named_with_its_file_and_line(tmp_path, read):
    lines = [json.dumps({"text": f"text {row}", "label": "ab"[row % 2]}) for row in range(20)]
    lines[7] = '{"text": "half \\ud83d", "label": "a"}'
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"data\.jsonl, line 8.*surrogate"):
        read(tmp_path / "data.jsonl")


def test_hidden_files_are_skipped_and_counted_and_links_are_followed(tmp_path, capfd):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (data, data / "__MACOSX", data / ".ipynb_checkpoints", elsewhere):
        folder.mkdir()
        (folder / "a.csv").write_text(HEAD + ROWS)
    (data / "._a.csv").write_bytes(b"\x00\xff")
    (data / "linked").symlink_to(elsewhere)
    assert labelled(data).size == 40 and len(documents(data)) == 40
    assert "3 hidden" in capfd.readouterr().err


def test_a_cycle_of_links_is_refused(tmp_path):
    (tmp_path / "data" / "inner").mkdir(parents=True)
    (tmp_path / "data" / "a.csv").write_text(HEAD + ROWS)
    (tmp_path / "data" / "inner" / "again").symlink_to(tmp_path / "data")
    for read in (labelled, documents):
        with pytest.raises(ValueError, match=r"again .*links back"):
            read(tmp_path / "data")


def test_an_unlabelled_text_column_of_numbers_is_still_refused(tmp_path):
    pq.write_table(pa.table({"text": [1, 2], "label": ["a", "b"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="int"):
        documents(tmp_path / "a.parquet")


def test_words_for_nothing_are_texts_in_csv_in_every_command(tmp_path, read):
    words = ["nan", "NA", "null", "None", "NaN", "-"]
    path = tmp_path / "a.csv"
    path.write_text(HEAD + "".join(f"{word},{'ab'[row % 2]}\n" for row, word in enumerate(words * 4)))
    assert {text.strip() for text in read(path)} == set(words)


def test_ids_that_are_empty_are_counted_aloud_and_two_columns_of_them_are_refused(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("id,text\nnan,a\n,b\n7,c\n,d\n")
    names = [name for name, _, _ in named_rows(path, {"data.text": "text"})]
    assert names == ["nan", None, "7", None]
    assert capsys.readouterr().err == f"{path}: rows with an empty id, which is null in what is written: 2\n"
    path.write_text("id,id,text\na,b,c\n")
    with pytest.raises(RunError, match="has the column 'id' twice: rename one"):
        predicted(path)
