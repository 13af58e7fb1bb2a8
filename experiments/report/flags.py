"""What spoils a comparison, a sentence each: what has not learnt, is not measured, or is beaten by simpler means."""

import math
from collections.abc import Iterator, Sequence

from experiments.report.compare import Comparison, Cost, Row
from experiments.report.words import amount, short
from experiments.study.collect import Curve, Results
from experiments.study.graph import FINETUNING


def warnings(results: Results, comparison: Comparison) -> list[str]:
    """List all of them."""
    found = [*of_pretraining(results, comparison.costs), *of_predictions(results), *of_references(comparison.rows)]
    return [*found, *unmeasured(results), *of_fitting(results)]


def of_pretraining(results: Results, costs: Sequence[Cost]) -> Iterator[str]:
    """Name pretrainings that have learnt less than frequencies, or that ended while their rate was still growing."""
    for cost in costs:
        loss, entropy = cost.spent.get("validation/loss"), cost.spent.get("validation/unigram_entropy")
        if loss is not None and entropy is not None and loss > entropy:
            what = f"its validation loss, {loss:.3f}, is worse than the unigram entropy of its tokens, {entropy:.3f}"
            yield f"{cost.arm}: {what}: it has learnt less than their frequencies."
        rising = [rate for curve in results.curves if curve.arm == cost.arm if (rate := _rising(curve))]
        if rising:
            what = f"still in warm-up at its last step (learning rate {rising[0]:.3g} and rising)"
            yield f"{cost.arm}: {what}: give it more steps, or fewer optimizer.warmup_steps."


def _rising(curve: Curve) -> float:
    """Read the last learning rate where it is above all before it; else 0."""
    rates = [rate for rate in curve.columns.get("learning_rate", []) if math.isfinite(rate)]
    return rates[-1] if len(rates) > 1 and rates[-1] > max(rates[:-1]) else 0.0


def of_predictions(results: Results) -> Iterator[str]:
    """Name arms of which runs predict one class alone."""
    for cell in results.cells():
        for arm in results.arms(cell):
            found = list(results.majorities(cell, arm).values())
            alone = [majority for majority in found if majority.only is not None]
            if alone:
                many, first = f"{len(alone)} of {len(found)} runs of {arm} predict", alone[0]
                gives = f", which gives accuracy {first.share:.3f}" if first.only == first.name else ""
                yield f"{cell.title()}: {many} {first.only!r} alone{gives}."


def of_references(rows: Sequence[Row]) -> Iterator[str]:
    """Name arms that a constant answer, or a classical model of the same labels, equals."""
    for row in rows:
        value, sign, metric = row.value.mean, row.cell.sign, short(row.cell.metric)
        if row.chance is not None and sign * value <= sign * row.chance.share:
            given = f"always {row.chance.name!r}, which gives {metric} {row.chance.share:.3f}"
            yield f"{row.cell.title()}: {row.arm} ({value:.3f}) is no better than {given}."
        if row.classical is not None and sign * value < sign * row.classical[1].mean:
            name, fitted = row.classical
            behind = f"({value:.3f}) stays behind {name} on the same labels"
            yield f"{row.cell.title()}: {row.arm} {behind}, which reaches {metric} {fitted.mean:.3f}."


def of_fitting(results: Results) -> Iterator[str]:
    """Name classical references that could not be fitted."""
    for key, fitted in results.references.items():
        if "error" in fitted:
            yield f"no classical reference for {key}: {fitted['error']}"


def unmeasured(results: Results) -> list[str]:
    """Name cells of which finished runs have not the metric."""
    found: dict[str, list[list[str]]] = {}
    for node in results.nodes(FINETUNING):
        if node.cell is not None and results.metric(node) is None:
            lacking = f"{node.cell.title()}: {{}} runs have no {node.cell.column}"
            found.setdefault(lacking, []).append(sorted(k for k in results.metrics[node.name] if k.startswith("test/")))
    return [f"{key.format(amount(len(names)))}; they have {', '.join(names[0])}." for key, names in found.items()]
