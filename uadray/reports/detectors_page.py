"""The page of `uadray bench detectors`: one table of all detectors, their ROC curves, and what the columns mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from uadray.reports.mappings_section import figure, mappings_section
from uadray.reports.page import asset, csp_hash, template
from uadray.reports.rounded import count, fall, rate, share, signed, whole

COLOURS = ("#1f5f8b", "#a8230f", "#2e7d32", "#855300", "#6a3d9a", "#00838f", "#ad1457", "#5a6672")
"""Of the curves, in the order of the rows; the curves of more rows share the last one."""

CURVE_PX = 340
"""Side of the square of curves."""

MOST_MAPPINGS = 5
"""Curves of mappings over generators: those of the highest AUROC."""


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
        mappings=mappings_section(answer),
        has_mosaics=any(figure(row, "mosaic") for row in rows),
        style=Markup(style),  # noqa: S704 - our own
        style_hash=csp_hash(style),
        figure=figure,
        share=share,
        rate=rate,
        fall=fall,
        count=count,
        signed=signed,
        whole=whole,
        budget=budget,
        left_out=left_out,
    )


def budget(row: Mapping[str, Any]) -> str:
    """What a row's training was given."""
    of_group = {"bundle": "trained elsewhere", "trivial score": "none", "supervised": "has seen tumour"}
    return str(row.get("budget") or of_group.get(row["group"], ""))


def left_out(row: Mapping[str, Any]) -> str:
    """What of the tiles was not scored, and why; "" where nothing was left out.

    >>> left_out({"mean": {"scored": {"every": 4, "why": "a tile takes 80 ms"}, "slides": {}}})
    'every 4th tile, no mosaics: a tile takes 80 ms'
    """
    scored = figure(row, "scored") or {}
    every, why = scored.get("every", 1), scored.get("why", "")
    thinned = f"every {every:g}{'nd' if every == 2 else 'rd' if every == 3 else 'th'} tile" if every > 1 else ""
    parts = [thinned, "no mosaics" if why and not figure(row, "slides") else ""]
    said = ", ".join(part for part in parts if part)
    return f"{said}: {why}" if said and why else said


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
    return write(figure(row, path))


def _curves(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Name, colour and points of each row's ROC curve, in pixels of the square."""
    mappings = [row["label"] for row in rows if row["group"] == "mapping" and "mean" in row][MOST_MAPPINGS:]
    with_curve = [row for row in rows if "mean" in row and row["label"] not in mappings]
    return [
        {"name": row["label"], "colour": COLOURS[min(i, len(COLOURS) - 1)], "points": _points(*row["mean"]["roc"])}
        for i, row in enumerate(with_curve)
    ]


def _points(false_alarms: Sequence[float], sensitivity: Sequence[float]) -> str:
    return " ".join(
        f"{x * CURVE_PX:.1f},{(1 - y) * CURVE_PX:.1f}" for x, y in zip(false_alarms, sensitivity, strict=True)
    )
