"""Curves of a training over the images it was shown, as SVG inside a page: losses, figures of validations, the pace."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from uadray.reports.page import number, template

WIDTH_PX, HEIGHT_PX = 300, 150
"""Of the field of a plot."""

COLOURS = ("#1f5f8b", "#a8230f", "#2e7d32", "#855300", "#6a3d9a", "#00838f", "#ad1457", "#5a6672")
"""Of the curves in the order of their series; more share the last one."""

TICKS = 4
"""At the most, along the upright axis."""

_PLACE = {"epoch", "step", "phase", "seconds", "waiting", "images_shown", "validated"}
"""Names in a line of metrics that are no curve."""

_LAST = ("diversity", "tiles_per_second")
"""Curves that stand behind the losses."""


class Series(NamedTuple):
    """A curve: its name, and its points (x, y) in the order of x."""

    name: str
    points: Sequence[tuple[float, float]]


def series_of(lines: Sequence[Mapping[str, Any]]) -> list[Series]:
    """The curves in the lines of metrics of a run: first validations, then losses, then the rest.

    Args:
        lines: one for each epoch. What an epoch does not have (its validation has not come, its phase has other losses)
            is left out of its curve.
    """
    figures = {name for line in lines for name in line.get("validated", ())}
    names = [name for line in lines for name, value in line.items() if _is_number(value) and name not in _PLACE]
    ordered = sorted(dict.fromkeys(names), key=lambda name: (name not in figures, name in _LAST))
    return [Series(name, points_of(lines, name)) for name in ordered]


def points_of(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """A figure of every epoch that has it, over the images shown by then (steps, of runs before these were counted).

    >>> points_of([{"step": 5, "images_shown": 40, "loss": 2.0}, {"step": 10, "images_shown": 80}], "loss")
    [(40.0, 2.0)]
    """
    return [
        (float(line.get("images_shown", line.get("step", 0))), float(line[name]))
        for line in lines
        if _is_number(line.get(name))
    ]


def curve_svg(title: str, series: Sequence[Series], *, coloured: Sequence[str] = COLOURS, wide: bool = False) -> Markup:
    """A plot of one curve or several, which has to stand within a page with `detectors.css`.

    Args:
        title: below the plot.
        series: the curves; those without points are left out.
        coloured: colour of each series, in their order.
        wide: twice as large.
    """
    drawn = [(each, coloured[min(i, len(coloured) - 1)]) for i, each in enumerate(series) if each.points]
    ys = [y for each, _ in drawn for _, y in each.points]
    most = max((x for each, _ in drawn for x, _ in each.points), default=1.0) or 1.0
    ticks = nice_ticks(min(ys), max(ys)) if ys else [0.0, 1.0]
    low, high = ticks[0], ticks[-1]
    width, height = (2 * WIDTH_PX, 2 * HEIGHT_PX) if wide else (WIDTH_PX, HEIGHT_PX)
    lines = [
        {
            "name": each.name,
            "colour": colour,
            "points": [(round(x / most * width, 1), _height(y, low, high, height)) for x, y in each.points],
            "last": number(each.points[-1][1]),
        }
        for each, colour in drawn
    ]
    shown = template("curve.svg").render(
        title=title.replace("_", " "),
        lines=lines,
        ticks=[(_height(y, low, high, height), _tick(y)) for y in ticks],
        most=short(most),
        width=width,
        height=height,
    )
    return Markup(shown)  # noqa: S704 - a template of ours, which escapes


def nice_ticks(low: float, high: float) -> list[float]:
    """Round numbers from below `low` to above `high`, at most `TICKS` steps of 1, 2 or 5 times a power of ten.

    >>> nice_ticks(0.13, 0.77), nice_ticks(-3.2, 11.0), nice_ticks(2.0, 2.0)
    ([0.0, 0.2, 0.4, 0.6, 0.8], [-5.0, 0.0, 5.0, 10.0, 15.0], [1.5, 2.0, 2.5])
    """
    if high - low < 1e-9 * max(abs(high), 1e-9):
        pad = abs(low) / 2 or 1.0
        low, high = low - pad / 2, high + pad / 2
    power = 10.0 ** math.floor(math.log10((high - low) / TICKS))
    for step in (power, 2 * power, 5 * power, 10 * power, 20 * power):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= TICKS:
            break
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def short(count: float) -> str:
    """A count of images as an axis has it.

    >>> short(640), short(12800), short(2_500_000)
    ('640', '12.8 k', '2.5 M')
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if count >= 10 * size or (count >= size and letter == "M"):
            return f"{count / size:.3g} {letter}"
    return f"{count:.0f}"


def _tick(y: float) -> str:
    return f"{y:g}".replace("-", "\N{MINUS SIGN}")


def _height(y: float, low: float, high: float, height_px: int) -> float:
    """Pixels from the top of the field."""
    return round(height_px * (1 - (y - low) / (high - low)), 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
