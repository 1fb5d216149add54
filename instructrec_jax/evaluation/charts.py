"""Geometry of the report's line charts.

A chart's lines are drawn as SVG in a 100 x 100 box that the page stretches to any width; texts
stand beside it in HTML, placed in percent, so that they keep their size on a telephone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# More points than this are averaged in neighbouring groups: the eye sees no more.
MAX_POINTS = 400

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in percent of its length, and the text there."""

    position: float
    label: str


@dataclass(frozen=True)
class Line:
    """One line of a chart: SVG path, style, and its points in percent of the box."""

    name: str
    style: str
    path: str
    points: tuple[Point, ...]
    last: str


@dataclass(frozen=True)
class LineChart:
    """Everything that the template needs to draw one chart.

    `hover` is {"x": [...], "lines": [{"name", "style", "points": [[step, value, x %, y %]]}]}.
    """

    name: str
    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    averaged: int
    hover: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Series:
    """The data of one line; `style` is a class of the style sheet."""

    name: str
    style: str
    points: Sequence[Point]


def line_chart(
    *, name: str, title: str, series: Sequence[Series], from_zero: bool = False
) -> LineChart | None:
    """Lay out a chart of values over steps; None where no series has a point."""
    groups = [math.ceil(len(each.points) / MAX_POINTS) for each in series if each.points]
    drawn = [(each, average_groups(each.points)) for each in series if each.points]
    if not drawn:
        return None
    steps = [x for _, points in drawn for x, _ in points]
    values = [y for _, points in drawn for _, y in points]
    x_low, x_high = min(steps), max(steps)
    if x_low == x_high:
        x_low, x_high = x_low - 1, x_high + 1
    y_marks = nice_ticks(0.0 if from_zero else min(values), max(values), 5)
    y_low, y_high = y_marks[0], y_marks[-1]
    lines = []
    for each, points in drawn:
        placed = tuple((_percent(x, x_low, x_high), _percent(y, y_low, y_high)) for x, y in points)
        path = "M" + " L".join(f"{x:.2f},{100 - y:.2f}" for x, y in placed)
        lines.append(
            Line(
                name=each.name,
                style=each.style,
                path=path,
                points=placed,
                last=number_label(each.points[-1][1]),
            )
        )
    x_marks = [mark for mark in nice_ticks(x_low, x_high, 6) if x_low <= mark <= x_high]
    return LineChart(
        name=name,
        title=title,
        lines=tuple(lines),
        x_ticks=tuple(Tick(_percent(m, x_low, x_high), number_label(m)) for m in x_marks),
        y_ticks=tuple(Tick(_percent(m, y_low, y_high), number_label(m)) for m in y_marks),
        averaged=max(groups),
        hover={
            "lines": [
                {
                    "name": line.name,
                    "style": line.style,
                    "points": [
                        [number_label(x), number_label(y), round(at_x, 2), round(at_y, 2)]
                        for (x, y), (at_x, at_y) in zip(points, line.points, strict=True)
                    ],
                }
                for (_, points), line in zip(drawn, lines, strict=True)
            ],
        },
    )


def average_groups(points: Sequence[Point]) -> list[Point]:
    """At most MAX_POINTS points: the mean of each group of neighbours, at its last step."""
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers with equal steps (1, 2 or 5 times a power of ten).

    The first is at or below `low`, the last at or above `high`; at least two.
    """
    if low == high:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    raw = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def number_label(value: float) -> str:
    """A short text of a number: thousands grouped, about four digits, powers for tiny ones."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 0.01:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def _percent(value: float, low: float, high: float) -> float:
    return 100 * (value - low) / (high - low)
