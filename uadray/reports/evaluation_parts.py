"""What the page of an evaluation is made of: sections of sentences, plots and tables; how its numbers are written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from uadray.reports.page import thousands
from uadray.reports.plots import Plot, plot_svg

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"

Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        head: one cell a column.
        rows: of cells; the first names the row.
        title: above it.
        caption: a sentence below it.
        chosen: rows that stand out, by number.
        texts: columns that hold words, by number.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    caption: str = ""
    chosen: Sequence[int] = ()
    texts: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page under a heading; `name` is its anchor."""

    name: str
    title: str
    texts: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = field(default=())

    @property
    def drawn(self) -> list[tuple[Plot, Markup]]:
        """The plots, each with its SVG."""
        return [(plot, plot_svg(plot)) for plot in self.plots]


@dataclass(frozen=True)
class Verdict:
    """A sentence at the top: `good`, `bad` or neither (an empty kind)."""

    text: str
    kind: str = ""


def share(value: float | None) -> str:
    """Per cent: whole where it is not near an end.

    >>> share(0.918), share(0.0125), share(0.999), share(1.0), share(None)
    ('92 %', '1.2 %', '99.9 %', '100 %', '–')
    """
    if value is None:
        return DASH
    percent = 100 * value
    digits = 1 if 0 < percent < 9.95 or 99 < percent < 100 else 0
    return f"{min(percent, 99.9) if percent < 100 else percent:.{digits}f} %"


def figure(value: float | None) -> str:
    """Three decimals.

    >>> figure(0.98765), figure(-0.01), figure(None)
    ('0.988', '−0.010', '–')
    """
    return DASH if value is None else f"{value:.3f}".replace("-", MINUS)


def between(interval: Sequence[float] | None, *, as_share: bool = False) -> str:
    """An interval.

    >>> between([0.9, 1.0]), between([0.63, 1.0], as_share=True), between(None)
    ('0.900 to 1.000', '63 % to 100 %', '–')
    """
    if interval is None:
        return DASH
    return " to ".join(share(end) if as_share else figure(end) for end in interval)


def of(part: int, whole: int) -> str:
    """How many of how many.

    >>> of(3, 8)
    '3 of 8'
    """
    return f"{thousands(part)} of {thousands(whole)}"


def counted(n: int, what: str) -> str:
    """A count with its noun.

    >>> counted(1, "slide"), counted(2, "slide")
    ('1 slide', '2 slides')
    """
    return f"{thousands(n)} {what}{'' if n == 1 else 's'}"


def text_of(value: Any) -> str:
    """A figure as it stands in the table of all: three decimals, the ends of an interval, a dash for nothing.

    >>> text_of(0.98765), text_of([0.9, 1.0]), text_of(None), text_of(12), text_of(123456.25)
    ('0.988', '0.900 to 1.000', '-', '12', '123456')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:.6g}"
    if isinstance(value, list):
        joint = " to " if len(value) == 2 and not any(isinstance(v, str) for v in value) else ", "
        return joint.join(text_of(v) for v in value)
    return "-" if value is None else str(value)
