"""Cost: what a screening and a slide cost, whether the budget lasts, and what is paid for."""

from uadray.monitoring import panels as p
from uadray.monitoring import queries as q

UID, NAME = "uadray-cost", "cost"

BY = "screening, currency"

SPENT = q.total(q.of_screening("uadray_cost"), BY)

A_SLIDE = q.highest(q.of_screening("uadray_cost_per_slide"), BY)

BUDGET = q.highest(q.of_screening("uadray_budget"), BY)

LEFT = (
    f"{A_SLIDE} * on (screening) group_left () {q.total(q.of_screening('uadray_ledger_backlog_slides'), 'screening')}"
)


def _what_does_it_cost() -> list[p.Json]:
    name = "{{screening}}, {{currency}}"
    decided = q.total(q.of_screening("uadray_ledger_decided_total"), "screening")
    forecast = f"{SPENT} + {LEFT}"
    return p.row(
        "What does it cost?",
        p.stat(
            "Spent",
            "What readers and scorers have cost so far, at the exporter's prices. Machines that were idle are not in "
            "it: the bill is higher, see the last row.",
            [p.target(SPENT, name)], unit="none", name=True, size=(6, 5),
        ),
        p.stat(
            "A slide", "Spent over slides decided.",
            [p.target(A_SLIDE, name)], unit="none", name=True, size=(6, 5),
        ),
        p.stat(
            "In the end", "Spent, and the backlog at the present cost of a slide.",
            [p.target(forecast, name)], unit="none", name=True, size=(6, 5),
        ),
        p.stat(
            "Of the budget",
            "Share spent; no data where the exporter's configuration names no budget.",
            [p.target(q.ratio(SPENT, BUDGET), name)], unit="percentunit", decimals=0, name=True, size=(6, 5),
            thresholds=p.steps((0.8, p.YELLOW), (1.0, p.RED)),
        ),
        p.time_series(
            "Spent, forecast and budget",
            "By screening, in its currency; dashed is the budget.",
            [
                p.target(SPENT, f"{name}: spent"), p.target(forecast, f"{name}: in the end"),
                p.target(BUDGET, f"{name}: budget"),
            ],
            unit="none", calcs=("lastNotNull",), overrides=[p.named(".*: budget", **p.line())],
        ),
        p.time_series(
            "Cost of a slide",
            "By screening. It grows where machines wait, where slides become larger, or where work is done again.",
            [p.target(A_SLIDE, name)], unit="none", calcs=("lastNotNull", "max"),
        ),
        p.table(
            "Screenings",
            "What each has cost.",
            [
                p.target(f"0 * {SPENT} + on (screening) group_left () {decided}", ""),
                p.target(SPENT, ""), p.target(A_SLIDE, ""), p.target(BUDGET, ""),
            ],
            columns={
                "screening": "screening", "currency": "currency", "Value #A": "slides", "Value #B": "spent",
                "Value #C": "a slide", "Value #D": "budget",
            },
            sort_by="spent", size=(24, 6),
        ),
    )  # fmt: skip


def _what_is_paid_for() -> list[p.Json]:
    seconds = q.of_run("uadray_stage_seconds_total")
    cores = q.total(q.of_run("uadray_cores", 'kind="cpu"'))
    share = q.ratio(q.gain(seconds, "stage"), q.gain(seconds), on="")
    return p.row(
        "What is paid for?",
        p.time_series(
            "Cores and GPUs",
            "That screenings hold, whether at work or not.",
            [p.target(q.total(q.of_run("uadray_cores"), "kind"), "{{kind}}")], unit="none", size=(8, 8),
        ),
        p.time_series(
            "Paid and idle",
            "Share of the cores held that no stage is at work on. It is money for nothing; `why is it slow` says what "
            "they wait for.",
            [p.target(f"clamp_min(1 - ({q.ratio(q.rate(seconds), cores)}), 0)", "idle")], unit="percentunit", most=1,
            size=(8, 8),
        ),
        p.bars(
            "Time at work, by stage",
            "Share of each stage over the time range: what a cheaper stage would save at most.",
            [p.target(f"sort_desc({share})", "{{stage}}", instant=True)], unit="percentunit", most=1, decimals=1,
            size=(8, 8),
        ),
    )  # fmt: skip


def make() -> p.Json:
    """The dashboard's JSON."""
    return p.dashboard(
        UID, "uadray: cost", "What a screening and a slide cost, whether the budget lasts, and what is paid for.",
        [_what_does_it_cost(), _what_is_paid_for()],
        variables=[q.datasource_variable(), q.screening_variable(), *q.cluster_variables(), q.run_variable("screen")],
        links=[q.own_links(), q.ray_link("rayDefaultDashboard", "Ray: nodes")],
    )  # fmt: skip
