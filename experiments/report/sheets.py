"""A report's tables as words, which html, markdown and LaTeX lay out alike."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from experiments.report.compare import Comparison, Row
from experiments.report.words import NOTHING, amount, between, ends, short, signed, spread

ANSWERS = {True: "yes, better", False: "yes, worse", None: "no"}
ESCAPES = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", NOTHING: "--"}
ESCAPES |= {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\N{MINUS SIGN}": "$-$",
    "±": r"$\pm$",
    "<": "$<$",
    ">": "$>$",
}


class Sheet(NamedTuple):
    """A table; every row has a cell per heading."""

    head: list[str]
    rows: list[list[str]]


def sheets(comparison: Comparison) -> dict[str, Sheet]:
    """Lay out the results, the arms against each other, and the costs."""
    head = ["task", "mode", "labels", "objective", "metric", "mean (95 % interval)", "n", "never pretrained"]
    head += ["difference (95 % interval)", "seeds and examples resampled", "clear of zero", "classical, same labels"]
    found = {"results": Sheet([*head, "pretrainings"], [_result(row) for row in comparison.rows])}
    contrasts = [
        [c.cell.title(), c.first, c.second, between(c.difference), few if c.p is None else f"{c.p:.3g}"]
        for few in ["too few pretraining seeds to test"]
        for c in comparison.contrasts
    ]
    found["contrasts"] = Sheet(["task, mode, labels", "first", "second", "first − second", "corrected p"], contrasts)
    counted = [[amount(c.spent.get(key)) for key in comparison.cost_columns] for c in comparison.costs]
    spent = zip(comparison.costs, counted, strict=True)
    rates = {"learning rate": [cost.schedule or NOTHING for cost in comparison.costs]}
    rates = rates if any(cost.schedule for cost in comparison.costs) else {}
    rows = [
        [cost.arm, str(cost.pretrainings), cost.planned, *(part[row] for part in rates.values()), *numbers]
        for row, (cost, numbers) in enumerate(spent)
    ]
    head = ["objective", "pretrainings", "planned", *rates, *comparison.cost_columns.values()]
    found["costs"] = Sheet(head, rows)
    return found


def _result(row: Row) -> list[str]:
    gain, fitted = row.difference, row.classical
    names = [*row.cell[:3], row.arm, short(row.cell.metric), spread(row.value), str(row.value.n), spread(row.twin)]
    shown = NOTHING
    if gain is not None:
        shown = signed(gain.mean) + ("" if gain.n == 1 else f" ({ends(gain)})")
    beside = NOTHING if fitted is None else f"{fitted[0]} {spread(fitted[1])}"
    clear = NOTHING if gain is None else ANSWERS[row.helps]
    return [*names, shown, ends(row.resampled), clear, beside, str(row.pretrainings)]


def every_number(comparison: Comparison) -> dict[str, Sheet]:
    """List each run's number, by task."""
    found: dict[str, Sheet] = {}
    for row in comparison.rows:
        head = ["mode, labels", "objective", "runs", "its twin's runs"]
        numbers = (" ".join(f"{value:.3f}" for value in points) for points in (row.points, row.twin_points))
        found.setdefault(row.cell.task, Sheet(head, [])).rows.append(
            [f"{row.cell.mode}, {row.cell.labels}", row.arm, *numbers]
        )
    return found


def latex(sheet: Sheet) -> str:
    """Write a sheet as a tabular that stands on LaTeX alone."""
    return "\n".join(_lines(sheet)) + "\n"


def _lines(sheet: Sheet) -> Iterator[str]:
    yield rf"\begin{{tabular}}{{{'l' * len(sheet.head)}}}"
    yield r"\hline"
    yield _line(sheet.head)
    yield r"\hline"
    yield from map(_line, sheet.rows)
    yield r"\hline"
    yield r"\end{tabular}"


def _line(cells: list[str]) -> str:
    escaped = (re.sub("|".join(map(re.escape, ESCAPES)), lambda found: ESCAPES[found[0]], cell) for cell in cells)
    return " & ".join(escaped) + r" \\"
