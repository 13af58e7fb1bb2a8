"""Compare a study's runs: rows with intervals, contrasts between arms, and costs."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from experiments.report import statistics
from experiments.report.statistics import Interval, mean_interval
from experiments.study.collect import Results, Values
from experiments.study.graph import ALL_LABELS, PRETRAINING, Cell
from finetuning.metrics.reference import Majority

BOOTSTRAP_DRAWS = 1000
OVER_PRETRAININGS = "pretraining seeds"
OVER_FINETUNINGS = "finetuning seeds of one pretraining"


class Row(NamedTuple):
    """An arm in a cell, against its never-pretrained twin; ``n`` of an interval counts ``unit``.

    ``resampled`` is the difference had both seeds and test examples been others; None where predictions do not say
    which were right. Beside it what a constant answer gives, what a classical model of the same labels does (with its
    name), and what the never-pretrained network does with all labels.
    """

    cell: Cell
    arm: str
    value: Interval
    twin: Interval | None
    difference: Interval | None
    unit: str
    pretrainings: int
    points: list[float]
    twin_points: list[float]
    resampled: Interval | None
    chance: Majority | None = None
    classical: tuple[str, Interval] | None = None
    ceiling: Interval | None = None

    @property
    def helps(self) -> bool | None:
        """Whether pretraining helps (or hurts: False); None where that is not shown."""
        clear = self.difference is not None and self.difference.clear_of_zero
        return self.cell.sign * self.difference.mean > 0 if clear and self.difference else None


class Contrast(NamedTuple):
    """Two arms in a cell: first - second; ``p`` only where there are seeds enough to test."""

    cell: Cell
    first: str
    second: str
    difference: Interval
    unit: str
    p: float | None


class Cost(NamedTuple):
    """An arm's pretraining: planned, and the means over its seeds of what was counted; ``unit`` is one of those."""

    arm: str
    pretrainings: int
    planned: str
    unit: str
    spent: dict[str, float]
    schedule: str  # of the rate of learning; empty for runs of releases that did not say


class Comparison(NamedTuple):
    """Everything that a report shows."""

    rows: list[Row]
    contrasts: list[Contrast]
    ranks: dict[str, float]
    costs: list[Cost]
    twins: dict[str, str]  # arm -> the name of what was never pretrained beside it

    @property
    def cost_columns(self) -> dict[str, str]:
        """What was counted of any arm, with a heading; each modality's unit follows the examples."""
        counted = _counted(*dict.fromkeys(cost.unit for cost in self.costs))
        known = [key for key in counted if any(key in cost.spent for cost in self.costs)]
        return {key: key.replace("validation/unigram_", "unigram ").replace("/", " ") for key in known}


def _counted(*units: str) -> list[str]:
    after = ["flops", "seconds", "parameters", "validation/loss", "validation/unigram_entropy"]
    return ["steps", "examples", *units, *after]


def compare(results: Results) -> Comparison:
    """Turn finished runs into rows; a cell without numbers yet has no row."""
    rows = []
    for cell in results.cells():
        for arm in results.arms(cell):
            if values := results.values(cell, arm, pretrained=True):
                twins = results.values(cell, arm, pretrained=False)
                row = _row(cell, arm, values, twins, _resampled(results, cell, arm))
                rows.append(row._replace(**_beside(results, cell, arm)))
    arms = dict.fromkeys(node.source.arm for node in results.nodes(PRETRAINING))
    scores: dict[str, dict[Cell, float]] = {}
    for row in rows:
        scores.setdefault(row.arm, {})[row.cell] = row.cell.sign * row.value.mean
    ranks = statistics.average_rank(scores) if len(scores) > 1 else {}
    costs = [_cost(results, arm) for arm in arms]
    return Comparison(rows, _contrasts(results), ranks, costs, _names_of_twins(results))


def _beside(results: Results, cell: Cell, arm: str) -> dict[str, Any]:
    """Find what a row is read against: chance, the classical reference, and all labels without pretraining."""
    majorities, fitted = list(results.majorities(cell, arm).values()), results.classical(cell)
    whole = results.values(Cell(cell.task, "full", ALL_LABELS, cell.metric), arm, pretrained=False)
    return {
        "chance": majorities[0] if majorities and cell.column.endswith("/accuracy") else None,
        "classical": (fitted[0], mean_interval(fitted[1])) if fitted else None,
        "ceiling": mean_interval(list(_replicates(whole).values())) if whole and cell.labels != ALL_LABELS else None,
    }


def _names_of_twins(results: Results) -> dict[str, str]:
    """Call a never-pretrained network after all the arms that it stands beside."""
    shared: dict[str, list[str]] = {}
    for arm, twin in results.study.twins.items():
        shared.setdefault(twin, []).append(arm)
    return {arm: f"never pretrained ({', '.join(shared[twin])})" for arm, twin in results.study.twins.items()}


def _replicates(values: Values) -> dict[tuple[int, int], float]:
    """Reduce runs to one number per unit of replication: pretraining seeds if several, else finetuning seeds."""
    if len({pretraining for pretraining, _ in values}) == 1:
        return values
    return {(seed, 0): value for seed, value in statistics.within_pretraining(values).items()}


def _paired(first: Values, second: Values) -> tuple[Values, Values]:
    """Keep the runs that both have, so that no seed's luck is counted on one side only."""
    shared = [key for key in first if key in second]
    return {key: first[key] for key in shared}, {key: second[key] for key in shared}


def _row(cell: Cell, arm: str, values: Values, twins: Values, resampled: Interval | None) -> Row:
    pretrainings = len({pretraining for pretraining, _ in values})
    both, both_twins = _paired(values, twins)
    own, fresh = (mean_interval(list(_replicates(v).values())) if v else None for v in (values, twins))
    assert own is not None
    difference = statistics.paired_difference(_replicates(both), _replicates(both_twins)) if both else None
    unit, points = OVER_FINETUNINGS if pretrainings == 1 else OVER_PRETRAININGS, list(values.values())
    return Row(cell, arm, own, fresh, difference, unit, pretrainings, points, list(twins.values()), resampled)


def _resampled(results: Results, cell: Cell, arm: str) -> Interval | None:
    """Bootstrap the difference to the twin, example by example, nested in the seeds that both have."""
    own, twin = (results.hits(cell, arm, pretrained=pretrained) for pretrained in (True, False))
    shared = [key for key in own if key in twin]
    if not shared or len({hits.size for key in shared for hits in (own[key], twin[key])}) > 1:
        return None
    by_seed: dict[int, list[np.ndarray]] = {}
    several = len({pretraining for pretraining, _ in shared}) > 1
    for pretraining, finetuning in shared:
        gain = own[pretraining, finetuning] - twin[pretraining, finetuning]
        by_seed.setdefault(pretraining if several else finetuning, []).append(gain)
    # Finetuning seeds of one pretraining are averaged per example: the test examples are the same.
    gains = [np.mean(found, axis=0) for found in by_seed.values()]
    return statistics.nested_bootstrap(gains, shared_examples=True, draws=BOOTSTRAP_DRAWS)


def _contrasts(results: Results) -> list[Contrast]:
    found: list[Contrast] = []
    differences: dict[tuple[Cell, str, str], list[float]] = {}
    for cell in results.cells():
        for first, second in combinations(results.arms(cell), 2):
            one, other = _paired(*(results.values(cell, arm, pretrained=True) for arm in (first, second)))
            if not one:
                continue
            several = len({pretraining for pretraining, _ in one}) > 1
            a, b = _replicates(one), _replicates(other)
            gains = [a[key] - b[key] for key in a]
            unit = OVER_PRETRAININGS if several else OVER_FINETUNINGS
            found.append(Contrast(cell, first, second, mean_interval(gains), unit, None))
            differences[cell, first, second] = gains if several else []
    tested = statistics.p_values(differences)
    return [contrast._replace(p=tested[contrast[:3]]) for contrast in found] if tested else found


def _cost(results: Results, arm: str) -> Cost:
    nodes = [node for node in results.nodes(PRETRAINING) if node.source.arm == arm]
    runs = [{**results.states[node.name], **results.metrics[node.name]} for node in nodes]
    unit = results.units[nodes[0].name]
    spent = {}
    for key in _counted(unit):
        known = [float(run[key]) for run in runs if isinstance(run.get(key), int | float)]
        if known:
            spent[key] = sum(known) / len(known)
    return Cost(arm, len(nodes), _planned(results, nodes[0].name), unit, spent, _schedule(runs[0]))


def _schedule(numbers: Mapping[str, Any]) -> str:
    """Say how the rate of a run went."""
    if "schedule/peak_rate" not in numbers:
        return ""
    warmup, peak, last = (numbers[f"schedule/{name}"] for name in ("warmup_steps", "peak_rate", "final_rate"))
    return f"{peak:.4g} after {warmup:,} of {numbers['steps']:,} steps, at the end {last:.4g}"


def _planned(results: Results, run: str) -> str:
    config = results.configs.get(run, {})
    budget = {k.removeprefix("budget."): v for k, v in config.items() if k.startswith("budget.") and v is not None}
    if not budget and config.get("trainer.max_steps"):
        budget = {"steps": config["trainer.max_steps"]}
    amounts = ((f"{value:g}" if isinstance(value, int | float) else value, kind) for kind, value in budget.items())
    planned = ", ".join(f"{value} {kind}" for value, kind in amounts)
    hours = results.study.budget.get("hours")
    if hours is not None:
        planned = f"{hours:g} hours, measured as {planned}"
    return planned or "not stated"
