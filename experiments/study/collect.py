"""Read a study's run directories into plain tables; imports neither torch nor Hydra."""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import yaml

from experiments.study.graph import FINETUNING, PRETRAINING, Cell, Node, Study, Weights
from experiments.study.majority import read_majority
from experiments.study.references import read_references, reference_key
from experiments.study.runner import Journal
from experiments.study.spec import StudyError
from finetuning.metrics.reference import Majority
from pretraining.cache import read_object, replace_text
from pretraining.runs.renamed import current

FORMAT = 2  # of study.json: another release names runs otherwise
Value = TypeVar("Value")
BySeeds = dict[tuple[int, int], Value]
"""(pretraining seed, finetuning seed) -> what is known of that run."""
Values = BySeeds[float]


class Curve(NamedTuple):
    """One pretraining's history: each column of metrics.csv, nan where it has no entry."""

    arm: str
    seed: int
    unit: str  # the column that counts what its modality does: tokens, images
    columns: dict[str, list[float]]


class Results(NamedTuple):
    """What a study has produced so far, by run name."""

    study: Study
    states: dict[str, dict[str, Any]]
    metrics: dict[str, dict[str, Any]]
    configs: dict[str, dict[str, Any]]
    units: dict[str, str]
    devices: dict[str, str]
    curves: list[Curve]
    references: dict[str, dict[str, Any]]

    def nodes(self, command: str) -> list[Node]:
        """List the finished runs of a command."""
        return [n for n in self.study.nodes if n.command == command and n.name in self.metrics]

    def values(self, cell: Cell, arm: str, *, pretrained: bool) -> Values:
        """Read the cell's metric for an arm, or for the never-pretrained twin that stands beside it."""
        return self._by_seeds(cell, arm, pretrained, self.metric)

    def hits(self, cell: Cell, arm: str, *, pretrained: bool) -> BySeeds[np.ndarray]:
        """Read per test example 1 where the prediction is right; empty for cells that accuracy does not judge."""
        if not cell.column.endswith("/accuracy"):
            return {}
        run_dir = self.study.run_dir
        return self._by_seeds(cell, arm, pretrained, lambda node: _hits(run_dir(node) / "predictions.parquet"))

    def _by_seeds(self, cell: Cell, arm: str, pretrained: bool, read: Callable[[Node], Value | None]) -> BySeeds[Value]:
        found: BySeeds[Value] = {}
        for node in self.nodes(FINETUNING):
            asked = (node.cell, node.source.arm, node.source.pretrained) == (cell, arm, pretrained)
            if asked and (value := read(node)) is not None:
                found[node.source.seed, node.seed] = value
        shared = self.study.twins.get(arm, arm)
        if not found and not pretrained and shared != arm:
            return self._by_seeds(cell, shared, False, read)
        return found

    def metric(self, node: Node) -> float | None:
        """Read a finetuning's number in its own cell; None where it did not measure that."""
        value = self.metrics[node.name].get(node.cell.column) if node.cell else None
        return float(value) if isinstance(value, int | float) else None

    def majorities(self, cell: Cell, arm: str) -> BySeeds[Majority]:
        """Read what constant answers would give on the test examples of an arm's runs."""
        return self._by_seeds(cell, arm, True, lambda node: read_majority(self.study.run_dir(node)))

    def classical(self, cell: Cell) -> tuple[str, list[float]] | None:
        """Read what the classical reference reached, by seed, with its name; None where there is none."""
        seeds = dict.fromkeys(n.seed for n in self.study.nodes if n.cell == cell and n.source.pretrained)
        found = [self.references.get(reference_key(cell, seed), {}) for seed in seeds]
        values = [fitted["numbers"][cell.column] for fitted in found if cell.column in fitted.get("numbers", {})]
        return (next(fitted["name"] for fitted in found if "name" in fitted), values) if values else None

    def cells(self) -> list[Cell]:
        """List the cells of the study, in its order."""
        return list(dict.fromkeys(n.cell for n in self.study.nodes if n.cell is not None))

    def arms(self, cell: Cell) -> list[str]:
        """List the arms that the cell measures, in the study's order."""
        return list(dict.fromkeys(n.source.arm for n in self.study.nodes if n.cell == cell and n.source.pretrained))


def save_study(study: Study) -> None:
    """Write study.json: the graph, so that a report needs neither the yaml nor Hydra."""
    nodes = [asdict(node) for node in study.nodes]
    content = study._asdict() | {"directory": str(study.directory), "nodes": nodes, "format": FORMAT}
    replace_text(study.directory / "study.json", json.dumps(content, indent=1))


def refuse_former_study(directory: Path) -> None:
    """Refuse a directory whose runs another release named: it would take none of them for done."""
    path = directory / "study.json"
    if path.exists() and read_object(path).get("format") != FORMAT:
        former = f"study_dir={directory} holds a study of another release, whose runs this one would do again"
        raise StudyError(f"{former}: choose another study_dir=, or finish it with the release that began it")


def load_study(directory: Path) -> Study:
    """Read study.json back; the directory may have been moved."""
    content = read_object(directory / "study.json")
    content.pop("format", None)
    nodes = []
    for raw in content["nodes"]:
        cell, source = Cell(*raw["cell"]) if raw["cell"] else None, Weights(*raw["source"])
        nodes.append(Node(**{**raw, "overrides": tuple(raw["overrides"]), "source": source, "cell": cell}))
    return Study(**{**content, "directory": directory, "nodes": nodes})


def collect(study: Study) -> Results:
    """Read what every finished run has left, and the state of the others."""
    journal = Journal(study.directory)
    states = {node.name: journal.read(node) for node in study.nodes}
    found = Results(study, states, {}, {}, {}, {}, [], read_references(study.directory))
    for node in study.nodes:
        run_dir = study.run_dir(node)
        if not journal.is_done(node):
            continue
        found.metrics[node.name] = read_object(run_dir / "metrics.json")
        if (run_dir / "config.yaml").exists():
            config = current(read_object(run_dir / "config.yaml", yaml.safe_load))
            found.configs[node.name] = dict(flatten(config))
        if node.command == PRETRAINING:
            card = run_dir / "handoff" / "last" / "handoff.json"
            origin = read_object(card)["origin"] if card.exists() else {}
            unit = origin.get("unit", "tokens")  # of releases that did not say so, it counts tokens
            found.units[node.name] = unit
            found.devices[node.name] = origin.get("device", "not recorded")
            if (run_dir / "metrics.csv").exists():
                found.curves.append(Curve(node.source.arm, node.seed, unit, read_columns(run_dir / "metrics.csv")))
    return found


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read metrics.csv row by row; none where there is no such file yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_columns(path: Path) -> dict[str, list[float]]:
    """Read metrics.csv column by column, nan where a row has no entry."""
    rows = read_rows(path)
    return {name: [_number(row[name]) for row in rows] for name in (rows[0] if rows else [])}


def _number(text: str | None) -> float:
    # A file that is being written can end in half a row.
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan


def _hits(path: Path) -> np.ndarray | None:
    if not path.exists():
        return None
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path, columns=["label", "prediction"])
    labels, predictions = (column.to_pylist() for column in table.columns)
    if labels and isinstance(labels[0], list):  # a tag per word: every word is an example
        labels, predictions = ([word for row in rows for word in row] for rows in (labels, predictions))
    right = [float(label == found) for label, found in zip(labels, predictions, strict=True)]
    return np.array(right) if right else None


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """List a nested configuration as dotted keys with their values."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def config_difference(config: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare configurations: key -> (reference's value, this one's) where they differ, None where a key is absent."""
    keys = sorted({*config, *reference})
    return {key: (reference.get(key), config.get(key)) for key in keys if config.get(key) != reference.get(key)}
