"""The page of `uadray bench detectors`: one table of all detectors, their ROC curves, and what the columns mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from uadray.reports.page import asset, csp_hash, number, template, thousands

COLOURS = ("#1f5f8b", "#a8230f", "#2e7d32", "#855300", "#6a3d9a", "#00838f", "#ad1457", "#5a6672")
"""Of the curves, in the order of the rows; the curves of more rows share the last one."""

CURVE_PX = 340
"""Side of the square of curves."""


def detectors_page(answer: Mapping[str, Any]) -> str:
    """The HTML page, which needs nothing from elsewhere.

    Args:
        answer: what `uadray.bench.detectors` writes as `detectors.json`.
    """
    style = asset("detectors.css")
    rows = answer["rows"]
    return template("detectors.html").render(
        answer=answer,
        rows=rows,
        seeds=max((len(row["seeds"]) for row in rows), default=0),
        curves=_curves(rows),
        side=CURVE_PX,
        goals=_goals(answer),
        style=Markup(style),  # noqa: S704 - our own
        style_hash=csp_hash(style),
        figure=_figure,
        share=share,
        rate=rate,
        fall=fall,
        count=count,
        signed=signed,
        whole=whole,
        budget=budget,
        left_out=left_out,
    )


def share(value: float | None) -> str:
    """Three decimals, as AUROCs and shares are written; a dash for nothing.

    >>> share(0.88612), share(-0.004), share(None)
    ('0.886', '−0.004', '–')
    """
    return "\N{EN DASH}" if value is None else f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def fall(value: float | None) -> str:
    """How far an AUROC fell, or rose.

    >>> fall(0.0063), fall(-0.0021), fall(None)
    ('falls by 0.006', 'rises by 0.002', '')
    """
    return "" if value is None else f"{'falls' if value >= 0 else 'rises'} by {share(abs(value))}"


def count(value: float | None) -> str:
    """A count, or the mean of several: one decimal where it is not whole.

    >>> count(8), count(7.666), count(None)
    ('8', '7.7', '–')
    """
    return "\N{EN DASH}" if value is None else f"{value:.0f}" if value == round(value) else f"{value:.1f}"


def signed(value: float | None) -> str:
    """A difference.

    >>> signed(0.0314), signed(-0.2), signed(None)
    ('+0.031', '−0.200', '–')
    """
    return f"+{share(value)}" if value is not None and value >= 0 else share(value)


def whole(value: float | None) -> str:
    """A large count, or the mean of several.

    >>> whole(10240.0), whole(None)
    ('10\u202f240', '–')
    """
    return "\N{EN DASH}" if value is None else thousands(round(value))


def budget(row: Mapping[str, Any]) -> str:
    """What a row's training was given."""
    of_group = {"bundle": "trained elsewhere", "trivial score": "none", "supervised": "has seen tumour"}
    return str(row.get("budget") or of_group.get(row["group"], ""))


def left_out(row: Mapping[str, Any]) -> str:
    """What of the tiles was not scored, and why; "" where nothing was left out.

    >>> left_out({"mean": {"scored": {"every": 4, "why": "a tile takes 80 ms"}, "slides": {}}})
    'every 4th tile, no mosaics: a tile takes 80 ms'
    """
    scored = _figure(row, "scored") or {}
    every, why = scored.get("every", 1), scored.get("why", "")
    thinned = f"every {every:g}{'nd' if every == 2 else 'rd' if every == 3 else 'th'} tile" if every > 1 else ""
    parts = [thinned, "no mosaics" if why and not _figure(row, "slides") else ""]
    said = ", ".join(part for part in parts if part)
    return f"{said}: {why}" if said and why else said


def rate(value: float | None) -> str:
    """Three significant digits, and whole numbers from a hundred on.

    >>> rate(43204.9), rate(58.31), rate(None)
    ('43\u202f205', '58.3', '–')
    """
    return thousands(round(value)) if value is not None and value >= 100 else number(value)


def _figure(row: Mapping[str, Any], path: str) -> Any:
    """A figure of a row, mean of its seeds, by its path; None where there is none."""
    value: Any = row.get("mean")
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _goals(answer: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Name, goal, what was hoped for and what was reached, of the recommended detector; none without its row."""
    row = next((row for row in answer["rows"] if row["name"] == answer["recommended"]), None)
    if row is None:
        return []
    aims = {path: f"{aim:g}" for path, aim in answer["aims"].items()}
    return [
        (path.replace(".", ", ").replace("_", " "), goal, aims.get(path, ""), _reached(row, path))
        for path, goal in answer["goals"].items()
    ]


def _reached(row: Mapping[str, Any], path: str) -> str:
    write = count if path.endswith(("called", "false_alarms")) else share
    return write(_figure(row, path))


def _curves(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Name, colour and points of each row's ROC curve, in pixels of the square."""
    with_curve = [row for row in rows if "mean" in row]
    return [
        {"name": row["label"], "colour": COLOURS[min(i, len(COLOURS) - 1)], "points": _points(*row["mean"]["roc"])}
        for i, row in enumerate(with_curve)
    ]


def _points(false_alarms: Sequence[float], sensitivity: Sequence[float]) -> str:
    return " ".join(
        f"{x * CURVE_PX:.1f},{(1 - y) * CURVE_PX:.1f}" for x, y in zip(false_alarms, sensitivity, strict=True)
    )
