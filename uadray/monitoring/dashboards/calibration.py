"""Calibration and drift: does the stated false-alarm rate hold, and has tissue or scanner changed."""

from uadray.monitoring import panels as p
from uadray.monitoring import queries as q

UID, NAME = "uadray-calibration", "calibration"

GROUP = "screening, bundle, site, scanner"

P_VALUES = "uadray_ledger_p_value"

YES = p.words({0: ("no", p.GREEN), 1: ("yes", p.RED)})

HOLDS = p.words({0: ("no", p.RED), 1: ("yes", p.GREEN)})


def _does_it_hold() -> list[p.Json]:
    age = q.of_screening("uadray_calibration_age_seconds")
    holds = q.of_screening("uadray_calibration_holds")
    alpha = q.of_screening("uadray_ledger_alpha")
    buckets, count = q.of_screening(f"{P_VALUES}_bucket", 'le!="+Inf"'), q.of_screening(f"{P_VALUES}_count")
    shares = q.ratio(q.total(buckets, "le"), q.total(count), on="")
    by = "screening, bundle"
    anomalous = q.total(q.of_screening("uadray_ledger_decisions", 'decision="anomalous"'), by)
    decided = q.total(q.of_screening("uadray_ledger_decisions", 'decision=~"normal|anomalous"'), by)
    return p.row(
        "Does the stated false-alarm rate hold?",
        p.stat(
            "Age of the calibration",
            "Of the oldest in use.", [p.target(q.highest(age), "age")], unit="s",
            thresholds=p.steps((90 * 86400.0, p.YELLOW), (180 * 86400.0, p.RED)), graph=False,
        ),
        p.stat(
            "Calibration slides",
            "Of the smallest calibration. A p-value cannot be below 1 / (slides + 1).",
            [p.target(f"min({q.of_screening('uadray_calibration_slides')})", "slides")], unit="slides", graph=False,
        ),
        p.stat(
            "Groups it does not hold for",
            "Sites and scanners with drift, or where more slides are called anomalous than chance allows: true "
            "anomalies count too, so look at the slides first. Else calibrate anew with normal slides of theirs.",
            [p.target(f"count({holds}) - sum({holds})", "groups")], unit="none",
            thresholds=p.steps((1, p.RED)), graph=False,
        ),
        p.stat(
            "Groups with drift",
            "Sites and scanners for which a drift is proven at the stated error.",
            [p.target(q.total(q.of_screening("uadray_drift_detected")), "groups")], unit="none",
            thresholds=p.steps((1, p.RED)), graph=False,
        ),
        p.stat(
            "Stated false-alarm rate",
            "Share of normal slides that the calibration allows to be called anomalous.",
            [p.target(q.highest(alpha), "stated")], unit="percentunit", graph=False,
        ),
        p.stat(
            "Called anomalous",
            "Share of the slides with a decision, of all screenings chosen.",
            [p.target(q.ratio(f"sum({anomalous})", f"sum({decided})"), "anomalous")], unit="percentunit", decimals=1,
            graph=False,
        ),
        p.bars(
            "p-values against the uniform",
            "Share of slides with a p-value of at most each bound. Were all slides normal and the calibration right, "
            "each bar would be as long as its bound says. Longer at small p: anomalous slides, or a calibration that "
            "no longer holds.",
            [p.target(f"sort({shares})", "p <= {{le}}", instant=True)],
            unit="percentunit", most=1, decimals=1, size=(12, 10),
        ),
        p.time_series(
            "Called anomalous against stated",
            "By screening and bundle; dashed is what the calibration allows of normal slides.",
            [
                p.target(q.ratio(anomalous, decided), "{{screening}}, {{bundle}}"),
                p.target(q.highest(alpha, by), "stated, {{screening}}, {{bundle}}"),
            ],
            unit="percentunit", calcs=("lastNotNull",), size=(12, 10), overrides=[p.named("stated.*", **p.line())],
        ),
        p.table(
            "Calibrations",
            "Of each bundle: whether its calibration can be read (no: nothing is said of drift, and the exporter's log "
            "says why), its slides, its age, the stated false-alarm rate.",
            [
                p.target(q.total(q.of_screening("uadray_calibration_read"), by), ""),
                p.target(q.highest(q.of_screening("uadray_calibration_slides"), by), ""),
                p.target(q.highest(age, by), ""),
                p.target(q.highest(alpha, by), ""),
            ],
            columns={
                "screening": "screening", "bundle": "bundle", "Value #A": "can be read", "Value #B": "slides",
                "Value #C": "age", "Value #D": "false alarms",
            },
            overrides=[
                p.column("can be read", mappings=HOLDS), p.column("age", unit="s"),
                p.column("false alarms", unit="percentunit"),
            ],
            size=(24, 5),
        ),
        p.table(
            "Sites and scanners",
            "For each: its slides, the evidence of drift so far and the limit (powers of ten), whether drift is "
            "proven, and whether the calibration holds (empty: too few slides to tell).",
            [
                p.target(q.total(q.of_screening("uadray_drift_slides"), GROUP), ""),
                p.target(q.highest(q.of_screening("uadray_drift_evidence"), GROUP), ""),
                p.target(q.highest(q.of_screening("uadray_drift_detected"), GROUP), ""),
                p.target(f"min by ({GROUP}) ({holds})", ""),
            ],
            columns={
                "screening": "screening", "bundle": "bundle", "site": "site", "scanner": "scanner",
                "Value #A": "slides", "Value #B": "evidence", "Value #C": "drift", "Value #D": "calibration holds",
            },
            overrides=[
                p.column("evidence", decimals=1), p.column("drift", mappings=YES),
                p.column("calibration holds", mappings=HOLDS),
            ],
            sort_by="evidence", size=(24, 8),
        ),
    )  # fmt: skip


def _has_it_changed() -> list[p.Json]:
    evidence = q.of_screening("uadray_drift_evidence")
    limit = q.highest(q.of_screening("uadray_drift_limit"), "screening, bundle")
    return p.row(
        "Has tissue or scanner changed?",
        p.time_series(
            "Evidence of drift, by site and scanner",
            "The highest of the measures, in powers of ten; at the dashed limit drift is proven. A stream of normal "
            "slides gets there with the stated error at most, however long it is.",
            [
                p.target(q.highest(evidence, "screening, site, scanner"), "{{screening}}: {{site}}, {{scanner}}"),
                p.target(limit, "limit, {{screening}}, {{bundle}}"),
            ],
            unit="none", least=None, calcs=("lastNotNull", "max"), size=(12, 9),
            overrides=[p.named("limit.*", **p.line())],
        ),
        p.time_series(
            "Evidence of drift, by measure",
            "Which measure has changed: the score itself, colour (saturation, green), focus, or the share of tissue.",
            [p.target(q.highest(evidence, "measure"), "{{measure}}"), p.target(f"min({limit})", "limit")],
            unit="none", least=None, calcs=("lastNotNull", "max"), size=(12, 9),
            overrides=[p.named("limit", **p.line())],
        ),
        p.time_series(
            "Slides, by site and scanner",
            "That the test of drift has seen.",
            [
                p.target(
                    q.total(q.of_screening("uadray_drift_slides"), "screening, site, scanner"),
                    "{{screening}}: {{site}}, {{scanner}}",
                )
            ],
            unit="slides", calcs=("lastNotNull",),
        ),
        p.time_series(
            "Smallest p-values, by site and scanner",
            "Share of slides with p of at most 0.05. One scanner far above the others: its pictures, not its patients.",
            [
                p.target(
                    q.ratio(
                        q.total(q.of_screening(f"{P_VALUES}_bucket", 'le="0.05"'), "screening, site, scanner"),
                        q.total(q.of_screening(f"{P_VALUES}_count"), "screening, site, scanner"),
                    ),
                    "{{screening}}: {{site}}, {{scanner}}",
                )
            ],
            unit="percentunit", calcs=("lastNotNull",),
        ),
    )  # fmt: skip


def make() -> p.Json:
    """The dashboard's JSON."""
    return p.dashboard(
        UID, "uadray: calibration and drift",
        "Does the stated false-alarm rate hold, and has tissue or scanner changed?",
        [_does_it_hold(), _has_it_changed()],
        variables=[q.datasource_variable(), q.screening_variable()],
        links=[q.own_links()],
        hours=24,
    )  # fmt: skip
