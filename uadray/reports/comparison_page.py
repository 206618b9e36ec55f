"""The page of models that were trained side by side: one table, their curves together, and their pictures."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from uadray.reports.curves import COLOURS, Series, curve_svg, points_of, series_of
from uadray.reports.page import asset, csp_hash, number, template
from uadray.reports.samples import DRAWN_WORDS, facts_of

WORDS = DRAWN_WORDS | {"newest": "The newest sample of its training"}
"""What the pictures of a model show."""

_ALONE = ("tiles_per_second",)
"""Curves that are in the table already."""


@dataclass(frozen=True)
class Compared:
    """One model.

    Attributes:
        name: of its configuration's file, and of its folder beside the page.
        kind: of its architecture.
        input_px: side of its pictures.
        parameters: by network.
        lines: of metrics, one for each epoch that is done.
        why: it has failed, in a sentence; "" where it has not.
        pictures: JPEGs by what they show, see `WORDS`.
        page: of its own, relative to this one; "" where there is none.
    """

    name: str
    kind: str
    input_px: int
    parameters: Mapping[str, int]
    lines: Sequence[Mapping[str, Any]]
    why: str = ""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    page: str = ""


def comparison_page(title: str, models: Sequence[Compared]) -> str:
    """The HTML page, which needs nothing from elsewhere: its pictures are within it."""
    style = asset("detectors.css")
    figures = figures_of(models)
    return template("comparison.html").render(
        title=title,
        rows=[_row(model, COLOURS[min(i, len(COLOURS) - 1)], figures) for i, model in enumerate(models)],
        figures=figures,
        plots=[_together(name, models) for name in figures],
        words=WORDS,
        failed=sum(bool(model.why) for model in models),
        number=number,
        style=Markup(style),  # noqa: S704 - our own
        style_hash=csp_hash(style),
    )


def figures_of(models: Sequence[Compared]) -> list[str]:
    """Names of the figures of all validations, in the order in which they are met."""
    return list(dict.fromkeys(n for model in models for line in model.lines for n in line.get("validated", ())))


def _row(model: Compared, colour: str, figures: Sequence[str]) -> dict[str, Any]:
    """What table and sections say of a model."""
    curves = [each for each in series_of(model.lines) if each.name not in _ALONE]
    losses = [each for each in curves if each.name not in figures]
    validations = {each.name: [y for _, y in each.points] for each in curves if each.name in figures}
    return {
        "name": model.name, "kind": model.kind, "px": model.input_px, "why": model.why, "page": model.page,
        "colour": colour, "facts": facts_of(model.lines), "parameters": model.parameters,
        "all_parameters": sum(model.parameters.values()),
        "losses": {each.name: each.points[-1][1] for each in losses},
        "figures": {name: {"first": ys[0], "last": ys[-1], "least": min(ys)} for name, ys in validations.items()},
        "curves": [curve_svg(each.name, [each], coloured=[colour]) for each in losses],
        "pictures": {what: base64.b64encode(data).decode() for what, data in model.pictures.items()},
    }  # fmt: skip


def _together(name: str, models: Sequence[Compared]) -> Markup:
    """The curves of all models of one figure; each has its colour."""
    return curve_svg(name, [Series(model.name, points_of(model.lines, name)) for model in models], wide=True)
