"""Read a study's run directories into plain tables; it takes neither torch nor Hydra."""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from experiments.study.graph import FINETUNING, PRETRAINING, Cell, Node, Source, Study
from experiments.study.runner import DONE, Journal
from pretraining.cache import replace_text

Values = dict[tuple[int, int], float]
"""(pretraining seed, finetuning seed) -> the metric."""


Hits = dict[tuple[int, int], np.ndarray]
"""(pretraining seed, finetuning seed) -> whether each test example was right."""


class Curve(NamedTuple):
    """One pretraining's history: each column of metrics.csv, nan where it has no entry."""

    arm: str
    seed: int
    columns: dict[str, list[float]]


class Results(NamedTuple):
    """What a study has produced so far, by run name."""

    study: Study
    states: dict[str, dict[str, Any]]
    metrics: dict[str, dict[str, Any]]
    configs: dict[str, dict[str, Any]]
    curves: list[Curve]

    def nodes(self, command: str) -> list[Node]:
        """The finished runs of a command."""
        return [n for n in self.study.nodes if n.command == command and n.name in self.metrics]

    def values(self, cell: Cell, arm: str, *, pretrained: bool) -> Values:
        """The cell's metric for an arm, or for the never-pretrained twin that stands beside it."""
        found: Values = {}
        for node in self.nodes(FINETUNING):
            if node.cell == cell and node.source.arm == arm and node.source.pretrained == pretrained:
                found[node.source.seed, node.seed] = self.metric(node)
        shared = self.study.twins.get(arm, arm)
        if not found and not pretrained and shared != arm:
            return self.values(cell, shared, pretrained=False)
        return found

    def metric(self, node: Node) -> float:
        """A finetuning's number in its own cell."""
        numbers = self.metrics[node.name]
        if node.cell is None or node.cell.metric not in numbers:
            wanted = node.cell.metric if node.cell else "a metric"
            raise ValueError(f"{node.name}/metrics.json has no {wanted!r}; it has {sorted(numbers)}")
        return float(numbers[node.cell.metric])

    def hits(self, cell: Cell, arm: str, *, pretrained: bool) -> Hits:
        """Per test example, 1 where the prediction is right, for cells that are judged by accuracy; empty for others."""
        found: Hits = {}
        if not cell.metric.endswith("/accuracy"):
            return found
        for node in self.nodes(FINETUNING):
            path = self.study.run_dir(node) / "predictions.parquet"
            if (node.cell, node.source.arm, node.source.pretrained) == (cell, arm, pretrained) and path.exists():
                right = _hits(path)
                if right is not None:
                    found[node.source.seed, node.seed] = right
        shared = self.study.twins.get(arm, arm)
        if not found and not pretrained and shared != arm:
            return self.hits(cell, shared, pretrained=False)
        return found

    def cells(self) -> list[Cell]:
        """The cells of the study, in its order."""
        return list(dict.fromkeys(n.cell for n in self.study.nodes if n.cell is not None))

    def arms(self, cell: Cell) -> list[str]:
        """The arms that the cell measures, in the study's order."""
        return list(dict.fromkeys(n.source.arm for n in self.study.nodes if n.cell == cell and n.source.pretrained))

    def unfinished(self) -> list[tuple[Node, dict[str, Any]]]:
        """Runs without numbers, with their last state."""
        return [(n, self.states[n.name]) for n in self.study.nodes if n.name not in self.metrics]


def save_study(study: Study) -> None:
    """Write study.json: the graph, so that a report needs neither the yaml nor Hydra."""
    content = study._asdict() | {
        "directory": str(study.directory),
        "nodes": [asdict(node) for node in study.nodes],
    }
    replace_text(study.directory / "study.json", json.dumps(content, indent=1))


def load_study(directory: Path) -> Study:
    """Read study.json back; the directory may have been moved."""
    content = json.loads((directory / "study.json").read_text())
    nodes = [
        Node(
            **{
                **raw,
                "overrides": tuple(raw["overrides"]),
                "source": Source(*raw["source"]),
                "cell": Cell(*raw["cell"]) if raw["cell"] else None,
            }
        )
        for raw in content["nodes"]
    ]
    return Study(**{**content, "directory": directory, "nodes": nodes})


def collect(study: Study) -> Results:
    """Read what every finished run has left, and how the others stand."""
    journal = Journal(study.directory)
    states = {node.name: journal.read(node) for node in study.nodes}
    metrics: dict[str, dict[str, Any]] = {}
    configs: dict[str, dict[str, Any]] = {}
    curves: list[Curve] = []
    for node in study.nodes:
        run_dir = study.run_dir(node)
        if states[node.name].get("status") != DONE or not (run_dir / "metrics.json").exists():
            continue
        metrics[node.name] = json.loads((run_dir / "metrics.json").read_text())
        if (run_dir / "config.yaml").exists():
            configs[node.name] = dict(flat(yaml.safe_load((run_dir / "config.yaml").read_text()) or {}))
        if node.command == PRETRAINING and (run_dir / "metrics.csv").exists():
            curves.append(Curve(node.source.arm, node.seed, read_history(run_dir / "metrics.csv")))
    return Results(study, states, metrics, configs, curves)


def read_history(path: Path) -> dict[str, list[float]]:
    """metrics.csv by column, nan where a row has no entry."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    return {column: [_number(row[column]) for row in rows] for column in columns}


def _number(text: str | None) -> float:
    # A file that is being written can end in half a row.
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan


def _hits(path: Path) -> np.ndarray | None:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path, columns=["label", "prediction"])
    labels, predictions = (column.to_pylist() for column in table.columns)
    if labels and isinstance(labels[0], list):  # a tag per word: every word is an example
        labels, predictions = ([word for row in rows for word in row] for rows in (labels, predictions))
    return (
        np.array([label == found for label, found in zip(labels, predictions, strict=True)], dtype=np.float64)
        if labels
        else None
    )


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A nested configuration as dotted keys."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def config_difference(config: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key -> (reference's value, this one's) where they differ; None for a key that is absent."""
    keys = sorted({*config, *reference})
    return {key: (reference.get(key), config.get(key)) for key in keys if config.get(key) != reference.get(key)}
