"""Predictions for new inputs: those of the test files are predictions.parquet, in order, by line and by name."""

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from finetuning.launch import load_run
from finetuning.predictions import cli, opened, predict, read_inputs
from pretraining import handoff
from pretraining.errors import RunError
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess
from tests.finetuning.conftest import Finetune, texts, write
from tests.finetuning.test_text_tasks import questions, splits, tagged

SHORT = ["task.inputs.max_tokens=32", "trainer.max_steps=2", "trainer.val_every=2", "optimizer.peak_lr=1e-2"]
COUNTS = (40, 12, 70)  # more than a batch of test examples


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command line; returns what it printed, or its error."""

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["predict", *words])
        capsys.readouterr()
        try:
            cli()
        except SystemExit as ended:
            assert ended.code == 2
            printed = capsys.readouterr()
            assert not printed.out and printed.err.splitlines()[-1].startswith("error: ")
            return printed.err
        return capsys.readouterr().out

    return run


def records(printed: str) -> list[dict]:
    return [json.loads(line) for line in printed.split("\n") if line]


@pytest.fixture
def sorter(finetune: Finetune, text_handoff: Path, topics: Path) -> Path:
    return finetune("task=text_classification", *SHORT, f"handoff={text_handoff}", f"data.path={topics}", "mode=knn")


def test_a_line_ends_where_it_ends_and_keeps_its_number(sorter: Path, tmp_path: Path, command) -> None:
    odd = ["bada\u2028befe", "keka\x0cmilo", "nu\x1cpa", "sore\x85tida ", " vupo"]
    config, task = load_run(sorter)
    table = read_inputs(task, config.data, str(write(tmp_path / "t.parquet", {"text": odd})))
    expected = [record["prediction"] for record in predict(task, table)]
    lines = [odd[0], "", *odd[1:3], "  ", *odd[3:]]
    for name, content in {
        "bom.txt": "\ufeff" + "\n".join(lines),
        "dos.txt": "\r\n".join(lines) + "\r\n",
        "mac.txt": "\r".join(lines),
    }.items():
        (tmp_path / name).write_bytes(content.encode())
        found = records(command(f"run_dir={sorter}", f"input={tmp_path / name}"))
        assert [record["text"] for record in found] == odd
        assert [record["id"] for record in found] == [1, 3, 4, 6, 7]
        assert [record["prediction"] for record in found] == expected
        assert all(set(record["scores"]) == {"sport", "trade", "weather"} for record in found)
        assert all(sum(record["scores"].values()) == pytest.approx(1, abs=1e-5) for record in found)
        assert all(max(r["scores"], key=r["scores"].get) == r["prediction"] for r in found)


def test_standard_input_is_read_like_a_file(sorter: Path, tmp_path: Path, command) -> None:
    (tmp_path / "lines.txt").write_text("bada befe\n\nkeka\n")
    before, given = os.dup(0), os.open(tmp_path / "lines.txt", os.O_RDONLY)
    os.dup2(given, 0)
    try:
        found = records(command(f"run_dir={sorter}", "input=-"))
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(given)
    assert [(record["id"], record["text"]) for record in found] == [(1, "bada befe"), (3, "keka")]


def scored(count: int, seed: int) -> dict[str, list]:
    table = texts(count, seed)
    return {"text": table["text"], "label": [(1 + sum(map(ord, text)) % 97) / 7 for text in table["text"]]}


def several(count: int, seed: int) -> dict[str, list]:
    table = texts(count, seed)
    return {"text": table["text"], "labels": [[label, "x"][: 1 + n % 2] for n, label in enumerate(table["label"])]}


def paired(count: int, seed: int) -> dict[str, list]:
    first, second = texts(count, seed), texts(count, seed + 9)
    return {"sentence1": first["text"], "sentence2": second["text"], "label": first["label"]}


TASKS = {
    "text_classification": texts,
    "text_pair_classification": paired,
    "text_multi_label": several,
    "text_regression": scored,
    "tagging": tagged,
    "question_answering": questions,
}


@pytest.mark.parametrize("task", TASKS)
def test_the_test_file_is_predicted_as_the_run_predicted_it(
    task: str, finetune: Finetune, text_handoff: Path, tmp_path: Path, command
) -> None:
    data = splits(tmp_path / "d", TASKS[task], COUNTS)
    windows = ["task.inputs.overlap=4"] if task == "question_answering" else []
    given = [f"task={task}", *SHORT, *windows, f"handoff={text_handoff}", f"data.path={data}"]
    run = finetune(*given, "data.eval_batch_size=16")
    saved, test = pq.read_table(run / "predictions.parquet").to_pydict(), pq.read_table(data / "test.parquet")
    roles = [name for name in test.column_names if name not in ("label", "labels", "tags", "answers")]
    lines = tmp_path / "test.JSONL"
    lines.write_text("".join(json.dumps(row) + "\n" for row in test.to_pylist()))
    for place, first in ((data / "test.parquet", 0), (lines, 1)):
        found = records(command(f"run_dir={run}", f"input={place}"))
        if task == "text_regression":
            assert np.allclose([record["prediction"] for record in found], saved["prediction"], atol=1e-5)
        else:
            assert [record["prediction"] for record in found] == saved["prediction"]
        assert [record["id"] for record in found] == list(range(first, first + COUNTS[2]))
        shown = [{name: value for name, value in record.items() if name in test.column_names} for record in found]
        assert task == "text_pair_classification" or shown == test.select(roles).to_pylist()
        if task in ("text_classification", "text_multi_label", "text_pair_classification"):
            each = [list(record["scores"].values()) for record in found]
            assert np.allclose(each, saved["scores"], atol=1e-5)
    assert len(saved["prediction"]) == 70


@pytest.fixture
def cropping_handoff(tmp_path: Path) -> Path:
    """Make a hand-off whose preprocessing takes three quarters of an image, as those of torchvision's weights do."""
    torch.manual_seed(0)
    backbone = TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=8, stem="cifar", in_channels=3)
    preprocess = ImagePreprocess(size=12, channels=3, mean=[0.4] * 3, std=[0.3] * 3, crop=0.75)
    towers = IMAGE.towers(backbone, preprocess)
    return handoff.write(tmp_path / "h" / "step-0000001", towers=towers, origin={"objective": "none"}, heads={})


def photos(root: Path, sizes: list[tuple[int, int]]) -> Path:
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 8), ("test", 20)):
        for number in range(count):
            width, height = sizes[number % len(sizes)]
            path = root / split / ("dark", "light")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 160, (height, width, 3)) + 90 * (number % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@pytest.mark.parametrize("size", ["null", "28"])
def test_images_are_prepared_as_in_evaluation(
    size: str, finetune: Finetune, cropping_handoff: Path, tmp_path: Path, command
) -> None:
    sizes = [(20, 20)] if size == "null" else [(40, 31), (25, 33), (28, 28)]
    folder = photos(tmp_path / "photos", sizes)
    given = [f"handoff={cropping_handoff}", f"data.path={folder}", f"data.decoding.size={size}", "mode=linear_probe"]
    run = finetune("task=image_classification", *given, f"data.cache_dir={tmp_path / 'c'}", "data.eval_batch_size=8")
    saved = pq.read_table(run / "predictions.parquet").to_pydict()
    found = records(command(f"run_dir={run}", f"input={folder / 'test'}"))
    files = sorted((folder / "test").rglob("*.png"))
    assert [record["file"] for record in found] == [str(file.relative_to(folder / "test")) for file in files]
    assert [record["prediction"] for record in found] == saved["prediction"]
    assert np.allclose([list(record["scores"].values()) for record in found], saved["scores"], atol=1e-5)
    table = {"image": [{"bytes": file.read_bytes(), "path": file.name} for file in files]}
    rows = records(command(f"run_dir={run}", f"input={write(tmp_path / 'test.parquet', table)}"))
    assert [(row["id"], row["scores"]) for row in rows] == [(n, record["scores"]) for n, record in enumerate(found)]
    one = records(command(f"run_dir={run}", f"input={files[3]}"))
    assert [record["file"] for record in one] == [files[3].name]
    assert np.allclose(list(one[0]["scores"].values()), saved["scores"][3], atol=1e-5)


def test_images_of_several_sizes_are_predicted_each_by_itself(
    finetune: Finetune, cropping_handoff: Path, tmp_path: Path, command
) -> None:
    folder = photos(tmp_path / "photos", [(20, 20)])
    given = [f"handoff={cropping_handoff}", f"data.path={folder}", "mode=knn", f"data.cache_dir={tmp_path / 'c'}"]
    run = finetune("task=image_classification", *given)
    mixed = photos(tmp_path / "mixed", [(20, 20), (30, 22), (20, 20)]) / "test"
    together = {record["file"]: record for record in records(command(f"run_dir={run}", f"input={mixed}"))}
    assert len(together) == 20
    for name in sorted(together)[:4]:
        (alone,) = records(command(f"run_dir={run}", f"input={mixed / name}"))
        assert alone["scores"] == pytest.approx(together[name]["scores"], abs=1e-5)


def test_every_format_says_the_same(sorter: Path, topics: Path, tmp_path: Path, command) -> None:
    rows = pq.read_table(topics / "test.parquet").to_pydict()["text"][:9]
    with (tmp_path / "in.CSV").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["other", "text"])
        writer.writerows([[n, f'{text}, and "more"\nlines'] for n, text in enumerate(rows)])
    given = [f"run_dir={sorter}", f"input={tmp_path / 'in.CSV'}"]
    printed = records(command(*given))
    assert [record["id"] for record in printed] == list(range(2, 20, 2))  # where each begins
    for name in ("out.jsonl", "out.csv", "out.PARQUET"):
        assert command(*given, f"output={tmp_path / name}") == ""
    assert records((tmp_path / "out.jsonl").read_text("utf-8")) == printed
    assert pq.read_table(tmp_path / "out.PARQUET").to_pylist() == printed
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [row["text"] for row in read] == [record["text"] for record in printed]
    assert [row["prediction"] for row in read] == [record["prediction"] for record in printed]
    assert [float(row["scores.trade"]) for row in read] == [record["scores"]["trade"] for record in printed]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".out", "out"))) == [
        "out.PARQUET",
        "out.csv",
        "out.jsonl",
    ]


def test_a_table_s_types_are_those_of_all_its_rows(tmp_path: Path) -> None:
    rows = [{"id": n, "prediction": [], "scores": None} for n in range(1500)]
    rows += [{"id": n, "prediction": ["a, b"], "scores": 0.5} for n in range(1500, 1600)]
    for name in ("t.parquet", "t.csv"):
        with opened(str(tmp_path / name), "-") as write_rows:
            write_rows(iter(rows))
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == rows
    with (tmp_path / "t.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert (json.loads(last["prediction"]), last["scores"]) == (["a, b"], "0.5")
    with (
        pytest.raises(RunError, match=r"got the ids 0 and 'x', of which one column cannot hold both: write all as"),
        opened(str(tmp_path / "m.parquet"), "-") as write_rows,
    ):
        write_rows(iter([*rows, {"id": "x", "prediction": [], "scores": None}]))


def test_a_run_in_half_precision_predicts_in_it(finetune: Finetune, text_handoff: Path, topics: Path, command) -> None:
    given = ["task=text_classification", *SHORT, f"handoff={text_handoff}", f"data.path={topics}"]
    run = finetune(*given, "trainer.precision=bf16", "data.eval_batch_size=60")
    saved = np.array(pq.read_table(run / "predictions.parquet")["scores"].to_pylist())
    found = records(command(f"run_dir={run}", f"input={topics / 'test.parquet'}"))
    assert np.array_equal([list(record["scores"].values()) for record in found], saved)
    config, task = load_run(run)
    task.precision = "fp32"
    other = predict(task, read_inputs(task, config.data, str(topics / "test.parquet")))
    assert not np.array_equal([list(record["scores"].values()) for record in other], saved)


def test_where_it_goes_is_checked_before_the_work(tmp_path: Path, command) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "in.txt").write_text("bada\n")
    given = [f"run_dir={tmp_path / 'no-run'}", f"input={tmp_path / 'in.txt'}"]
    for output, says in {
        f"{tmp_path}/none/out.jsonl": "no directory",
        f"{tmp_path}/folder.csv": "directory",
        f"{tmp_path}/out.xlsx": "give a name that ends in .jsonl, .csv, .parquet",
    }.items():
        error = command(*given, f"output={output}")
        assert f"output={output}" in error and says in error and error.count("\n") == 1
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "out.xlsx").exists()


def test_what_cannot_be_read_is_one_line_and_leaves_what_was_there(sorter: Path, tmp_path: Path, command) -> None:
    (tmp_path / "latin.txt").write_bytes("bada\ncaf\xe9\n".encode("latin-1"))
    (tmp_path / "open.csv").write_text('text\nbada\n"kefe\n')
    (tmp_path / "header.csv").write_text("text\n")
    (tmp_path / "blank.txt").write_text("\n  \n")
    (tmp_path / "lists.jsonl").write_text('{"text": "bada"}\n{"text": ["bada"]}\n')
    (tmp_path / "empty").mkdir()
    write(tmp_path / "numbers.parquet", {"text": [1, 2]})
    write(tmp_path / "nulls.parquet", {"text": ["bada", None]})
    write(tmp_path / "other.parquet", {"body": ["bada"]})
    kept = tmp_path / "kept.jsonl"
    kept.write_text("before\n")
    for name, says in {
        "latin.txt": "not UTF-8",
        "open.csv": "line 3",
        "header.csv": "no examples",
        "blank.txt": "no examples",
        "lists.jsonl": "line 2 has in 'text' the value ['bada']",
        "empty": "is a directory without a text file",
        "numbers.parquet": "row 0 has in 'text' the value 1",
        "nulls.parquet": "nulls.parquet, row 1 has no value, but text is needed: fill or drop",
        "other.parquet": "got data.text=text, but the data has the columns body",
        "missing.txt": "does not exist",
    }.items():
        error = command(f"run_dir={sorter}", f"input={tmp_path / name}", f"output={kept}")
        assert says in error, (name, error)
        assert error.splitlines()[-1].startswith("error: ") and "Traceback" not in error
        assert kept.read_text() == "before\n" and not list(tmp_path.glob(".*"))


def test_what_was_cut_is_told_once_for_all_that_was_read(sorter: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    rows = ["bada " * 40 if row % 2 else "bada" for row in range(2600)]  # read in three parts of 1,024
    given = write(tmp_path / "long.parquet", {"text": rows})
    monkeypatch.setattr(sys, "argv", ["predict", f"run_dir={sorter}", f"input={given}", f"output={tmp_path / 'o.csv'}"])
    cli()
    told = [line for line in capsys.readouterr().err.splitlines() if "were cut" in line]
    assert told == ["1300 of 2600 texts have more than task.inputs.max_tokens=32 tokens and were cut"]


def test_inputs_are_read_as_they_are_needed(sorter: Path) -> None:
    config, task = load_run(sorter)
    rows, taken = read_inputs(task, config.data, str(Path(config.data.path) / "test.parquet")), []

    def counted():
        for row in rows:
            taken.append(row)
            yield row

    assert next(predict(task, counted(), 2)) and len(taken) <= 33


def test_no_score_is_infinite(finetune: Finetune, text_handoff: Path, tmp_path: Path, command) -> None:
    data = splits(tmp_path / "d", questions, COUNTS)
    given = ["task=question_answering", *SHORT, "task.inputs.overlap=4", f"handoff={text_handoff}"]
    run = finetune(*given, f"data.path={data}")
    place = write(tmp_path / "q.parquet", {"question": ["what", "what"], "context": ["", "bada kefe"]})
    printed = command(f"run_dir={run}", f"input={place}")
    assert "Infinity" not in printed and "NaN" not in printed
    assert records(printed)[0]["scores"] is None and records(printed)[1]["scores"] is not None
