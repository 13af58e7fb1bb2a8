"""The results of a study as a table in the terminal."""

from collections.abc import Callable

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from experiments.report.compare import OVER_FINETUNINGS, Comparison, Row
from experiments.report.statistics import Interval
from experiments.report.words import NOTHING, short, signed


def result_table(comparison: Comparison, title: str, *, wide: bool = True) -> Table:
    """Lay out objective x task x mode: mean, n, 95 % interval, and the distance to the never-pretrained twin.

    Not wide (80 columns): the mode stands below the objective, and the twin's mean is left out.
    """
    found = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    found.caption, found.caption_justify = _caption(comparison), "left"
    for name in ("objective", "task", "mode") if wide else ("objective", "task"):
        found.add_column(name, no_wrap=True)
    twin = ["never\npretrained"] if wide else []
    for name in ("mean", "n", *twin, "difference to\nnever pretrained"):
        found.add_column(name, justify="right", no_wrap=True)
    found.add_column("clear\nof 0", justify="center")
    found.add_column("pre-\ntrai-\nnings", justify="right")
    before = None
    for row in comparison.rows:
        if before is not None and row.cell.task != before:
            found.add_section()
        before = row.cell.task
        task = f"{row.cell.task}\n{row.cell.labels}"
        names = [row.arm, task, row.cell.mode] if wide else [f"{row.arm}\n{row.cell.mode}", task]
        found.add_row(*names, *_numbers(row, with_twin=wide))
    return found


def _numbers(row: Row, *, with_twin: bool) -> list[str | Text]:
    cells: list[str | Text] = [_pair(row.value, "{:.3f}".format), str(row.value.n)]
    cells += [_pair(row.twin, "{:.3f}".format)] if with_twin else []
    cells.append(_pair(row.difference, signed))
    if row.difference is None:
        return [*cells, NOTHING, str(row.pretrainings)]
    colour = {True: "green", False: "red", None: "yellow"}[row.helps]
    return [*cells, Text("no" if row.helps is None else "yes", style=colour), str(row.pretrainings)]


def _pair(interval: Interval | None, number: Callable[[float], str]) -> str:
    if interval is None:
        return NOTHING
    if interval.n == 1:
        return number(interval.mean)
    return f"{number(interval.mean)} ± {interval.high - interval.mean:.3f}"


def _caption(comparison: Comparison) -> str:
    if not comparison.rows:
        return "no finetuning has finished"
    metrics = sorted({short(row.cell.metric) for row in comparison.rows})
    units = sorted({row.unit for row in comparison.rows})
    words = f"{', '.join(metrics)} on the test split, ± the half of its 95 % interval; "
    words += f"n counts {' or '.join(units)}."
    if OVER_FINETUNINGS in units:
        words += "\nEach finetuning seed draws its own label subset, head and fresh twin."
        words += "\nOne pretraining: intervals do not say how another pretraining would turn out."
    return words
