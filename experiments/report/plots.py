"""The charts of a study: learning curves by family, bars by task, cost against quality."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.report.charts import Bar, Line, Point, bar_chart, line_chart, scatter
from experiments.report.compare import Comparison
from experiments.report.words import short
from experiments.study.collect import Curve, Results
from experiments.study.graph import Cell

FIRST_Y = ("validation/loss", "train/loss")
MOST_Y = 6
LONG = 3 * 3600  # seconds, from which on an axis is in hours
SHARED = ("never", "classical")  # styles of what several arms have


class Chart(NamedTuple):
    """One chart of a panel, shown when its ``x`` and ``y`` are chosen."""

    name: str
    x: str
    y: str
    svg: str


class Panel(NamedTuple):
    """Learning curves of arms that the same tasks measure; ``xs`` and ``ys`` are the choices."""

    names: list[tuple[str, str]]
    xs: dict[str, str]
    ys: dict[str, str]
    charts: list[Chart]


def x_columns(curves: Iterable[Curve]) -> dict[str, str]:
    """Name what curves can be drawn over, with a label: the fixed axes, and what each modality counts."""
    counted = {curve.unit: f"{curve.unit} seen" for curve in curves}
    first = {"step": "optimizer steps", "examples": "examples seen"}
    return first | counted | {"flops": "FLOPs", "time": "seconds"}


def choose_styles(arms: Iterable[str]) -> dict[str, str]:
    """Choose each arm's colour class, the same in every chart."""
    return {arm: f"s{index % 8}" for index, arm in enumerate(dict.fromkeys(arms))}


def draw_curves(results: Results) -> list[Panel]:
    """Draw learning curves; arms that other tasks measure (another modality, say) get a panel of their own."""
    families: dict[tuple[str, ...], list[Curve]] = {}
    for curve in results.curves:
        tasks = (cell.task for cell in results.cells() if curve.arm in results.arms(cell))
        families.setdefault(tuple(dict.fromkeys(tasks)), []).append(curve)
    style = choose_styles(curve.arm for curve in results.curves)
    return [draw_panel(curves, style) for curves in families.values()]


def draw_panel(curves: Sequence[Curve], style: Mapping[str, str]) -> Panel:
    """Draw each number that the curves have over each axis."""
    arms = list(dict.fromkeys(curve.arm for curve in curves))
    columns = [column for curve in curves for column in curve.columns if _known(curve.columns[column])]
    xs = {key: label for key, label in x_columns(curves).items() if key in columns}
    wanted = (*FIRST_Y, *(c for c in columns if c.startswith(("validation/", "probe/", "train/"))))
    ys = {column: column for column in list(dict.fromkeys(c for c in wanted if c in columns))[:MOST_Y]}
    charts = []
    for x in xs:
        xs[x], places = _along(x, xs[x], curves)
        for y in ys:
            lines = [
                Line(curve.arm, style[curve.arm], place, curve.columns[y])
                for curve, place in zip(curves, places, strict=True)
                if x in curve.columns and y in curve.columns
            ]
            svg = line_chart(lines, title=f"{y} over {xs[x]}", x_label=xs[x], y_label=y)
            charts.append(Chart(_slug("curve", *arms, y, "over", x), x, y, svg))
    return Panel([(arm, style[arm]) for arm in arms], xs, ys, charts)


def draw_bars(comparison: Comparison) -> dict[str, str]:
    """Draw one chart per task: each mode's arms beside their never-pretrained twins."""
    style = choose_styles(row.arm for row in comparison.rows)
    found: dict[str, list[Bar]] = {}
    metrics: dict[str, str] = {}
    marks: dict[str, dict[str, float]] = {}
    for row in comparison.rows:
        group = f"{row.cell.mode}, {row.cell.labels}"
        metrics[row.cell.task] = short(row.cell.metric)
        chart = found.setdefault(row.cell.task, [])
        chart.append(Bar(group, row.arm, style[row.arm], *row.value[:3], row.points))
        if row.twin:
            chart.append(Bar(group, comparison.twins[row.arm], "never", *row.twin[:3], row.twin_points))
        if row.classical:
            name, fitted = row.classical
            chart.append(Bar(group, f"{name}, same labels", "classical", *fitted[:3], []))
        lines = marks.setdefault(row.cell.task, {})
        if row.chance:
            lines[f"always {row.chance.name!r}"] = row.chance.share
        if row.ceiling:
            lines["never pretrained, all labels"] = row.ceiling.mean
    drawn = {}
    for task, chart in found.items():
        title = f"{task}: {metrics[task]} by mode and pretraining"
        label = f"{metrics[task]} on {task}"
        drawn[_slug("bars", task)] = bar_chart(_together(chart), title=title, x_label=label, marks=marks[task])
    return drawn


def draw_costs(comparison: Comparison) -> dict[str, str]:
    """Draw one chart per cell: quality over seconds of pretraining; never pretrained stands at zero."""
    seconds = {cost.arm: cost.spent["seconds"] for cost in comparison.costs if "seconds" in cost.spent}
    style = choose_styles(row.arm for row in comparison.rows)
    found: dict[Cell, list[Point]] = {}
    for row in comparison.rows:
        if row.arm not in seconds:
            continue
        points, twin = found.setdefault(row.cell, []), row.twin
        points.append(Point(row.arm, style[row.arm], seconds[row.arm], *row.value[:3]))
        if twin and not any(p.style == "never" and p.y == twin.mean for p in points):
            points.append(Point(comparison.twins[row.arm], "never", 0.0, *twin[:3]))
        if row.classical and not any(p.style == "classical" for p in points):
            name, fitted = row.classical
            points.append(Point(f"{name}, same labels", "classical", 0.0, *fitted[:3]))
    drawn = {}
    for cell, points in found.items():
        labels: Any = {"x_label": "seconds of pretraining", "y_label": f"{short(cell.metric)}: {cell.title()}"}
        drawn[_slug("cost", *cell[:3])] = scatter(points, title=cell.title(), **labels)
    return drawn


def _together(chart: list[Bar]) -> list[Bar]:
    """Keep once in each group what several arms share: a twin, a classical reference; the arms of a group go first."""
    order = list(dict.fromkeys(bar.group for bar in chart))
    kept = {(bar.group, bar.name): bar for bar in chart}.values()
    return sorted(
        kept, key=lambda bar: (order.index(bar.group), SHARED.index(bar.style) if bar.style in SHARED else -1)
    )


def _known(values: list[float]) -> list[float]:
    return [value for value in values if value == value]


def _along(x: str, label: str, curves: Sequence[Curve]) -> tuple[str, list[list[float]]]:
    """Place each curve's entries on an axis, with its label; long times are hours."""
    places = [curve.columns.get(x, []) for curve in curves]
    if x != "time":
        return label, places
    places = [_elapsed(place) for place in places]
    if max(_known([time for place in places for time in place]), default=0.0) < LONG:
        return label, places
    return "hours", [[seconds / 3600 for seconds in place] for place in places]


def _elapsed(times: list[float]) -> list[float]:
    """Turn clock times into seconds since the first, and add up those of a run's lives, each of which begins anew."""
    start = min(_known(times), default=0.0)
    before, last = -start if start > 1e6 else 0.0, -math.inf
    found = []
    for time in times:
        if time < last:
            before += last
        last = last if math.isnan(time) else time
        found.append(before + time)
    return found


def _slug(*words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")
