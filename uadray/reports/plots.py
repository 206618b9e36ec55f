"""Plots of curves with their intervals, as SVG inside a page: two axes, lines, bands and points."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from markupsafe import Markup

from uadray.reports.page import template

WIDTH_PX, HEIGHT_PX = 340, 270
"""Of the field of a plot."""

BLUE, RED, GREEN, GREY = "#1f5f8b", "#a8230f", "#2e7d32", "#5a6672"
"""Of what is judged, of what it decided, of what it is compared with, and of what is trivial."""

Points = Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What stands along an axis.

    Attributes:
        label: what is shown.
        high: its end; it begins at 0.
        ticks: values that are written.
        percent: whether these are shares, written as per cent.
    """

    label: str
    high: float = 1.0
    ticks: Sequence[float] = (0, 0.2, 0.4, 0.6, 0.8, 1.0)
    percent: bool = True


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve.

    Attributes:
        name: in the legend; none where it is empty.
        points: rows of x and y, in the order of x.
        band: rows of x and the two ends of an interval; none where it is empty.
        colour: of curve and band.
        dashed: for what is expected, not measured.
        steps: whether the curve stays level up to the next point, or takes its height from the point before; neither
            where it is None.
    """

    name: str
    points: Points = ()
    band: Points = ()
    colour: str = BLUE
    dashed: bool = False
    steps: Literal["level", "upright"] | None = None


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point with a name in the legend."""

    name: str
    x: float
    y: float
    colour: str = RED


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot.

    Attributes:
        name: which no other plot of the page has; letters, digits and `-`.
        title: what people read above it.
        says: what it shows, in a sentence, for those who cannot see it.
        x: axis.
        y: axis.
        lines: curves, the first in front.
        marks: points.
        note: below it.
    """

    name: str
    title: str
    says: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    marks: Sequence[Mark] = field(default=())
    note: str = ""


def plot_svg(plot: Plot) -> Markup:
    """The SVG of a plot, which has to stand within a page with `evaluation.css`."""
    drawn = [_line(plot, line) for line in plot.lines]
    shown = template("plot.svg").render(
        plot=plot,
        width=WIDTH_PX,
        height=HEIGHT_PX,
        x_ticks=[(_across(plot, value), _tick(plot.x, value)) for value in plot.x.ticks],
        y_ticks=[(_down(plot, value), _tick(plot.y, value)) for value in plot.y.ticks],
        lines=drawn[::-1],
        marks=[{"x": _across(plot, m.x), "y": _down(plot, m.y), "mark": m} for m in plot.marks],
    )
    return Markup(shown)  # noqa: S704 - a template of ours, which escapes


def _line(plot: Plot, line: Line) -> dict[str, Any]:
    points = _stepped(line.points, line.steps) if line.steps else line.points
    there = [(row[0], row[1]) for row in line.band]
    back = [(row[0], row[2]) for row in reversed(line.band)]
    return {"line": line, "points": _path(plot, points), "band": _path(plot, [*there, *back])}


def _stepped(points: Points, first: Literal["level", "upright"]) -> list[tuple[float, float]]:
    """From point to point first level, then upright, or the other way round."""
    steps: list[tuple[float, float]] = []
    for row in points:
        if steps:
            before = steps[-1]
            steps.append((row[0], before[1]) if first == "level" else (before[0], row[1]))
        steps.append((row[0], row[1]))
    return steps


def _path(plot: Plot, points: Points) -> str:
    inside = [row for row in points if row[0] <= plot.x.high * 1.0001]
    return " ".join(f"{_across(plot, row[0])},{_down(plot, row[1])}" for row in inside)


def _across(plot: Plot, x: float) -> float:
    return round(x / plot.x.high * WIDTH_PX, 1)


def _down(plot: Plot, y: float) -> float:
    return round(HEIGHT_PX * (1 - y / plot.y.high), 1)


def _tick(axis: Axis, value: float) -> str:
    return f"{100 * value:g} %" if axis.percent else f"{value:g}"
