"""The page of an evaluation: what its figures mean in sentences, plots with intervals, and tables for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from uadray.reports.evaluation_parts import Figures, Section, Verdict, text_of
from uadray.reports.evaluation_sections import decision_section, detection_section, verdicts
from uadray.reports.given_sections import MANY_NUMBERS, aggregation_section, localisation_section, words
from uadray.reports.page import asset, csp_hash, template
from uadray.reports.plots import Plot
from uadray.reports.reading_sections import (
    budget_section,
    budget_verdict,
    comparison_section,
    comparison_verdict,
    subgroup_section,
)
from uadray.reports.validity_section import validity_section


def evaluation_page(title: str, figures: Mapping[str, Any]) -> str:
    """The figures as an HTML page, which needs nothing from elsewhere.

    Args:
        title: what was evaluated.
        figures: as `uadray.evaluation.figures` gives them, and what other parts of the evaluation add: `froc` and
            `aupro`, `comparison`, `budget`, `validity`, `aggregations`. Whatever the page has no section for stands in
            the table of all figures at its end.
    """
    style = asset("evaluation.css")
    return template("evaluation.html").render(
        title=title,
        verdicts=list(_verdicts(figures)),
        sections=list(_sections(figures)),
        rows=list(_rows({name: value for name, value in figures.items() if name not in ("budget", "subgroups")})),
        key_of=key_of,
        style=Markup(style),  # noqa: S704 - our own
        style_hash=csp_hash(style),
    )


def key_of(plot: Plot) -> list[dict[str, Any]]:
    """The legend of a plot: name, colour, and whether it is a point or dashed."""
    lines = [
        {"name": line.name, "colour": line.colour, "is_point": False, "dashed": line.dashed}
        for line in plot.lines
        if line.name
    ]
    return lines + [
        {"name": mark.name, "colour": mark.colour, "is_point": True, "dashed": False} for mark in plot.marks
    ]


def _verdicts(figures: Figures) -> Iterator[Verdict]:
    yield from verdicts(figures)
    if figures.get("budget"):
        yield budget_verdict(figures["budget"])
    if figures.get("comparison"):
        yield comparison_verdict(figures["comparison"])
    validity = figures.get("validity") or {}
    if isinstance(validity, Mapping) and isinstance(validity.get("verdict"), str):
        holds = validity.get("holds")
        yield Verdict(validity["verdict"], "" if holds is None else "good" if holds else "bad")


def _sections(figures: Figures) -> Iterator[Section]:
    if figures.get("slide_auroc") is not None and "curves" in figures:
        yield detection_section(figures, "slide", name="slides")
        decisions = decision_section(figures)
        if decisions is not None:
            yield decisions
    elif figures.get("auroc") is not None and "curves" in figures:
        yield detection_section(figures, "tile", name="tiles")
    if figures.get("budget"):
        yield budget_section(figures["budget"])
    if figures.get("tiles"):
        yield detection_section(figures["tiles"] | {"trivial": figures.get("trivial")}, "tile", name="tiles")
    localisation = localisation_section(figures)
    if localisation is not None:
        yield localisation
    if figures.get("comparison"):
        yield comparison_section(figures["comparison"])
    if figures.get("validity"):
        yield validity_section(figures["validity"])
    if figures.get("aggregations"):
        yield aggregation_section(figures["aggregations"])
    if figures.get("subgroups"):
        yield subgroup_section(figures["subgroups"])


def _rows(figures: Figures, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in figures.items():
        if name in MANY_NUMBERS:
            continue
        if isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{words(name)}: ")
        elif not (isinstance(value, list) and value and isinstance(value[0], Mapping | list)):
            yield prefix + words(name), text_of(value)
