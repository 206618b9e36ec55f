"""The card of a bundle: what a detector is, what it is for, how well it does, in Markdown and as a page.

The sections are those of Mitchell et al. 2019, "Model Cards for Model Reporting" (https://arxiv.org/abs/1810.03993):
details, intended use, factors, metrics, evaluation data, training data, analyses, caveats. What a bundle says of
itself may come from anybody, and is shown as text and nothing else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from uadray.reports.page import csp_hash, template

RESEARCH_USE = "Research use only: not a medical device. A slide called normal has not been seen by anybody."

_STYLE = (
    "body{font:15px/1.5 system-ui;margin:2rem auto;max-width:52rem;padding:0 1rem}"
    "h2{margin:1.6em 0 .3em;font-size:1.1em}"
    "p,ul{margin:.3em 0}th,td{text-align:left;vertical-align:top;padding:.15em 1.2em .15em 0;font-weight:400}"
    "th{color:#555}.use{font-weight:600;border:1px solid;padding:.4em .8em;border-radius:4px}"
)


@dataclass(frozen=True)
class Section:
    """A part of a card.

    Attributes:
        title: of the part.
        lines: sentences of uadray's own, one a paragraph; commands between backquotes.
        points: the same, one a bullet.
        rows: names and values, which may be anybody's.
    """

    title: str
    lines: Sequence[str] = ()
    points: Sequence[str] = ()
    rows: Sequence[tuple[str, str]] = ()


def card_markdown(title: str, sections: Sequence[Section]) -> str:
    """The card as Markdown."""
    return "\n".join(_lines(title, sections)) + "\n"


def card_page(title: str, sections: Sequence[Section]) -> str:
    """The card as an HTML page, which needs nothing from elsewhere."""
    return template("card.html").render(
        title=_plain(title),
        sections=sections,
        research_use=RESEARCH_USE,
        style=Markup(_STYLE),  # noqa: S704 - our own
        style_hash=csp_hash(_STYLE),
    )


def _lines(title: str, sections: Sequence[Section]) -> Iterator[str]:
    yield from (f"# {_escaped(title)}", "", f"**{RESEARCH_USE}**")
    for section in sections:
        yield from ("", f"## {_escaped(section.title)}")
        yield from (text for line in section.lines for text in ("", _escaped(line, keep="`")))
        if section.points:
            yield ""
            yield from (f"- {_escaped(point, keep='`')}" for point in section.points)
        if section.rows:
            yield from ("", "| | |", "|---|---|")
            yield from (f"| {_escaped(name)} | {_escaped(value)} |" for name, value in section.rows)


def _escaped(text: str, *, keep: str = "") -> str:
    r"""A text in one line, of which Markdown and terminals make nothing else, but for the marks to `keep`.

    >>> _escaped("a|b <i>\n\x1b[2J `c`")
    'a\\|b \\<i\\> \\[2J \\`c\\`'
    """
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" and c not in keep else c for c in _plain(text))


def _plain(text: str) -> str:
    """A text in one line without what cannot be printed."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())
