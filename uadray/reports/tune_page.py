"""The page of `uadray tune`: the trials, best first, and the AUROC against each parameter, steps and the criterion."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from uadray.reports.page import asset, csp_hash, number, template
from uadray.training.tune_config import told_value

WIDTH_PX, HEIGHT_PX = 300, 200
"""Of the field of a plot."""

LONGEST = 44
"""Characters of the names below a plot, together; where they are longer, letters stand for them."""

Plot = dict[str, Any]
"""`title`, `points` (x, y, lower and upper end, whether it is the best), `lines`, `x_ticks`, `y_ticks`, and `names` for
which letters below it stand."""


def tune_page(answer: Mapping[str, Any]) -> str:
    """The HTML page, which needs nothing from elsewhere.

    Args:
        answer: what `uadray.commands.tune` writes as `trials.json`.
    """
    style = asset("detectors.css")
    rows = answer["rows"]
    return template("tune.html").render(
        answer=answer,
        rows=rows,
        best=rows[0] if rows and rows[0]["state"] == "complete" else None,
        plots=plots(answer["parameters"], rows),
        width=WIDTH_PX,
        height=HEIGHT_PX,
        told_value=told_value,
        figure=figure,
        number=number,
        style=Markup(style),  # noqa: S704 - our own
        style_hash=csp_hash(style),
    )


def figure(value: float | None) -> str:
    """An AUROC: three decimals, a dash for nothing.

    >>> figure(0.71249), figure(None)
    ('0.712', '–')
    """
    return "\N{EN DASH}" if value is None else f"{value:.3f}"


def plots(parameters: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """One for each parameter, one against the steps, one against the criterion; none where no trial is complete."""
    done = [row for row in rows if row["state"] == "complete"]
    if not done:
        return []
    values = [value for row in done for value in row["auroc_folds"]]
    values += [value for row in rows for _, value in row["curve"]]
    low, high = _around(min(values), max(values))
    of_parameters = [_against(name, [row["params"][name] for row in done], done, low, high) for name in parameters]
    criterion = _against("mean score of held-out normal tiles", [row["criterion"] for row in done], done, low, high)
    return [*of_parameters, _curves(rows, low, high), criterion]


def _around(low: float, high: float) -> tuple[float, float]:
    """The ends of the axis: tenths or twentieths around all values.

    >>> _around(0.513, 0.748), _around(0.61, 0.61)
    ((0.5, 0.75), (0.6, 0.65))
    """
    low, high = int(low * 20) / 20, -int(-high * 20 - 0.999999) / 20
    return low, max(high, low + 0.05)


def _against(title: str, values: Sequence[Any], rows: Sequence[Mapping[str, Any]], low: float, high: float) -> Plot:
    xs, ticks = _places(values)
    points = [
        {
            "x": x, "y": _height(row["auroc"], low, high), "is_best": row is rows[0],
            "top": _height(max(row["auroc_folds"]), low, high), "bottom": _height(min(row["auroc_folds"]), low, high),
            "label": f"trial {row['number']}: {row['auroc']:.3f}",
        }
        for x, row in zip(xs, rows, strict=True)
    ]  # fmt: skip
    return {
        "title": title, "points": points, "lines": [], "x_ticks": ticks, "y_ticks": _y_ticks(low, high),
        "names": _named(values, ticks),
    }  # fmt: skip


def _places(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Where values stand along the axis, and its ticks: numbers on a scale, all else side by side."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        least, most = float(min(values)), float(max(values))
        span = most - least or 1.0
        middle = 0.5 if most == least else 0.0
        xs = [(0.06 + 0.88 * ((v - least) / span or middle)) * WIDTH_PX for v in values]
        chosen = sorted({min(values), max(values)} if len(set(values)) > 6 else set(values))
        return xs, [((0.06 + 0.88 * ((v - least) / span or middle)) * WIDTH_PX, told_value(v)) for v in chosen]
    names = sorted(set(map(told_value, values)), key=_by_numbers)
    step = WIDTH_PX / len(names)
    shown = names if sum(map(len, names)) <= LONGEST else [_letter(i) for i in range(len(names))]
    ticks = [((i + 0.5) * step, name) for i, name in enumerate(shown)]
    return [(names.index(told_value(v)) + 0.5) * step for v in values], ticks


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """For sorting: block4 before block10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _letter(i: int) -> str:
    return chr(ord("A") + i % 26) * (1 + i // 26)


def _named(values: Sequence[Any], ticks: Sequence[tuple[float, str]]) -> list[tuple[str, str]]:
    """The letters below a plot, with the names that they stand for."""
    names = sorted({told_value(v) for v in values if not isinstance(v, int | float)}, key=_by_numbers)
    return [(text, name) for (_, text), name in zip(ticks, names, strict=False) if text != name]


def _curves(rows: Sequence[Mapping[str, Any]], low: float, high: float) -> Plot:
    """The mean AUROC of each trial against the steps of a fold; a trial with one point has a dot."""
    curved = [row for row in rows if row["curve"]]
    most = max(step for row in curved for step, _ in row["curve"])
    lines, points = [], []
    for i, row in enumerate(curved):
        at = [(step / most * WIDTH_PX, _height(value, low, high)) for step, value in row["curve"]]
        if len(at) > 1:
            text = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
            lines.append({"points": text, "is_best": i == 0, "is_stopped": row["state"] != "complete"})
        else:
            points.append({"x": at[0][0], "y": at[0][1], "top": at[0][1], "bottom": at[0][1], "is_best": i == 0,
                           "label": f"trial {row['number']}"})  # fmt: skip
    ticks = [(share * WIDTH_PX, f"{share * most:.0f}") for share in (0, 1)]
    return {
        "title": "steps of a fold",
        "points": points,
        "lines": lines[::-1],
        "x_ticks": ticks,
        "y_ticks": _y_ticks(low, high),
        "names": [],
    }


def _height(value: float, low: float, high: float) -> float:
    """Pixels from the top of the field."""
    return round(HEIGHT_PX * (1 - (value - low) / (high - low)), 1)


def _y_ticks(low: float, high: float) -> list[tuple[float, str]]:
    step = 0.05 if high - low <= 0.3 else 0.1
    n = int((high - low) / step + 1e-6)
    return [(_height(low + i * step, low, high), f"{low + i * step:.2f}") for i in range(n + 1)]
