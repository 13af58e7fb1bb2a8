"""The classical baseline learns from a run's own labels, and the table says what the intervals say."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from experiments.finetuning_check.__main__ import markdown
from experiments.finetuning_check.tfidf import STRENGTHS, baseline
from experiments.report.statistics import mean_interval
from experiments.study.graph import FINETUNING, Cell, Node, Weights
from tests.finetuning.conftest import texts, write


def node(*overrides: str, metric: str = "test/accuracy") -> Node:
    cell = Cell("task", "full", "all labels", metric)
    return Node(
        "n", FINETUNING, (*overrides, "handoff=none", "run_dir=none", "seed=1"), None, Weights("a", True, 1), 1, cell
    )


def test_topics_of_few_labels_are_told_apart_and_other_tasks_have_no_baseline(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "validation", "test")):
        write(tmp_path / "d" / f"{split}.parquet", texts(60, seed))
    value = baseline(node("task=text_classification", f"data.path={tmp_path / 'd'}", "shots=10"))
    assert value is not None and 0.6 < value <= 1  # chance is 1 in 3
    assert baseline(node("task=digits")) is None


def test_the_baseline_of_regression_is_scikit_learn_s_best_on_validation(tmp_path: Path) -> None:
    tables = {}
    for seed, split in enumerate(("train", "validation", "test")):
        table = texts(50, seed)
        tables[split] = (table["text"], [float(text.count("a")) + 0.1 * len(text) for text in table["text"]])
        write(tmp_path / "d" / f"{split}.parquet", {"text": tables[split][0], "label": tables[split][1]})
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)).fit(tables["train"][0])
    scored = []
    for strength in STRENGTHS:
        model = Ridge(alpha=1 / strength).fit(words.transform(tables["train"][0]), tables["train"][1])
        pair = [
            stats.pearsonr(tables[split][1], model.predict(words.transform(tables[split][0])))[0]
            for split in ("validation", "test")
        ]
        scored.append(pair)
    value = baseline(node("task=text_regression", f"data.path={tmp_path / 'd'}", metric="test/pearson"))
    assert value == pytest.approx(max(scored)[1])


def test_the_table_says_helps_hurts_or_neither() -> None:
    cells = [Cell(name, "full", "all labels", "test/accuracy") for name in ("up", "down", "same")]
    rows = []
    for cell, shift in zip(cells, (0.2, -0.2, 0.0), strict=True):
        twin = np.array([0.5, 0.52, 0.51])
        value = twin + shift + np.array([0.01, -0.01, 0.0])
        intervals = [mean_interval(list(values)) for values in (value, twin, value - twin)]
        rows.append(SimpleNamespace(cell=cell, value=intervals[0], twin=intervals[1], difference=intervals[2]))
    lines = markdown(rows, {cells[0]: mean_interval([0.4, 0.4, 0.4])}).splitlines()[2:]
    assert [line.split(" | ")[-1].rstrip(" |") for line in lines] == ["helps", "hurts", "no difference shown"]
    assert [line.split(" | ")[-2] for line in lines] == ["0.400", "–", "–"]
