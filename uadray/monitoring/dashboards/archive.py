"""Archive screening: does it keep up, when is it through, what fails and why."""

from uadray.monitoring import panels as p
from uadray.monitoring import queries as q

UID, NAME = "uadray-archive", "archive"

BACKLOG = q.of_screening("uadray_ledger_backlog_slides")

DRIVERS = q.of_screening("uadray_ledger_drivers")


FIRING = 'ALERTS{alertname=~"Uadray.*",alertstate="firing"}'


def _slides(by: str, where: str = "") -> str:
    """Slides by labels. Each bundle counts every slide, so that of several bundles the highest is taken."""
    series = q.of_screening("uadray_ledger_slides", where)
    return q.highest(q.total(series, f"bundle, {by}"), by)


def _does_it_keep_up() -> list[p.Json]:
    ended = f"sum({_slides('screening')})"
    return p.row(
        "Does it keep up?",
        p.stat(
            "Ended",
            "Share of the slides that have an end: scored, not assessable or failed.",
            [p.target(q.ratio(ended, f"{ended} + {q.total(BACKLOG)}"), "ended")], unit="percentunit", decimals=1,
        ),
        p.stat(
            "Backlog",
            "Slides without an end. It must fall; where it grows, more slides arrive than are decided.",
            [p.target(q.total(BACKLOG), "open")], unit="slides",
        ),
        p.stat(
            "Oldest open slide",
            "How long the slide waits that has waited longest.",
            [p.target(q.highest(q.of_screening("uadray_ledger_oldest_open_seconds")), "oldest")], unit="s",
        ),
        p.stat(
            "Decisions",
            "Slides decided a second over the last five minutes, as the ledger dates them.",
            [p.target(q.total(q.of_screening("uadray_ledger_decisions_per_second")), "decided")],
            unit="slides/s", decimals=2,
        ),
        p.stat(
            "Time left",
            "Backlog over the rate of the last five minutes, of the screening that needs longest; no data while "
            "nothing is decided.",
            [p.target(q.highest(q.of_screening("uadray_ledger_seconds_left")), "left")], unit="s",
        ),
        p.stat(
            "Drivers",
            "Commands that screen now, and those that died and have not been started again. A dead one loses nothing: "
            "run its command again.",
            [p.target(q.total(DRIVERS, "state"), "{{state}}")], unit="none", name=True,
        ),
        p.time_series(
            "Slides by state",
            "Where the slides of the manifest stand, and the backlog above them.",
            [p.target(_slides("state"), "{{state}}"), p.target(q.total(BACKLOG), "open")],
            unit="slides", is_stacked=True, calcs=("lastNotNull",),
            overrides=[
                p.named("scored", color=_fixed(p.GREEN)), p.named("not_assessable", color=_fixed(p.YELLOW)),
                p.named("failed", color=_fixed(p.RED)), p.named("open", color=_fixed(p.GREY)),
            ],
        ),
        p.time_series(
            "Decisions a second",
            "By screening, over the last five minutes. Flat at 0 with a backlog: nothing moves; see drivers, retries, "
            "and the dashboard `why is it slow`.",
            [p.target(q.total(q.of_screening("uadray_ledger_decisions_per_second"), "screening"), "{{screening}}")],
            unit="slides/s",
        ),
        p.time_series(
            "Backlog",
            "Open slides of each screening.",
            [p.target(q.total(BACKLOG, "screening"), "{{screening}}")], unit="slides", calcs=("lastNotNull", "max"),
        ),
        p.time_series(
            "Time left and age of the oldest",
            "By screening. Time left that grows with the clock says that it stands still; an age that grows with the "
            "clock says that one slide is stuck.",
            [
                p.target(q.highest(q.of_screening("uadray_ledger_seconds_left"), "screening"), "{{screening}}: left"),
                p.target(
                    q.highest(q.of_screening("uadray_ledger_oldest_open_seconds"), "screening"), "{{screening}}: oldest"
                ),
            ],
            unit="s", calcs=("lastNotNull", "max"),
        ),
    )  # fmt: skip


def _what_fails() -> list[p.Json]:
    without = _slides("screening, state, reason", 'state!="scored"')
    of_tiles = q.rate(q.of_run("uadray_tiles_total", 'stage=~"screen_.*"'), "stage")
    lost = q.rate(q.of_run("uadray_errors_total", 'stage=~"screen_.*"'), "stage")
    return p.row(
        "What fails, and why?",
        p.table(
            "Why slides have no score",
            "From the ledger: slides that are not assessable or failed, by reason. Failed ones are tried again with "
            "--retry-failed.",
            [p.target(f"{without} > 0", "{{reason}}")],
            columns={"screening": "screening", "state": "state", "reason": "reason", "Value": "slides"},
            sort_by="slides",
        ),
        p.time_series(
            "Slides without a score an hour",
            "As they end, by reason. One reason that starts at once for many slides is of the scanner or the store, "
            "not of the slides.",
            q.with_total(q.of_run("uadray_slide_reasons_total"), "reason"), unit="slides/h",
        ),
        p.time_series(
            "Slides given back an hour",
            "System faults, by cause: these slides have no verdict and are tried again. After several in a row the "
            "driver stops with the cause in its last line.",
            q.with_total(q.of_run("uadray_retries_total"), "cause"), unit="slides/h",
        ),
        p.time_series(
            "Tiles lost",
            "Share of tiles that could not be read or scored. They lower the coverage of their slide, never its score.",
            [p.target(q.ratio(lost, f"{of_tiles} + {lost}"), "{{stage}}")], unit="percentunit",
        ),
    )  # fmt: skip


def _decisions() -> list[p.Json]:
    decided = q.of_screening("uadray_ledger_decisions")
    by = "screening, bundle"
    anomalous = q.total(q.of_screening("uadray_ledger_decisions", 'decision="anomalous"'), by)
    alpha = q.highest(q.of_screening("uadray_ledger_alpha"), by)
    return p.row(
        "What was found?",
        p.bars(
            "Decisions",
            "Slides by decision and bundle.",
            [p.target(q.total(decided, "bundle, decision"), "{{bundle}}: {{decision}}")], unit="slides",
        ),
        p.time_series(
            "Anomalous slides",
            "Share of all decided, by bundle, and the share of normal slides that the calibration allows to be called "
            "so (dashed). Far above it: look at `calibration and drift` before at the tissue.",
            [
                p.target(q.ratio(anomalous, q.total(decided, by)), "{{screening}}, {{bundle}}"),
                p.target(alpha, "allowed, {{screening}}, {{bundle}}"),
            ],
            unit="percentunit", calcs=("lastNotNull",), overrides=[p.named("allowed.*", **p.line())],
        ),
    )  # fmt: skip


def _who_works() -> list[p.Json]:
    info = "screening, bundle, detector, version, fingerprint, calibration_id"
    return p.row(
        "Who works, and with what?",
        p.time_series(
            "Drivers",
            "By screening, alive and dead.",
            [p.target(q.total(DRIVERS, "screening, state"), "{{screening}}: {{state}}")],
            unit="none", calcs=("lastNotNull",),
        ),
        p.time_series(
            "Lag of drivers",
            "Since the last sign of life of the driver that has been silent longest. Beyond two minutes others take "
            "over its slides.",
            [p.target(q.highest(q.of_screening("uadray_ledger_driver_lag_seconds"), "screening"), "{{screening}}")],
            unit="s", calcs=("lastNotNull", "max"),
        ),
        p.table(
            "Screenings",
            "What each was started with.",
            [p.target(q.total(q.of_screening("uadray_ledger_run_info"), info), "{{screening}}")],
            columns={name.strip(): name.strip() for name in info.split(",")}, size=(24, 6),
        ),
        p.time_series(
            "Exporter",
            "How long the exporter takes to read each ledger.",
            [p.target(q.highest(q.of_screening("uadray_ledger_read_seconds"), "screening"), "{{screening}}")],
            unit="s", size=(12, 6),
        ),
        p.table(
            "Alerts that fire",
            "Of the rules in deploy/monitoring; empty is good.",
            [p.target(q.total(FIRING, "alertname, severity, screening"), "{{alertname}}")],
            columns={"alertname": "alert", "severity": "severity", "screening": "screening"}, size=(8, 6),
        ),
        p.stat(
            "Ledgers",
            "Whether the exporter could read each screening's folder. 0: its store is away, and its other figures are "
            "absent and not old ones.",
            [p.target(q.total(q.of_screening("uadray_ledger_up"), "screening"), "{{screening}}")],
            unit="none", thresholds=p.steps((1, p.GREEN), base=p.RED), name=True, graph=False, size=(4, 6),
        ),
    )  # fmt: skip


def _fixed(color: str) -> p.Json:
    return {"fixedColor": color, "mode": "fixed"}


def make() -> p.Json:
    """The dashboard's JSON."""
    return p.dashboard(
        UID, "uadray: archive screening", "Does screening keep up, when is it through, what fails and why?",
        [_does_it_keep_up(), _what_fails(), _decisions(), _who_works()],
        variables=[q.datasource_variable(), q.screening_variable(), *q.cluster_variables(), q.run_variable("screen")],
        links=[q.own_links(), q.ray_link("rayDefaultDashboard", "Ray: cluster")],
    )  # fmt: skip
