"""The presets on a few rows of the real data sets, with the columns and the texts that these really have.

Made-up twins of every task are in test_text_tasks.py, test_runs.py, test_generation.py and test_images.py.
"""

import json
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.finetuning.conftest import Finetune
from tests.finetuning.test_generation import writers  # noqa: F401  # a fixture

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data; the twins on made-up data always run"),
]
ROWS = {"train": 200, "validation": 40, "test": 60, "test_2016_flickr": 60}
CLASSES = {
    "trec": "coarse_label",
    "banking77": "label",
    "clinc150": "label",
    "ag_news": "label",
    "cola": "label",
    "rte": "label",
    "sick": "label",
}
FOLDERS = {
    "ag_news": "ag_news_7600",
    "ud_pos": "ud_english_ewt",
    "broad_twitter": "broad_twitter_ner",
    "squad": "squad_v1_dev",
    "squad_v2": "squad_v2_dev",
}
METRICS = {
    "cola": "mcc",
    "sick_relatedness": "pearson",
    "broad_twitter": "entity_f1",
    "squad": "f1",
    "squad_v2": "f1_unanswerable",
    "multi30k": "bleu",
    "scitldr": "rougeL",
}


def few(source: Path, target: Path, label: str | None) -> Path:
    """Copy the first rows of each split, of classes that training has."""
    target.mkdir()
    known = None
    for split, count in ROWS.items():
        if not (source / f"{split}.parquet").exists():
            continue
        table = pq.read_table(source / f"{split}.parquet")
        if label is not None:
            step = max(1, table.num_rows // count)  # sorted by class, some of them
            table = table.take(list(range(0, table.num_rows, step)))
            known = table[label][:count].unique() if known is None else known
            table = table.filter(
                pc.is_in(table[label], known.combine_chunks() if hasattr(known, "combine_chunks") else known)
            )
        pq.write_table(table.slice(0, count), target / f"{split}.parquet")
    return target


@pytest.mark.parametrize("task", [*CLASSES, "sick_relatedness", "ud_pos", "broad_twitter", "squad", "squad_v2"])
def test_a_preset_needs_nothing_but_its_path(task: str, finetune: Finetune, text_handoff: Path, tmp_path: Path) -> None:
    data = few(DATA / FOLDERS.get(task, task.removesuffix("_relatedness")), tmp_path / "few", CLASSES.get(task))
    lengths = ["task.inputs.max_tokens=64", *(["task.inputs.overlap=8"] if "squad" in task else [])]
    run = finetune(
        f"task={task}",
        *lengths,
        f"handoff={text_handoff}",
        f"data.path={data}",
        "trainer.max_steps=2",
        "trainer.val_every=2",
    )
    values, name = json.loads((run / "metrics.json").read_text()), METRICS.get(task, "accuracy")
    assert values[f"test/{name}"] <= 1 and (f"test/{name}_low" in values) == (task != "squad_v2")
    assert pq.read_table(run / "predictions.parquet").num_rows == values["test_examples"] > 10


@pytest.mark.parametrize("task", ["multi30k", "scitldr"])
def test_a_preset_of_generation_needs_nothing_but_its_path(
    task: str,
    finetune: Finetune,
    writers: dict[str, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    data = few(DATA / task, tmp_path / "few", None)
    short = [
        "task.inputs.max_tokens=48",
        "task.inputs.max_target_tokens=32",
        "task.decoding.max_new_tokens=8",
        "task.decoding.num_beams=2",
    ]
    run = finetune(
        f"task={task}",
        *short,
        f"handoff={writers['bart']}",
        f"data.path={data}",
        "trainer.max_steps=2",
        "trainer.val_every=2",
    )
    values, rows = (
        json.loads((run / "metrics.json").read_text()),
        pq.read_table(run / "predictions.parquet").to_pydict(),
    )
    assert values[f"test/{METRICS[task]}"] >= 0 and len(rows["source"]) == 60
    assert (max(map(len, rows["label"])) > 1) == (task == "scitldr")
