"""Labelled data: reading, splitting, small subsets, and the yaml that describes them."""

import inspect
from pathlib import Path

import hydra
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetuning.data.splits import Examples, Split, subset
from finetuning.data.text import LabelledText
from pretraining.cli.configuration import CONF
from pretraining.errors import RunError
from tests.finetuning.conftest import texts

HANDED = {"parts"}
TASKS = sorted(path.stem for path in (CONF / "task").glob("[!_]*.yaml"))


def carving(**changes: object) -> Split:
    return Split(
        **{"train": None, "validation": None, "test": None, "validation_fraction": 0.1, "test_fraction": 0.2, "seed": 0}
        | changes
    )


def table(path: Path, split: Split | None = None, label: str = "label") -> LabelledText:
    return LabelledText(
        path=str(path),
        text="text",
        text_pair=None,
        label=label,
        split=split or carving(),
        batch_size=4,
        eval_batch_size=4,
        workers=0,
    )


def examples(counts: dict[str, int]) -> Examples:
    labels = [name for name, count in counts.items() for _ in range(count)]
    return Examples.of(text=[f"{name} {n}" for n, name in enumerate(labels)], label=labels)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
def test_the_same_table_is_read_from_every_format(suffix: str, tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"text": ["one, two", 'say "so"', "línea\nnext"] * 10, "label": ["a", "b", "c"] * 10})
    path = tmp_path / f"t{suffix}"
    writers = {
        ".parquet": frame.to_parquet,
        ".csv": frame.to_csv,
        ".tsv": lambda p, index: frame.to_csv(p, sep="\t", index=index),
    }
    if suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        writers[suffix](path, index=False)
    found, _ = table(path).found()
    assert (
        found["train"].column("text") == frame["text"].tolist()
        and found["train"].column("label") == frame["label"].tolist()
    )


def test_a_datasets_directory_is_read_with_its_class_names(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    whole = datasets.Dataset.from_dict({"text": ["a", "b"] * 20, "label": [0, 1] * 20}, features=features)
    datasets.DatasetDict(train=whole, test=whole.select(range(6))).save_to_disk(str(tmp_path / "saved"))
    splits = table(tmp_path / "saved").splits()
    assert (
        splits.class_names == ["no", "yes"]
        and splits.test.size == 6
        and splits.train.size + splits.validation.size == 40
    )


def test_splits_are_found_by_their_usual_names(tmp_path: Path) -> None:
    for number, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "dev", "test")):
        pq.write_table(pa.table(texts(12 + number, number)), tmp_path / f"{name}.parquet")
    found, _ = table(tmp_path).found()
    assert {name: part.size for name, part in found.items()} == {"train": 25, "validation": 14, "test": 15}
    carved, _ = table(tmp_path, carving(validation="carve", test="dev")).found()
    assert {name: part.size for name, part in carved.items()} == {"train": 25, "test": 14}


def test_carved_splits_are_disjoint_stratified_and_the_same_for_every_run() -> None:
    whole = examples({"a": 100, "b": 50, "c": 10})
    first, again = (carving().complete({"train": whole}, None) for _ in range(2))
    parts = [set(part.column("text")) for part in (first.train, first.validation, first.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 160
    assert {name: first.test.column("label").count(name) for name in "abc"} == {"a": 20, "b": 10, "c": 2}
    assert first.test.column("text") == again.test.column("text")
    assert carving(seed=1).complete({"train": whole}, None).test.column("text") != first.test.column("text")


def test_a_rare_class_stays_in_training() -> None:
    splits = carving().complete({"train": examples({"a": 40, "b": 1})}, None)
    assert splits.train.column("label").count("b") == 1


def test_subsets_of_one_seed_nest_and_differ_between_seeds() -> None:
    whole = examples({"a": 40, "b": 20, "c": 30})
    few, more, other = (
        subset(whole, fraction=None, shots=shots, seed=seed) for shots, seed in ((4, 1), (8, 1), (4, 2))
    )
    assert set(few.column("text")) < set(more.column("text")) and set(few.column("text")) != set(other.column("text"))
    assert all(more.column("label").count(name) == 8 for name in "abc")
    tenth = subset(whole, fraction=0.1, shots=None, seed=1)
    assert [tenth.column("label").count(name) for name in "abc"] == [4, 2, 3]


def test_a_share_of_texts_is_one_of_all_though_some_occur_twice() -> None:
    """As transcripts do, which are no classes: of each at least one would be nearly all of them."""
    whole = examples({f"said {number}": 1 + number // 180 for number in range(200)})
    assert whole.size == 220 and subset(whole, fraction=0.1, shots=None, seed=1).size == 22
    assert carving().complete({"train": whole}, None).test.size == 44


def test_few_examples_of_many_classes_are_classes_where_they_are_numbered_or_asked_for() -> None:
    whole = examples({f"kind {number}": 1 + number % 2 for number in range(20)})
    assert sorted(subset(whole, fraction=None, shots=1, seed=1).column("label")) == sorted(set(whole.column("label")))
    numbered = Examples.of(text=["a"] * 30, label=[number % 20 for number in range(30)])
    assert sorted(subset(numbered, fraction=0.1, shots=None, seed=1).column("label")) == list(range(20))


def test_shots_of_real_numbers_are_an_error() -> None:
    whole = Examples.of(text=["a"] * 9, label=list(np.linspace(0, 1, 9)))
    with pytest.raises(RunError, match="labels that are not classes: give fraction instead"):
        subset(whole, fraction=None, shots=2, seed=0)
    assert subset(whole, fraction=0.34, shots=None, seed=0).size == 3


@pytest.mark.parametrize("name", TASKS)
def test_the_keys_of_a_task_are_constructor_parameters_both_ways(name: str) -> None:
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        config = hydra.compose("finetune", overrides=[f"task={name}"])
    for node in (config.task, config.task.inputs, config.data, config.data.split):
        parameters = set(inspect.signature(hydra.utils.get_class(node._target_)).parameters)
        assert {key for key in node if key != "_target_"} == parameters - HANDED
