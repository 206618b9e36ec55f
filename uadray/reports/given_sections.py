"""The sections of an evaluation's page on where scores are high, and on how they make a slide's score."""

from collections.abc import Sequence

from uadray.reports.evaluation_parts import Figures, Section, Table, between, figure, text_of
from uadray.reports.plots import Axis, Line, Plot

MANY_NUMBERS = ("curves", "curve", "band")
"""Names of what is drawn and stands in no table."""


def localisation_section(figures: Figures) -> Section | None:
    """FROC and AUPRO; None where there is neither."""
    froc, aupro = figures.get("froc"), figures.get("aupro")
    if not froc and not aupro:
        return None
    texts, plots, tables = [], [], []
    if froc:
        curve = froc.get("curve") or figures.get("curves", {}).get("froc")
        plots += [_froc_plot(froc, curve)] if curve else []
        tables.append(_froc_table(froc))
        lesions = f" of {froc['lesions']} lesions on {froc['slides']} slides" if "lesions" in froc else ""
        texts.append(
            f"FROC: the share{lesions} that is found where a number of false positives a slide is allowed (the mean "
            "over all slides). A lesion is found where a detection lies in it."
        )
    if aupro:
        plots += [_aupro_plot(aupro)] if aupro.get("curve") else []
        regions = f" over {aupro['regions']} regions" if "regions" in aupro else ""
        texts.append(
            f"AUPRO{regions}: {figure(aupro.get('score'))}. How well marked tissue covers each outlined region."
        )
    return Section(name="localisation", title="Localisation", texts=texts, plots=plots, tables=tables)


def _froc_table(froc: Figures) -> Table:
    rows = [
        [f"{float(at):g} false positive{'s' if float(at) > 1 else ''} a slide", figure(value), ""]
        for at, value in froc.get("sensitivities", {}).items()
    ]
    rows.append(["mean: the FROC score", figure(froc.get("score")), between(froc.get("score_ci95"))])
    head = ["at", "sensitivity", "95 % interval"]
    return Table(title="Lesions found", head=head, rows=rows, chosen=[len(rows) - 1])


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


def aggregation_section(rows: Sequence[Figures]) -> Section:
    """What each way from tile scores to a slide score gives on these slides."""
    named = {"method": "method", "auroc": "AUROC", "ci95": "95 % interval", "called": "called"}
    known = [
        key
        for key in dict.fromkeys(key for row in rows for key in row)
        if any(row.get(key) is not None for row in rows)
    ]
    table = Table(
        head=[named.get(key, words(key)) for key in known],
        rows=[[text_of(row.get(key)) for key in known] for row in rows],
    )
    return Section(
        name="aggregations", title="From tile scores to a slide score", tables=[table],
        texts=[
            "What slides would have scored by other methods, from the same tile scores. The best of several on the "
            "same slides is somewhat too good: choose on slides that are kept apart (uadray calibrate --choose)."
        ],
    )  # fmt: skip


def words(name: str) -> str:
    """The name of a figure as people read it.

    >>> words("auroc_ci95")
    'auroc ci95'
    """
    return str(name).replace("_", " ")
