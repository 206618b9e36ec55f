"""The page of an evaluation: its figures as a table for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from uadray.reports.page import csp_hash, template

_STYLE = "body{font:15px system-ui;margin:2rem}th{text-align:left;font-weight:500;padding-right:2rem}"


def evaluation_page(title: str, figures: Mapping[str, Any]) -> str:
    """The figures as an HTML page with one table, which needs nothing from elsewhere.

    Args:
        title: what was evaluated.
        figures: by name, in the order to show them; the figures of a nested mapping follow its name and a colon.
    """
    return template("evaluation.html").render(
        title=title,
        rows=list(_rows(figures)),
        style=Markup(_STYLE),  # noqa: S704 - our own
        style_hash=csp_hash(_STYLE),
    )


def _rows(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{name}: ")
        elif name != "curve":
            yield prefix + name.replace("_", " "), _text(value)


def _text(value: Any) -> str:
    """Three decimals of a number, the ends of an interval, a dash for nothing.

    >>> _text(0.98765), _text([0.9, 1.0]), _text(None), _text(12)
    ('0.988', '0.900 to 1.000', '-', '12')
    """
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list):
        return " to ".join(_text(v) for v in value)
    return "-" if value is None else str(value)
