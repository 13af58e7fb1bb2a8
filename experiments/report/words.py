"""A study's comparison in words, and the number formats that every output shares."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.report.compare import Comparison, Cost, Row
from experiments.report.statistics import Interval, seeds_to_test
from experiments.study.graph import Cell

ONE_PRETRAINING = "finetuning seeds of one pretraining, which do not say how another would turn out"
MOST_SAID = 3  # comparisons of an answer
NOTHING = "\N{EN DASH}"
"""Stands where there is no number."""


class Finding(NamedTuple):
    """A difference in a cell, and whether it decides between the two."""

    decided: bool
    cell: Cell
    first: str
    second: str
    gain: Interval


def answer(comparison: Comparison) -> str:
    """Answer a study's question in a sentence, as far as it is: arms against each other, or against their twins."""
    rivals = [
        Finding(c.p is not None and c.p <= 0.05, c.cell, c.first, c.second, c.difference) for c in comparison.contrasts
    ]
    found = rivals
    if not rivals:
        twin = "its never-pretrained twin"
        having = [(row, row.difference) for row in comparison.rows if row.difference is not None]
        found = [Finding(row.helps is not None, row.cell, row.arm, twin, gain) for row, gain in having]
    if not found:
        return "Nothing has been compared yet."
    clear = sum(finding.decided for finding in found)
    # The greatest difference of each task; where anything is decided, of what is.
    smallest_first = sorted(found, key=lambda finding: abs(finding.gain.mean))
    of_task = {finding.cell.task: finding for finding in smallest_first if finding.decided or not clear}
    greatest = sorted(of_task.values(), key=lambda finding: -abs(finding.gain.mean))
    said = "; ".join(map(_against, greatest[:MOST_SAID]))
    least = min((row.pretrainings for row in comparison.rows), default=1)
    basis = f"over {least} pretraining seeds" if least > 1 else f"over {ONE_PRETRAINING}"
    if all(finding.gain.n == 1 for finding in found):
        basis = "one run of each, which says nothing about chance"
    elif rivals and least < seeds_to_test(len(rivals)):
        basis = f"{least} of {seeds_to_test(len(rivals))} pretraining seeds"
    part = f"Decided in {clear} of {len(found)} comparisons" if 0 < clear < len(found) else "Decided"
    return f"{part if clear else 'Not decided'}: {said}; {basis}."


def _against(finding: Finding) -> str:
    cell, gain = finding.cell, finding.gain
    found = signed(gain.mean) + ("" if gain.n == 1 else f" ({ends(gain)})")
    less = "" if cell.sign > 0 else f", less {short(cell.metric)} is better"
    return f"{finding.first} {found} against {finding.second} in {cell.title()}{less}"


def describe(comparison: Comparison) -> list[str]:
    """Write a sentence for each finding, and for each absence of one."""
    sentences = [_sentence(row) for row in comparison.rows] + describe_pretraining(comparison)
    if any(contrast.p is None for contrast in comparison.contrasts):
        many = len(comparison.contrasts)
        what = "one arm against another" if many == 1 else f"{many} comparisons of arms together"
        few = f"Too few pretraining seeds to test {what}: {seeds_to_test(many)} are needed."
        sentences.append(f"{few} Their differences are shown with intervals, not judged.")
    for contrast in comparison.contrasts:
        if contrast.p is not None:
            verdict = "differs from" if contrast.p <= 0.05 else "shows no difference to"
            found = f"{contrast.cell.title()}: {contrast.first} {verdict} {contrast.second}"
            sentences.append(f"{found} ({signed(contrast.difference.mean)}, corrected p = {contrast.p:.3g}).")
    return sentences


def describe_pretraining(comparison: Comparison) -> list[str]:
    """Write what each pretraining took and reached, beside what word counts alone would reach where it is text."""
    found = [f"{cost.arm}: {describe_cost(cost)}." for cost in comparison.costs]
    for cost in comparison.costs:
        loss, entropy = cost.spent.get("validation/loss"), cost.spent.get("validation/unigram_entropy")
        if loss is not None:
            beside = "" if entropy is None else f"; the unigram entropy of its tokens is {entropy:.3f} nats"
            found.append(f"{cost.arm}: validation loss {loss:.3f} after pretraining{beside}.")
    return found


def _sentence(row: Row) -> str:
    start = f"{row.cell.title()}: {row.arm} reaches {short(row.cell.metric)} {row.value.mean:.3f}"
    if row.twin is None or row.difference is None:
        return f"{start}; no never-pretrained twin has been run."
    if row.difference.n == 1:
        twin = f"its never-pretrained twin {row.twin.mean:.3f}"
        return f"{start}, {twin}; one replicate says nothing about chance."
    behind = f"{between(row.difference)} over {row.difference.n} {row.unit}"
    if not row.difference.clear_of_zero:
        return f"{start}; no difference to its never-pretrained twin ({row.twin.mean:.3f}) is shown: {behind}."
    verb = "above" if row.difference.mean > 0 else "below"
    distance = f"{abs(row.difference.mean):.3f} {verb} its never-pretrained twin"
    return f"{start}, {distance} ({row.twin.mean:.3f}): {behind}."


def headline(numbers: Mapping[str, Any], *metrics: str) -> str:
    """Write the first of the metrics that was measured, with its name and its interval; empty where none was."""
    for metric in metrics:
        if isinstance(numbers.get(metric), int | float):
            low, high = (numbers.get(f"{metric}_{end}") for end in ("low", "high"))
            return f"{metric} {numbers[metric]:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")
    return ""


def short(metric: str) -> str:
    """Shorten ``test/f1_macro`` to ``f1 macro``."""
    return metric.rsplit("/", 1)[-1].replace("_", " ")


def signed(value: float) -> str:
    """Write a difference with its sign, a true minus."""
    return "0.000" if abs(value) < 0.0005 else f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def between(interval: Interval) -> str:
    """Write a difference and its interval in one phrase."""
    if interval.n == 1:
        return f"{signed(interval.mean)}, no interval from one replicate"
    return f"{signed(interval.mean)}, 95 % interval {ends(interval)}"


def spread(interval: Interval | None) -> str:
    """Write a mean and its interval in one phrase."""
    if interval is None:
        return NOTHING
    if interval.n == 1:
        return f"{interval.mean:.3f} (one replicate)"
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def describe_cost(cost: Cost) -> str:
    """Write what an arm was to cost, and what one pretraining of it did."""
    counted = cost.unit if cost.spent.get(cost.unit) else "examples"
    spent = [(cost.spent.get(key), unit) for key, unit in (("steps", "steps"), (counted, counted), ("flops", "FLOPs"))]
    parts = [f"{amount(value)} {unit}" for value, unit in spent if value]
    parts += [clock(cost.spent["seconds"])] if "seconds" in cost.spent else []
    return f"{cost.planned} planned, {', '.join(parts)} spent"


def ends(interval: Interval | None) -> str:
    """Write the ends of an interval of a difference."""
    return NOTHING if interval is None else f"{signed(interval.low)} to {signed(interval.high)}"


def amount(value: float | None) -> str:
    """Write a count of steps, tokens, FLOPs, seconds: whole, or in powers of ten where it is huge."""
    if value is None:
        return NOTHING
    if abs(value) >= 1e9:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def clock(seconds: float) -> str:
    """Write a duration as 2:05, or 1:02:05."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
