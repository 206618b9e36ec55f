"""The figures of a card: what an evaluation of a bundle's own decisions says, each with its interval."""

from collections.abc import Iterator, Mapping
from typing import Any

from uadray.reports.page import number

_OF_SLIDES = {
    "slide_auroc": ("AUROC of slides", "auroc_ci95"),
    "average_precision": ("average precision of slides", None),
    "sensitivity_at_95_specificity": ("sensitivity at 95 % specificity, slides", None),
}
_OF_TILES = {
    "auroc": ("AUROC of tiles", "auroc_ci95"),
    "sensitivity_at_95_specificity": ("sensitivity at 95 % specificity, tiles", None),
}


def figure_rows(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of the figures in an `evaluation.json`, which may be anybody's: what is no number is left out.

    >>> figure_rows({"slide_auroc": 0.91, "auroc_ci95": [0.8, 0.97], "n_anomalous": 8})
    [('AUROC of slides', '0.910 (0.800 to 0.970; 95 %)')]
    """
    tiles = figures.get("tiles")
    trivial = figures.get("trivial")
    return [
        *_rows(figures, _OF_SLIDES),
        *_called(figures),
        *(_rows(tiles, _OF_TILES) if isinstance(tiles, Mapping) else ()),
        *_trivial(trivial if isinstance(trivial, Mapping) else {}),
    ]


def _rows(figures: Mapping[str, Any], named: Mapping[str, tuple[str, str | None]]) -> Iterator[tuple[str, str]]:
    for name, (words, interval) in named.items():
        value = figures.get(name)
        if _is_number(value):
            yield words, number(value) + _interval(_ends(figures, interval) if interval else None)


def _ends(figures: Mapping[str, Any], name: str) -> Any:
    """The interval of an AUROC: DeLong's, which has a width where all pairs are in order, or else the bootstrap's."""
    delong = figures.get("auroc_delong")
    ends = delong.get("ci95") if isinstance(delong, Mapping) else None
    return ends or figures.get(name)


def _interval(ends: Any) -> str:
    if isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends)):
        return f" ({number(ends[0])} to {number(ends[1])}; 95 %)"
    return ""


def _called(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Decisions against labels, as counts."""
    alpha = figures.get("alpha")
    for called, of, words in (("found", "n_anomalous", "anomalous"), ("false_alarms", "n_normal", "normal")):
        counts = figures.get(called), figures.get(of)
        if all(map(_is_number, (*counts, alpha))):
            yield f"{words} slides called at alpha {alpha:g}", f"{counts[0]} of {counts[1]}"


def _trivial(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in figures.items():
        if _is_number(value):
            yield f"AUROC of tiles, {str(name)[:40].replace('_', ' ')} alone, for comparison", number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
