"""The sections of an evaluation's page that tell how well scores and decisions agree with labels."""

from collections.abc import Iterator

from uadray.reports.evaluation_parts import (
    DASH,
    MINUS,
    Figures,
    Section,
    Table,
    Verdict,
    between,
    counted,
    figure,
    of,
    share,
)
from uadray.reports.plots import BLUE, GREY, Axis, Line, Mark, Plot

CHANCE = ((0.0, 0.0), (1.0, 1.0))

_TRIVIAL_WORDS = {
    "saturation": "median colour saturation", "minus_green": "median darkness in green",
    "tissue_tiles": "number of tissue tiles", "mean_saturation": "mean colour saturation",
    "minus_mean_green": "mean darkness in green",
}  # fmt: skip


def trivial_words(name: str) -> str:
    """What a trivial score is."""
    return _TRIVIAL_WORDS.get(name, name.replace("_", " "))


def verdicts(figures: Figures) -> Iterator[Verdict]:
    """The sentences at the top of the page."""
    if figures.get("slide_auroc") is not None:
        yield _auroc_verdict(figures, "slide")
        yield from _decision_verdicts(figures)
        yield _workload_verdict(figures)
    elif figures.get("auroc") is not None:
        yield _auroc_verdict(figures, "tile")
    if figures.get("tile_auroc") is not None and "tiles" in figures:
        yield _auroc_verdict(figures["tiles"], "tile")
    n = min(figures.get("n_anomalous") or 0, figures.get("n_normal") or 0)
    if figures.get("slide_auroc") is not None and n < 50:
        yield Verdict(
            f"{counted(figures['n_anomalous'], 'anomalous slide')} and {figures['n_normal']} normal ones are few: read "
            "the intervals, not the figures."
        )
    if figures.get("slides_left_out"):
        counts = " and ".join(f"{n} of the {use}" for use, n in figures["slides_left_out"].items())
        yield Verdict(f"Left out, because they were used before: {counts}. Their scores say nothing new.")
    if figures.get("slides_not_scored"):
        text = f"{counted(figures['slides_not_scored'], 'slide')} with a label could not be scored and are in no figure"
        yield Verdict(f"{text}: somebody has to look at them.")


def auroc_ci(figures: Figures) -> tuple[list[float] | None, str]:
    """The interval of an AUROC to show, and how it was made: DeLong's, which holds more often than the bootstrap's."""
    given = figures.get("auroc_delong") or {}
    if given.get("ci95") is None:
        return figures.get("auroc_ci95"), f"bootstrap by {figures.get('grouped_by', 'sample')}"
    return given["ci95"], f"{given['method']}, by {figures.get('grouped_by', 'sample')}"


def _auroc_verdict(figures: Figures, what: str) -> Verdict:
    value, (interval, _) = figures["auroc"], auroc_ci(figures)
    sure = f" (95 % interval {between(interval)})" if interval else ", of too few slides for an interval"
    text = (
        f"{what.capitalize()}s: AUROC {figure(value)}{sure}. Of an anomalous and a normal {what}, the anomalous one "
        f"has the higher score {round(100 * value)} times in 100."
    )
    beyond = figures.get("beyond_trivial")
    if beyond is None:
        return Verdict(text)
    name, ends = trivial_words(beyond["score"]), beyond["ci95"]
    text += f" The best trivial score, the {name}, has {figure(beyond['auroc'])}"
    if ends is None or not ends[0] > 0:
        doubt = f"; the difference lies between {between(ends)}" if ends else ""
        return Verdict(f"{text}: the detector is not clearly above it{doubt}.", "bad")
    return Verdict(f"{text}: the detector is above it by {between(ends)}.", "good")


def _decision_verdicts(figures: Figures) -> Iterator[Verdict]:
    if figures.get("alpha") is None:
        return
    alpha, n_normal = figures["alpha"], figures["n_normal"]
    text = (
        f"Decisions at alpha {alpha:g}: {of(figures['found'], figures['n_anomalous'])} anomalous slides are found, and "
        f"{of(figures['false_alarms'], n_normal)} normal ones are called"
    )
    called = (figures.get("p_values") or {}).get("called_ci95")
    if called is None:
        yield Verdict(text + ".")
    elif called[0] > alpha:
        yield Verdict(f"{text} ({between(called, as_share=True)}): more than the {share(alpha)} promised.", "bad")
    else:
        yield Verdict(
            f"{text} ({between(called, as_share=True)}), consistent with at most {share(alpha)} as promised.", "good"
        )


def _workload_verdict(figures: Figures) -> Verdict:
    saved = figures["workload"]["95"]
    return Verdict(
        f"Workload: with the best threshold for these slides, {share(saved['value'])} of normal slides "
        f"({between(saved['ci95'], as_share=True)}) need not be read while {share(saved['sensitivity'])} of anomalous "
        "ones are found. No threshold chosen beforehand does better."
    )


def detection_section(figures: Figures, what: str, *, name: str) -> Section:
    """Figures and curves of slides, or of tiles."""
    interval, method = auroc_ci(figures)
    trivial = figures.get("slide_trivial" if what == "slide" else "trivial") or {}
    texts = [
        f"{counted(figures['n_normal'], f'normal {what}')} and {counted(figures['n_anomalous'], f'anomalous {what}')} "
        f"from {counted(figures['n_groups'], figures['grouped_by'])}. Whole {figures['grouped_by']}s are drawn for the "
        "intervals, since what comes from one is alike."
    ]  # fmt: skip
    few = [*figures.get("sensitivity", {}).values(), *figures.get("workload", {}).values()]
    if any(each.get("method") == "exact" for each in few):
        texts.append(
            f"With few {what}s, a threshold that 1 % or 5 % of a class lie beyond cannot be placed. Intervals marked "
            "as exact say so: they reach down to 0 % with fewer than 86 patients of the class for 5 %, and 437 for 1 %."
        )
    rows = [["Area under the ROC curve (AUROC)", figure(figures["auroc"]), between(interval), method]]
    bootstrap = figures.get("auroc_ci95")
    if bootstrap and bootstrap != interval and bootstrap[0] < bootstrap[1]:
        rows.append(["the same", "", between(bootstrap), f"bootstrap by {figures['grouped_by']}"])
    rows += [
        [f"{trivial_words(key)}, a trivial score: AUROC", figure(value), DASH, ""] for key, value in trivial.items()
    ]
    if "prevalence" in figures:
        precision, by = figures["average_precision"], f"bootstrap; {figure(figures['prevalence'])} would be chance"
        rows.append(["Average precision", figure(precision), between(figures["average_precision_ci95"]), by])
    for percent, each in figures.get("sensitivity", {}).items():
        reached = f"{_how(each)}; specificity {share(each['specificity'])}, {_above(each['threshold'])}"
        rows.append(
            [
                f"Sensitivity at {percent} % specificity",
                share(each["value"]),
                between(each["ci95"], as_share=True),
                reached,
            ]
        )
    for percent, each in figures.get("workload", {}).items():
        reached = f"{_how(each)}; sensitivity {share(each['sensitivity'])}, {_above(each['threshold'])}"
        saved = f"Normal {what}s not to be read at {percent} % sensitivity"
        rows.append([saved, share(each["value"]), between(each["ci95"], as_share=True), reached])
    caption = "Thresholds were chosen on these samples; on new ones they would do somewhat worse."
    table = Table(head=["", "figure", "95 % interval", "how"], rows=rows, texts=(3,), caption=caption)
    plots = list(_plots(figures, what, name))
    return Section(name=name, title=f"{what.capitalize()}s", texts=texts, plots=plots, tables=[table])


def decision_section(figures: Figures) -> Section | None:
    """What was decided, and whether p-values hold; None where no slide was decided at an alpha."""
    p_values, alpha = figures.get("p_values"), figures.get("alpha")
    if not p_values or alpha is None or "called" not in p_values:
        return None
    n_normal, n_anomalous = figures["n_normal"], figures["n_anomalous"]
    rows = [
        ["anomalous slides found", of(figures["found"], n_anomalous), share(figures["found"] / n_anomalous),
         between(figures["found_ci95"], as_share=True), DASH],
        ["normal slides called (false alarms)", of(figures["false_alarms"], n_normal),
         share(figures["false_alarms"] / n_normal), between(p_values["called_ci95"], as_share=True),
         f"at most {share(alpha)}"],
    ]  # fmt: skip
    texts = [
        "A slide is called anomalous where its p-value, its rank among normal slides, is at most alpha. The plot shows "
        "whether p-values of normal slides are spread as they should be, at every alpha.",
        "Intervals are exact (Clopper and Pearson), of slides taken for independent.",
    ]
    table = Table(head=["", "slides", "share", "95 % interval", "promised"], rows=rows)
    plots = [_calibration_plot(figures, "decisions")] if figures["curves"].get("calibration") else []
    return Section(name="decisions", title=f"Decisions at alpha {alpha:g}", texts=texts, plots=plots, tables=[table])


def _how(given: Figures) -> str:
    """How an interval was made."""
    return {"exact": "exact, few samples", "none": "no interval"}.get(given.get("method", ""), "bootstrap")


def _above(threshold: float | None) -> str:
    return "no score above it" if threshold is None else f"scores from {threshold:.4g}"


def _plots(figures: Figures, what: str, name: str) -> Iterator[Plot]:
    curves = figures.get("curves", {})
    false_alarms = Axis(label=f"normal {what}s called (1 {MINUS} specificity)")
    found = Axis(label=f"anomalous {what}s found (sensitivity)")
    band = "; the band is its 95 % interval" if "roc_band" in curves else ""
    if curves.get("roc"):
        n_normal, n_anomalous = figures["n_normal"], figures["n_anomalous"]
        called = _called(figures) if what == "slide" else None
        marks = [Mark(name=f"decisions at alpha {figures['alpha']:g}", x=called[0], y=called[1])] if called else []
        yield Plot(
            name=f"{name}-roc", title="ROC curve", x=false_alarms, y=found, marks=marks,
            says=f"Sensitivity against false alarms of {n_anomalous} anomalous and {n_normal} normal {what}s; the area "
            f"below the curve is {figure(figures['auroc'])}.",
            lines=[
                Line(name=f"{what} scores{band}", points=curves["roc"], band=curves.get("roc_band", ())),
                Line(name="chance", points=CHANCE, colour=GREY, dashed=True),
            ],
        )  # fmt: skip
    if curves.get("pr"):
        prevalence = figures["prevalence"]
        yield Plot(
            name=f"{name}-pr", title="Precision and recall", x=found,
            y=Axis(label="precision"),
            says=f"Precision against sensitivity; the average precision is {figure(figures['average_precision'])}, by "
            f"chance it would be {figure(prevalence)}.",
            lines=[
                Line(name=f"{what} scores", points=curves["pr"]),
                Line(name="chance", points=((0, prevalence), (1, prevalence)), colour=GREY, dashed=True),
            ],
            note=f"Depends on how many {what}s are anomalous: {share(prevalence)} here.",
        )  # fmt: skip
    if curves.get("workload") and what == "slide":
        yield _workload_plot(figures, name)


def _called(figures: Figures) -> tuple[float, float] | None:
    if figures.get("alpha") is None:
        return None
    return figures["false_alarms"] / figures["n_normal"], figures["found"] / figures["n_anomalous"]


def _workload_plot(figures: Figures, name: str) -> Plot:
    curves = figures["curves"]
    saved = figures["workload"]["95"]
    mark = f"at 95 %: {share(saved['value'])} saved"
    return Plot(
        name=f"{name}-workload", title="Workload saved",
        says="Normal slides that need not be read against the sensitivity that is asked for: "
        f"{share(saved['value'])} at 95 %.",
        x=Axis(label="anomalous slides found (sensitivity)"), y=Axis(label="normal slides saved from reading"),
        lines=[
            Line(
                name="best threshold for these slides; the band is its 95 % interval",
                points=[[0.0, curves["workload"][0][1]], *curves["workload"]], band=curves.get("workload_band", ()),
                steps="upright",
            ),
            Line(name="by chance", points=((0, 1), (1, 0)), colour=GREY, dashed=True),
        ],
        marks=[Mark(name=mark, x=saved["sensitivity"], y=saved["value"], colour=BLUE)],
    )  # fmt: skip


def _calibration_plot(figures: Figures, name: str) -> Plot:
    curves, p_values = figures["curves"], figures["p_values"]
    calibration = (
        f"judged by {p_values['n_calibration']} calibration slides" if p_values["n_calibration"] else
        "without the spread of the calibration's own slides, whose number the decisions do not say"
    )  # fmt: skip
    marks = []
    if "alpha" in p_values:
        at = p_values["called"] / p_values["n"]
        marks = [Mark(name=f"alpha {p_values['alpha']:g}: {share(at)} called", x=p_values["alpha"], y=at)]
    return Plot(
        name=f"{name}-calibration", title="Calibration: p-values of normal slides",
        says=f"The share of {p_values['n']} normal slides with at most a p-value, against that p-value; where "
        "decisions hold, the line lies on or below the diagonal, up to chance.",
        x=Axis(label="p-value", percent=False), y=Axis(label="normal slides at or below it"),
        lines=[
            Line(name="normal slides", points=[[0, 0], *curves["calibration"], [1, 1]], steps="level"),
            Line(
                name="as promised, with its 95 % range by chance", points=CHANCE, band=curves["calibration_band"],
                colour=GREY, dashed=True,
            ),
        ],
        marks=marks,
        note=f"A line above the grey range means more false alarms than promised. The range is that of independent "
        f"slides, {calibration}.",
    )  # fmt: skip
