"""The sections of an evaluation's page about reading: a reader's days, two screenings compared, and subgroups."""

from collections.abc import Iterator

from uadray.reports.evaluation_parts import (
    DASH,
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
from uadray.reports.evaluation_sections import trivial_words
from uadray.reports.plots import BLUE, GREY, RED, Axis, Line, Mark, Plot

_RULES = {
    "decisions": "Read all slides that are decided to be anomalous (p-value at most alpha)",
    "false_discoveries": "Read all slides with a q-value of at most 0.1: one in ten normal, in expectation",
    "yield": "Read on until the slides that follow hold no more anomalous ones than a random draw",
    "sensitivity_95": "Read until 95 % of the anomalous slides are found",
    "sensitivity_99": "Read until 99 % of the anomalous slides are found",
}

_COMPARED = {
    "auroc": "AUROC", "average_precision": "Average precision",
    "sensitivity_at_95_specificity": "Sensitivity at 95 % specificity",
    "workload_saved_at_95_sensitivity": "Normal slides not to be read at 95 % sensitivity",
}  # fmt: skip

_ORIGINS = {"site": "By site", "scanner": "By scanner", "stain": "By stain", "tissue": "By amount of tissue"}


def budget_verdict(plan: Figures) -> Verdict:
    """What a day finds, and where to cut, in a sentence."""
    day, cut = plan["days"][0], next(each for each in plan["cuts"] if each["rule"] == plan["recommended"])
    where = "where the decisions are anomalous" if plan["recommended"] == "decisions" else "at a q-value of 0.1"
    return Verdict(
        f"Reading {counted(plan['slides_a_day'], 'slide')} a day from the top of the list, the first day finds "
        f"{of(day['found'], plan['anomalous'])} anomalous slides ({between(day['found_share_ci95'], as_share=True)}); "
        f"{day['at_random']:.1f} in random order. Cut {where}, the list has {counted(cut['read'], 'slide')}, "
        f"{counted(cut['days'], 'day')} of reading, and misses {cut['missed']}."
    )


def budget_section(plan: Figures) -> Section:
    """A reader's days, and the rules that cut the list."""
    texts = [
        f"{counted(plan['slides'], 'slide')}, of which {plan['anomalous']} are anomalous, are read in the order of the "
        f"worklist, {plan['slides_a_day']} a day: {counted(plan['days_for_all'], 'day')} for all. Intervals are "
        "of the share found, over draws of patients. In an archive where fewer slides are anomalous, more normal ones "
        "stand before each of them, and a day finds fewer."
    ]  # fmt: skip
    if plan["unscored"]:
        n_ill = plan["unscored_anomalous"]
        texts.append(
            f"{counted(plan['unscored'], 'more slide')} could not be scored ({n_ill} of them anomalous): they stand "
            "last, and somebody has to read them in any case."
        )
    trivial = sorted(plan["days"][0]["trivial"], key=lambda name: -plan["days"][0]["trivial"][name])
    return Section(
        name="budget", title="A reader's days", texts=texts, plots=[_list_plot(plan)],
        tables=[_cuts(plan), _days(plan, trivial)],
    )  # fmt: skip


def _days(plan: Figures, trivial: list[str]) -> Table:
    head = ["day", "slides read", "found", "missed", "share found", "95 % interval", "in random order"]
    rows = [
        [
            str(day["day"]), str(day["read"]), str(day["found"]), str(day["missed"]), share(day["found_share"]),
            between(day["found_share_ci95"], as_share=True), f"{day['at_random']:.1f}",
            *(f"{day['trivial'][name]:.1f}" for name in trivial),
        ]
        for day in plan["days"]
    ]  # fmt: skip
    caption = "The last columns are how many would be found by then in random order, and by scores that need no model."
    return Table(
        title="What is found day by day", head=[*head, *(f"by {trivial_words(name)}" for name in trivial)], rows=rows,
        caption=caption,
    )  # fmt: skip


def _cuts(plan: Figures) -> Table:
    head = ["rule", "slides read", "of the list", "95 % interval", "days", "found", "95 % interval", "missed", "normal"]
    rows = [
        [
            _RULES[cut["rule"]] + (" *" if cut["needs_labels"] else ""), str(cut["read"]), share(cut["read_share"]),
            between(cut["read_share_ci95"], as_share=True), str(cut["days"]),
            f"{of(cut['found'], plan['anomalous'])}", between(cut["found_share_ci95"], as_share=True),
            str(cut["missed"]), str(cut["normal_read"]),
        ]
        for cut in plan["cuts"]
    ]  # fmt: skip
    chosen = [i for i, cut in enumerate(plan["cuts"]) if cut["rule"] == plan["recommended"]]
    caption = (
        "Recommended: the rule that stands out, since it needs no labels and states its error beforehand. Rules with * "
        "find their place by these labels; to follow one in an archive, take over its score, and expect it to do worse."
    )
    return Table(title="Where to cut the list", head=head, rows=rows, chosen=chosen, caption=caption)


def _list_plot(plan: Figures) -> Plot:
    marks = [
        Mark(
            name=f"{words}: {cut['read']} slides", x=cut["read_share"], y=cut["found_share"], colour=colour,
        )
        for cut, words, colour in _marked(plan)
    ]  # fmt: skip
    return Plot(
        name="budget-list", title="Found against read",
        says=f"The share of anomalous slides found against the share of the list that is read, from the top; after "
        f"{plan['days'][0]['read']} slides it is {share(plan['days'][0]['found_share'])}.",
        x=Axis(label="of the list read, from the top"), y=Axis(label="anomalous slides found"),
        lines=[
            Line(
                name="in the order of the worklist, with its 95 % interval", points=plan["curve"],
                band=plan.get("band", ()),
            ),
            Line(name="in random order", points=((0, 0), (1, 1)), colour=GREY, dashed=True),
        ],
        marks=marks,
    )  # fmt: skip


def _marked(plan: Figures) -> Iterator[tuple[Figures, str, str]]:
    words = {"decisions": ("cut by decisions", RED), "sensitivity_95": ("95 % found", BLUE)}
    for cut in plan["cuts"]:
        if cut["rule"] in words:
            yield cut, *words[cut["rule"]]


def comparison_verdict(found: Figures) -> Verdict:
    """Which of two screenings is better, or that nothing shows it."""
    both, delong = found["figures"]["auroc"], found["delong"]
    text = (
        f"Against {found['against']}: on {found['slides']} slides that both have scored, AUROC {figure(both['here'])} "
        f"here and {figure(both['there'])} there, {figure(both['difference'])} apart"
    )
    ends = both["ci95"] or delong["ci95"]
    if ends is None:
        return Verdict(f"{text}; too few slides for an interval.")
    text += f" ({between(ends)})"
    if ends[0] > 0:
        return Verdict(f"{text}: this one is better.", "good")
    return Verdict(f"{text}: the other one is better." if ends[1] < 0 else f"{text}: no difference is shown.")


def comparison_section(found: Figures) -> Section:
    """Two screenings of the same slides."""
    rows = [
        [
            _COMPARED.get(name, name), figure(each["here"]), figure(each["there"]), figure(each["difference"]),
            between(each["ci95"]), "paired bootstrap by patient",
        ]
        for name, each in found["figures"].items()
    ]  # fmt: skip
    auroc, delong = found["figures"]["auroc"], found["delong"]
    p_value = DASH if delong["p_value"] is None else f"DeLong by patient, p = {delong['p_value']:.2g}"
    values = [auroc["here"], auroc["there"], delong["difference"]]
    rows.insert(1, ["AUROC", *map(figure, values), between(delong["ci95"]), p_value])
    calls = [
        [
            f"{kind} slides", str(each["both"]), str(each["only_here"]), str(each["only_there"]), str(each["neither"]),
            f"{each['p_value']:.2g}",
        ]
        for kind, each in found["calls"].items()
    ]  # fmt: skip
    left = (
        f"{found['only_here']} slides were scored only here and {found['only_there']} only there; no figure has them."
    )
    return Section(
        name="comparison", title="Against another screening",
        texts=[f"The other one is {found['against']}. {left} Positive differences speak for this one."],
        tables=[
            Table(head=["", "here", "there", "difference", "95 % interval", "how"], rows=rows, texts=(5,)),
            Table(
                title="Which slides are called anomalous", rows=calls,
                head=["", "by both", "only here", "only there", "by neither", "p (McNemar, exact)"],
            ),
        ],
    )  # fmt: skip


def subgroup_section(tables: Figures) -> Section:
    """Figures by site, scanner, stain and amount of tissue."""
    head = [
        "",
        "slides",
        "AUROC",
        "95 % interval",
        "trivial",
        "found",
        "95 % interval",
        "false alarms",
        "95 % interval",
    ]
    return Section(
        name="subgroups", title="Subgroups",
        texts=[
            "AUROC intervals are DeLong's by patient, or Newcombe's where all pairs are in order; shares have exact "
            "ones. Each group is looked at by itself: of twenty intervals, one misses by chance. The column of trivial "
            "scores has the AUROC of the best score that needs no model."
        ],
        tables=[
            Table(
                title=_ORIGINS.get(field, field), head=head,
                rows=[
                    [
                        row["group"], str(row["slides"]), figure(row["auroc"]), between(row["auroc_ci95"]),
                        figure(row["trivial"]), of(row["found"], row["n_anomalous"]),
                        between(row["found_ci95"], as_share=True), of(row["false_alarms"], row["n_normal"]),
                        between(row["false_alarms_ci95"], as_share=True),
                    ]
                    for row in rows
                ],
            )
            for field, rows in tables.items()
        ],
    )  # fmt: skip
