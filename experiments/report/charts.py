"""Small SVG charts as text: lines, bars with intervals, points; without a library, fit for a phone.

Colours are classes (``s0`` .. ``s7``, ``never`` for what was never pretrained), so that one style sheet serves the page
and, embedded, each file in plots/, light and dark. Legend: px are units of the view box.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

import numpy as np

NEIGHBOUR = 8  # pixels between points of equal cost
TEXT_LINE, LETTER = 15, 7.2
WIDTH = 480
TOP, BOTTOM = 34, 42  # what axes leave free
NO_MARKS: dict[str, float] = {}
STYLE = (Path(__file__).parent / "templates" / "chart.css").read_text()


class Line(NamedTuple):
    """A curve; lines of one name share colour and legend entry (the seeds of an arm)."""

    name: str
    style: str
    x: list[float]
    y: list[float]


class Bar(NamedTuple):
    """A mean, its interval (ends nan: none) and the runs behind it; ``group`` heads its bars."""

    group: str
    name: str
    style: str
    mean: float
    low: float
    high: float
    points: list[float]


class Point(NamedTuple):
    """A place in a scatter, with the interval of its height."""

    name: str
    style: str
    x: float
    y: float
    low: float
    high: float


class Axis(NamedTuple):
    """From values to px, with the ticks in between."""

    ticks: list[float]
    place: Callable[[float], float]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Choose round numbers that cover [low, high]."""
    span = (high - low) or abs(high) or 1.0
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def number(value: float) -> str:
    """Write a number as short as a tick needs it: 0.25, 1.5k, 3M, 2e12."""
    size = abs(value)
    if size >= 1e12 or (0 < size < 1e-3):
        return f"{value:.2g}".replace("e+", "e").replace("e0", "e")
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


def line_chart(lines: Sequence[Line], *, title: str, x_label: str, y_label: str, height: int = 300) -> str:
    """Draw curves over a shared x: the mean of those of one name, in the band that they span.

    The page's script answers the pointer from ``data-`` attributes.
    """
    named: dict[str, list[Line]] = {}
    for line in map(_cleaned, lines):
        if line.x:
            named.setdefault(line.name, []).append(line)
    if not named:
        return _svg(_text(WIDTH / 2, 60, "nothing recorded yet", anchor="middle"), title, 90)
    drawn = [_averaged(seeds) for seeds in named.values()]
    xs, ys = [v for line, *_ in drawn for v in line.x], [v for _, *ends in drawn for end in ends for v in end]
    across, upward, parts = _plane(xs, ys, x_label, y_label, height, right=12)

    def placed(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
        return [(round(across.place(a), 1), round(upward.place(b), 1)) for a, b in zip(x, y, strict=True)]

    for line, low, high in drawn:
        px = placed(line.x, line.y)
        path = "M" + " L".join(f"{x:g},{y:g}" for x, y in px)
        around = " L".join(f"{x:g},{y:g}" for x, y in [*placed(line.x, high), *placed(line.x, low)[::-1]])
        band = f'<path class="band" d="M{around}Z"/>' if low != high else ""
        values = zip(px, line.x, line.y, strict=True)
        points = json.dumps([[x, y, number(float(f"{a:.4g}")), f"{b:.4g}"] for (x, y), a, b in values])
        mark = _circle("mean", *px[0], 3.5) if len(px) == 1 else ""
        named_as = f"data-name={quoteattr(line.name)} data-points={quoteattr(points)}"
        parts.append(f'<g class="series {line.style}" {named_as}>{band}<path class="curve" d="{path}"/>{mark}</g>')
    parts.append(f'<line class="axis cross off" y1="{TOP}" y2="{height - BOTTOM}"/>')
    return _svg("".join(parts), title, height, interactive=True)


def bar_chart(bars: Sequence[Bar], *, title: str, x_label: str, marks: Mapping[str, float] = NO_MARKS) -> str:
    """Draw horizontal bars from zero: mean, interval, and a dot for each run behind them; named lines across."""
    left, right = 10, 14
    first = y = 12.0 + TEXT_LINE * len(marks)
    ends = [v for bar in bars for v in (bar.mean, bar.high, *bar.points, 0.0) if v == v] + [*marks.values()]
    lowest = min([*ends, *(bar.low for bar in bars if bar.low == bar.low)])
    across = _axis(lowest, max(ends), left, WIDTH - right)
    body, group = [], None
    for bar in bars:
        if bar.group != group:
            group, y = bar.group, y + 22
            body.append(f'<text class="strong" x="{left}" y="{y:g}">{escape(bar.group)}</text>')
            y += 6
        drawn, taken = _bar(bar, across, left, y)
        body.append(drawn)
        y += taken
    height = y + 46
    places = [(across.place(tick), number(tick)) for tick in across.ticks]
    grid = "".join(
        _line("grid", x, first + 4, x, y + 4) + _text(x, y + 20, tick, anchor="middle") for x, tick in places
    )
    label = _text(WIDTH / 2, y + 38, x_label, anchor="middle")
    lines = ""
    for number_of, (name, value) in enumerate(marks.items()):
        x, top = across.place(value), 14 + TEXT_LINE * number_of
        side = -1 if x > WIDTH / 2 else 1
        said = _text(x + 4 * side, top, f"{name}: {value:.3f}", kind="small", anchor="start" if side > 0 else "end")
        lines += _line("mark", x, top - 10, x, y + 4) + said
    return _svg(grid + lines + "".join(body) + label, title, height)


def scatter(points: Sequence[Point], *, title: str, x_label: str, y_label: str, height: int = 300) -> str:
    """Draw points with vertical intervals; each is named beside it."""
    heights = [v for p in points for v in (p.y, p.low, p.high) if v == v]
    xs = [0.0, *(p.x for p in points)]
    across, upward, parts = _plane(xs, heights, x_label, y_label, height, right=16)
    places = _side_by_side([across.place(p.x) for p in points], right=WIDTH - 16)
    # Names stand beside their points, towards the middle, one below the other where they would meet.
    asides = [-9 if x > WIDTH / 2 else 9 for x in places]
    ends = [x + aside * (1 + len(p.name) * LETTER / 9) for p, x, aside in zip(points, places, asides, strict=True)]
    sides = [[n for n, aside in enumerate(asides) if aside == side] for side in (-9, 9)]
    if all(sides) and min(ends[n] for n in sides[0]) < max(ends[n] for n in sides[1]):
        sides = [[*range(len(points))]]
    for side in sides:
        names = apart([upward.place(points[n].y) for n in side], height - BOTTOM)
        for n, name_y in zip(side, names, strict=True):
            p, x, y, aside = points[n], places[n], upward.place(points[n].y), asides[n]
            whisker = "" if p.low != p.low else _line("whisker", x, upward.place(p.low), x, upward.place(p.high))
            whisker += _line("lead", x, y, x + aside, name_y) if abs(name_y - y) > 4 else ""
            parts.append(f'<g class="{p.style}">{whisker}{_circle("mean", x, y, 5)}</g>')
            anchor = "end" if aside < 0 else "start"
            parts.append(_text(x + aside, name_y + 4, p.name, kind="small", anchor=anchor))
    return _svg("".join(parts), title, height)


def _side_by_side(places: Sequence[float], right: float) -> list[float]:
    """Move points of equal cost apart, each further in than the one before: their whiskers would hide each other."""
    at, inwards = [round(x) for x in places], [NEIGHBOUR if x < WIDTH / 2 else -NEIGHBOUR for x in places]
    return [min(x, right) + inwards[index] * at[:index].count(at[index]) for index, x in enumerate(places)]


def apart(heights: Sequence[float], lowest: float) -> list[float]:
    """Move heights, as little as one pass allows, so that lines of text do not overlap; their order stays."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    moved, above = dict[int, float](), float("-inf")
    for index in order:
        above = moved[index] = max(heights[index], above + TEXT_LINE)
    overhang = max(0.0, above - lowest)
    return [moved[index] - overhang for index in range(len(heights))]


def standalone(svg: str) -> str:
    """Make the chart a file of its own: with a page's name space and style, and a legend of its curves below."""
    named = dict.fromkeys(re.findall(r'<g class="series (\w+)" data-name="([^"]*)"', svg))
    if named:
        height = float(re.search(r'viewBox="0 0 \d+ ([\d.]+)"', svg)[1])  # type: ignore[index]
        keys = [
            f'<g class="series {style}"><path class="curve" d="M16,{height + 14 * row + 4:g} h22"/></g>'
            f'<text class="faint" x="46" y="{height + 14 * row + 8:g}">{name}</text>'
            for row, (style, name) in enumerate(named)
        ]
        svg = svg.replace(f'0 0 {WIDTH} {height:g}"', f'0 0 {WIDTH} {height + 14 * len(named) + 4:g}"', 1)
        svg = svg.replace("</svg>", "".join(keys) + "</svg>")
    return svg.replace(">", f' xmlns="http://www.w3.org/2000/svg"><style>{STYLE}</style>', 1)


def _svg(body: str, title: str, height: float, *, interactive: bool = False) -> str:
    kind = "chart interactive" if interactive else "chart"
    start = f'<svg class="{kind}" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label={quoteattr(title)}>'
    return f"{start}<title>{escape(title)}</title>{body}</svg>"


def _axis(low: float, high: float, start: float, end: float) -> Axis:
    at = ticks(low, high)
    span = at[-1] - at[0]
    return Axis(at, lambda value: start + (value - at[0]) / span * (end - start))


def _plane(
    xs: Sequence[float], ys: Sequence[float], x_label: str, y_label: str, height: float, right: float
) -> tuple[Axis, Axis, list[str]]:
    """Lay out two axes that hold the values; returns them with their lines, ticks and labels."""
    left, right, bottom = 52, WIDTH - right, height - BOTTOM
    across, upward = _axis(min(xs), max(xs), left, right), _axis(min(ys), max(ys), bottom, TOP)
    parts = []
    for tick in upward.ticks:
        y = upward.place(tick)
        parts.append(_line("grid", left, y, right, y) + _text(left - 6, y + 4, number(tick), anchor="end"))
    for tick in across.ticks:
        x = across.place(tick)
        parts.append(_line("axis", x, bottom, x, bottom + 4) + _text(x, bottom + 18, number(tick), anchor="middle"))
    parts.append(_line("axis", left, bottom, right, bottom))
    parts.append(_text((left + WIDTH) / 2, height - 6, x_label, anchor="middle") + _text(4, 14, y_label))
    return across, upward, parts


def _bar(bar: Bar, across: Axis, left: float, y: float) -> tuple[str, float]:
    """Draw a bar below its name and value, which stand one below the other where they are long; and its height."""
    whisker, value = "", f"{bar.mean:.3f}"
    if bar.low == bar.low:
        value += f"  ({bar.low:.3f} to {bar.high:.3f})"
    more = 0 if (len(bar.name) + len(value)) * LETTER < WIDTH - left - 30 else TEXT_LINE
    zero, end, middle = across.place(0.0), across.place(bar.mean), y + 26 + more
    if bar.low == bar.low:
        low, high = across.place(bar.low), across.place(bar.high)
        strokes = (low, high, 0), (low, low, 5), (high, high, 5)
        whisker = "".join(_line("whisker", a, middle - h, b, middle + h) for a, b, h in strokes)
    dots = "".join(_circle("dot", across.place(v), middle + 6, 1.8) for v in bar.points)
    names = _text(left + 16, y + 12, bar.name, kind="name") + _text(WIDTH - 14, y + 12 + more, value, anchor="end")
    boxes = _box("key", left, y + 2, 10, 10), _box("bar", min(zero, end), middle - 8, abs(end - zero), 16)
    return f'<g class="{bar.style}">{boxes[0]}{names}{boxes[1]}{whisker}{dots}</g>', 38 + more


def _text(x: float, y: float, words: str, *, kind: str = "faint", anchor: str = "start") -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {where}>{escape(words)}</text>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _circle(kind: str, x: float, y: float, radius: float) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>'


def _box(kind: str, x: float, y: float, width: float, height: float) -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" {where}/>'


def _averaged(seeds: Sequence[Line]) -> tuple[Line, list[float], list[float]]:
    """Average the curves of one name, and find the ends of the band that they span, over what all of them cover."""
    if len(seeds) == 1:
        return seeds[0], seeds[0].y, seeds[0].y
    first = min(seeds, key=lambda line: line.x[-1])
    begin = max(line.x[0] for line in seeds)
    x = [at for at in first.x if at >= begin] or [first.x[-1]]
    heights = np.array([np.interp(x, line.x, line.y) for line in seeds])  # [seeds, points]
    mean, low, high = (fold(heights, axis=0).tolist() for fold in (np.mean, np.min, np.max))
    return first._replace(x=x, y=mean), low, high


def _cleaned(line: Line, most: int = 200) -> Line:
    """Drop gaps and keep at most ``most`` points: each the mean of its stretch, so none is picked."""
    pairs = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    size = math.ceil(len(pairs) / most) or 1
    stretches = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    x, y = ([sum(p[axis] for p in s) / len(s) for s in stretches] for axis in (0, 1))
    return Line(line.name, line.style, x, y)
