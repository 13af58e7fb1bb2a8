"""A study's comparison in words and in the number formats that every output shares."""

from experiments.report.compare import Comparison, Cost, Row
from experiments.report.statistics import SEEDS_TO_TEST, Interval
from experiments.study.graph import Cell

NOTHING = "\N{EN DASH}"
"""Stands where there is no number."""


def in_words(comparison: Comparison) -> list[str]:
    """A sentence for each finding, and for each absence of one."""
    sentences = [_sentence(row) for row in comparison.rows] + pretraining_in_words(comparison)
    if comparison.too_few_to_test:
        sentences.append(
            "Too few pretraining seeds to test one arm against another: "
            f"{SEEDS_TO_TEST} are needed. Their differences are shown with intervals, not judged."
        )
    for contrast in comparison.contrasts:
        if contrast.p is not None:
            verdict = "differs from" if contrast.p <= 0.05 else "shows no difference to"
            sentences.append(
                f"{place(contrast.cell)}: {contrast.first} {verdict} {contrast.second} "
                f"({signed(contrast.difference.mean)}, corrected p = {contrast.p:.3g})."
            )
    return sentences


def pretraining_in_words(comparison: Comparison) -> list[str]:
    """What each pretraining reached, beside what word counts alone would reach where it is text."""
    found = []
    for cost in comparison.costs:
        if cost.validation_loss is None:
            continue
        beside = ""
        if cost.unigram_entropy is not None:
            beside = f"; the unigram entropy of its tokens is {cost.unigram_entropy:.3f} nats"
        found.append(f"{cost.arm}: validation loss {cost.validation_loss:.3f} after pretraining{beside}.")
    return found


def _sentence(row: Row) -> str:
    start = f"{place(row.cell)}: {row.arm} reaches {short(row.cell.metric)} {row.value.mean:.3f}"
    if row.twin is None or row.difference is None:
        return f"{start}; no never-pretrained twin has been run."
    if row.difference.n == 1:
        twin = f"its never-pretrained twin {row.twin.mean:.3f}"
        return f"{start}, {twin}; one replicate says nothing about chance."
    behind = f"{row.difference.n} {row.unit}"
    if not row.difference.clear_of_zero:
        return f"{start}; no difference to its never-pretrained twin ({row.twin.mean:.3f}) is shown: {between(row.difference)} over {behind}."
    verb = "above" if row.difference.mean > 0 else "below"
    distance = f"{abs(row.difference.mean):.3f} {verb} its never-pretrained twin"
    return f"{start}, {distance} ({row.twin.mean:.3f}): {between(row.difference)} over {behind}."


def place(cell: Cell) -> str:
    """The cell for people."""
    return f"{cell.task}, {cell.mode}, {cell.labels}"


def short(metric: str) -> str:
    """``test/f1_macro`` -> ``f1 macro``."""
    return metric.rsplit("/", 1)[-1].replace("_", " ")


def signed(value: float) -> str:
    """With its sign, a true minus."""
    return "0.000" if abs(value) < 0.0005 else f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def between(interval: Interval) -> str:
    """The difference and its interval in one phrase."""
    if interval.n == 1:
        return f"{signed(interval.mean)}, no interval from one replicate"
    return f"{signed(interval.mean)}, 95 % interval {signed(interval.low)} to {signed(interval.high)}"


def spread(interval: Interval | None) -> str:
    """The mean and its interval in one phrase."""
    if interval is None:
        return NOTHING
    if interval.n == 1:
        return f"{interval.mean:.3f} (one replicate)"
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def cost_in_words(cost: Cost) -> str:
    """What an arm was to cost, and what one pretraining of it did."""
    spent = [
        (cost.steps, "steps"),
        (cost.tokens or cost.examples, "tokens" if cost.tokens else "examples"),
        (cost.flops, "FLOPs"),
    ]
    parts = [f"{amount(value)} {unit}" for value, unit in spent if value]
    parts += [clock(cost.seconds)] if cost.seconds is not None else []
    return f"{cost.planned} planned, {', '.join(parts)} spent"


def resampled(interval: Interval | None) -> str:
    """The ends of a bootstrap interval of a difference."""
    return NOTHING if interval is None else f"{signed(interval.low)} to {signed(interval.high)}"


def amount(value: float | None) -> str:
    """A count of steps, tokens, FLOPs, seconds: whole, or in powers of ten where it is huge."""
    if value is None:
        return NOTHING
    if abs(value) >= 1e9:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def clock(seconds: float) -> str:
    """2:05, or 1:02:05."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
