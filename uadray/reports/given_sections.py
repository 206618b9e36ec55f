"""The sections of an evaluation's page whose figures other parts of the evaluation make: localisation, and any else."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from uadray.reports.evaluation_parts import Figures, Section, Table, between, figure, text_of
from uadray.reports.plots import Axis, Line, Plot

MANY_NUMBERS = ("curves", "curve", "band")
"""Names of what is drawn and stands in no table."""

_MOST_ROWS = 100


def localisation_section(figures: Figures) -> Section | None:
    """FROC and AUPRO; None where there is neither."""
    froc, aupro = figures.get("froc"), figures.get("aupro")
    if not froc and not aupro:
        return None
    plots, tables = [], []
    curve = (froc or {}).get("curve") or figures.get("curves", {}).get("froc")
    if froc:
        rows = [
            [f"{float(at):g} false positives a slide", figure(value)]
            for at, value in froc.get("sensitivities", {}).items()
        ]
        rows.append(["mean (the FROC score)", figure(froc.get("score"))])
        if froc.get("score_ci95"):
            rows.append(["its 95 % interval", between(froc["score_ci95"])])
        tables.append(
            Table(title="Lesions found (FROC)", head=["at", "sensitivity"], rows=rows, chosen=[len(rows) - 1])
        )
    if froc and curve:
        plots.append(_froc_plot(froc, curve))
    if aupro and aupro.get("curve"):
        plots.append(_aupro_plot(aupro))
    if aupro:
        title = "Overlap with outlines (AUPRO)"
        tables.append(Table(title=title, head=["", "figure"], rows=list(_scalars(aupro))))
    texts = ["How well the places with high scores agree with the outlines of lesions."]
    return Section(name="localisation", title="Localisation", texts=texts, plots=plots, tables=tables)


def _froc_plot(froc: Figures, curve: Sequence[Sequence[float]]) -> Plot:
    return Plot(
        name="localisation-froc", title="FROC curve",
        says=f"The share of lesions found against false positives a slide; the mean sensitivity is "
        f"{figure(froc.get('score'))}.",
        x=Axis(label="false positives a slide", high=8.0, ticks=(0, 1, 2, 3, 4, 5, 6, 7, 8), percent=False),
        y=Axis(label="lesions found (sensitivity)"), lines=[Line(name="lesions", points=curve, steps="level")],
    )  # fmt: skip


def _aupro_plot(aupro: Figures) -> Plot:
    limit = float(aupro.get("limit") or 1.0)
    return Plot(
        name="localisation-aupro", title="Overlap with outlines",
        says="The mean share of each outlined region that is marked against the share of normal tissue that is marked; "
        f"the area up to {limit:g} is {figure(aupro.get('score'))}.",
        x=Axis(label="normal tissue marked", high=limit, ticks=[round(limit * i / 3, 3) for i in range(4)]),
        y=Axis(label="of each region marked (mean)"), lines=[Line(name="regions", points=aupro["curve"])],
        note=f"AUPRO is the area below the curve up to {limit:.0%} of normal tissue, divided by it.".replace("%", " %"),
    )  # fmt: skip


def plain_section(name: str, title: str, given: Any) -> Section:
    """Figures of a form that the page does not know: sentences, numbers, and each list of rows as a table."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        given = {"": given}
    texts = [str(given[key]) for key in ("verdict", "text", "note") if isinstance(given.get(key), str)]
    rest = {key: value for key, value in given.items() if key not in ("verdict", "text", "note")}
    rows = list(_scalars(rest))
    tables = [Table(head=["", "figure"], rows=rows)] if rows else []
    return Section(name=name, title=title, texts=texts, tables=[*tables, *_tables(rest)])


def _scalars(given: Figures, prefix: str = "") -> Iterator[list[str]]:
    for name, value in given.items():
        if name in MANY_NUMBERS or _is_rows(value):
            continue
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{words(name)}: ")
        else:
            yield [prefix + words(name), text_of(value)]


def _tables(given: Figures) -> Iterator[Table]:
    for name, value in given.items():
        if _is_rows(value):
            columns = list(dict.fromkeys(key for row in value for key in row if key not in MANY_NUMBERS))
            rows = [[text_of(row.get(key)) for key in columns] for row in value[:_MOST_ROWS]]
            caption = f"{len(value)} rows; the first {_MOST_ROWS}" if len(value) > _MOST_ROWS else ""
            yield Table(
                title=words(name).capitalize(), head=[words(key) for key in columns], rows=rows, caption=caption
            )
        elif isinstance(value, Mapping):
            yield from _tables(value)


def _is_rows(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and isinstance(value[0], Mapping)


def words(name: str) -> str:
    """The name of a figure as people read it.

    >>> words("auroc_ci95")
    'auroc ci95'
    """
    return str(name).replace("_", " ")
