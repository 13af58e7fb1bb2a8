"""One clear error before anything is trained or written."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pretraining.errors import HandoffError, RunError
from tests.finetuning.conftest import Finetune, texts, write
from tests.forked import run_module


@pytest.fixture
def refused(finetune: Finetune, text_handoff: Path, tmp_path: Path):
    """Run, expect one error whose text matches, and nothing written."""

    def check(columns: dict[str, list] | None, message: str, *overrides: str) -> None:
        common = ["task=text_classification", "task.inputs.max_tokens=32", "mode=knn"]
        if not any(override.startswith("handoff=") for override in overrides):
            common.append(f"handoff={text_handoff}")
        if columns is not None:
            common.append(f"data.path={write(tmp_path / 'table.parquet', columns)}")
        with pytest.raises((RunError, HandoffError), match=message):
            finetune(*common, *overrides)
        assert not (tmp_path / "run").exists()

    return check


def test_a_missing_label_column_lists_the_columns(refused) -> None:
    refused(texts(30, 0), "data.label=topic, but the data has the columns text, label", "data.label=topic")


def test_a_missing_text_column_lists_the_columns(refused) -> None:
    refused(texts(30, 0), "data.text=sentence, but the data has the columns text, label", "data.text=sentence")


def test_text_that_is_no_text_is_refused(refused) -> None:
    refused(
        {"text": [1, 2, 3] * 10, "label": ["a", "b", "c"] * 10}, "data.text=text, a column of int64, but text is needed"
    )


def test_a_batch_that_does_not_divide_is_refused(refused) -> None:
    steps = ("mode=full", "trainer.accumulate=3", "data.batch_size=8")
    refused(texts(30, 0), r"data.batch_size=8 does not divide .* trainer.accumulate=3: set data.batch_size to", *steps)


def test_one_class_only_is_refused(refused) -> None:
    refused({"text": ["a b"] * 30, "label": ["same"] * 30}, "one class only .'same'. in the training labels")


def test_real_numbers_are_no_classes(refused) -> None:
    refused(
        {"text": ["a b"] * 30, "label": [i / 7 for i in range(30)]}, "real numbers as labels .* task=text_regression"
    )


def test_empty_labels_are_counted(refused) -> None:
    refused({"text": ["a b"] * 30, "label": ["x", "y", None] * 10}, "10 empty values in column 'label'")


def test_labels_that_training_lacks_are_listed(refused, tmp_path: Path) -> None:
    write(tmp_path / "data" / "train.parquet", texts(30, 0, kinds=2))
    write(tmp_path / "data" / "test.parquet", texts(30, 1, kinds=3))
    refused(
        None,
        "1 labels in test that training has no example of .'weather'; training has 'sport', 'trade'",
        f"data.path={tmp_path / 'data'}",
    )


def test_an_empty_split_is_refused(refused, tmp_path: Path) -> None:
    write(tmp_path / "data" / "train.parquet", texts(30, 0))
    pq.write_table(
        pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}),
        tmp_path / "data" / "test.parquet",
    )
    refused(None, "no examples in test", f"data.path={tmp_path / 'data'}")


def test_more_shots_than_there_are_is_refused(refused) -> None:
    refused(
        texts(30, 0),
        r"shots=50, but the class '\w+' has \d+ training examples: give shots between 1 and \d+",
        "shots=50",
    )


def test_shared_out_weights_are_for_pretraining(refused) -> None:
    refused(
        texts(30, 0),
        "trainer=fsdp is for pretraining: finetune with trainer=ddp",
        "trainer=fsdp",
        "trainer.accelerator=cpu",
    )


def test_fraction_and_shots_exclude_each_other(refused) -> None:
    refused(texts(30, 0), "fraction=0.5 and shots=2: give one", "shots=2", "fraction=0.5")


def test_a_fraction_above_one_is_refused(refused) -> None:
    refused(texts(30, 0), "fraction=2", "fraction=2")


def test_an_image_handoff_cannot_read_text(refused, image_handoff: Path) -> None:
    refused(texts(30, 0), "is for image, but task=Classification reads text", f"handoff={image_handoff}")


def test_too_many_tokens_for_the_backbone_are_refused(refused) -> None:
    refused(
        texts(30, 0), "task.inputs.max_tokens=100, but this backbone has positions for 64", "task.inputs.max_tokens=100"
    )


def test_an_unknown_metric_to_select_by_lists_the_known_ones(refused) -> None:
    refused(
        texts(30, 0), "task.select=bleu, which this task does not measure: choose one of .*accuracy", "task.select=bleu"
    )


def test_a_path_that_does_not_exist_is_named(refused, tmp_path: Path) -> None:
    refused(None, "nowhere, which does not exist", f"data.path={tmp_path / 'nowhere'}")


def test_a_directory_without_tables_is_refused(refused, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    refused(None, "holds no file ending in .parquet", f"data.path={tmp_path / 'data'}")


def test_a_truncated_parquet_file_is_named(refused, tmp_path: Path) -> None:
    path = write(tmp_path / "data" / "train.parquet", texts(30, 0))
    path.write_bytes(path.read_bytes()[:200])
    refused(None, r"train\.parquet cannot be read as parquet", f"data.path={tmp_path / 'data'}")


def test_bad_utf8_is_named(refused, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(b"text,label\nab\xff\xfecd,x\n" * 20)
    refused(None, r"table\.csv|data.text=text, a column of binary", f"data.path={tmp_path / 'table.csv'}")


def test_a_split_name_that_is_not_there_lists_the_files(refused, topics: Path) -> None:
    refused(
        None,
        "data.split.test=final, but .* holds test.parquet, train.parquet, validation.parquet",
        f"data.path={topics}",
        "data.split.test=final",
    )


def test_an_unknown_key_and_a_missing_one_are_named(finetune: Finetune, text_handoff: Path, topics: Path) -> None:
    with pytest.raises(RunError, match="lable"):
        finetune("task=text_classification", f"handoff={text_handoff}", f"data.path={topics}", "data.lable=x")
    with pytest.raises(RunError, match=r"no value for data.path, handoff: give data.path=... handoff=..."):
        finetune("task=text_classification")


def test_a_directory_that_holds_a_run_is_refused(finetune: Finetune, text_handoff: Path, topics: Path) -> None:
    common = [
        "task=text_classification",
        "task.inputs.max_tokens=32",
        "mode=knn",
        f"handoff={text_handoff}",
        f"data.path={topics}",
    ]
    run = finetune(*common)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="already holds a run"):
        finetune(*common)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_the_command_line_ends_with_one_line_and_code_two(tmp_path: Path) -> None:
    done = run_module("finetuning", f"handoff={tmp_path}", "task=docs_topic", f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert (
        done.stderr.startswith("error: ") and "no handoff.json there" in done.stderr and "Traceback" not in done.stderr
    )
    assert len(done.stderr.strip().splitlines()) == 1
