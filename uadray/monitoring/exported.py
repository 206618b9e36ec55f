"""The name, labels and meaning of each metric of the exporter, once."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Exported:
    """What a metric is.

    Attributes:
        kind: as Prometheus has it.
        meaning: for people.
        labels: besides `screening`, which each has.
    """

    kind: Literal["gauge", "counter", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()


LONGEST_LABEL = 100
"""Characters of a label: names in ledgers come from outside."""


def label(text: str) -> str:
    r"""A name from outside as a label or a terminal has it: of bounded length, and printable.

    >>> label("Site\x1b[31m")
    'Site?[31m'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text[:LONGEST_LABEL])


_GROUP = ("bundle", "site", "scanner")

EXPORTED = {
    "uadray_ledger_up": Exported("gauge", "1 where the ledger was read lately; 0 where it cannot be, all else absent"),
    "uadray_ledger_read_seconds": Exported("gauge", "How long the last reading of the ledger took"),
    "uadray_ledger_read_timestamp_seconds": Exported("gauge", "When the ledger was last read, in seconds since 1970"),
    "uadray_ledger_slides": Exported("gauge", "Decided slides by state and reason", ("bundle", "state", "reason")),
    "uadray_ledger_decisions": Exported("gauge", "Decided slides by decision", ("bundle", "decision")),
    "uadray_ledger_decided": Exported("counter", "Slides that are decided"),
    "uadray_ledger_total_slides": Exported("gauge", "Slides of the run, as its drivers say; absent where none has"),
    "uadray_ledger_backlog_slides": Exported("gauge", "Slides that are not decided, as drivers or the queue say"),
    "uadray_ledger_oldest_open_seconds": Exported("gauge", "Since when the first undecided slide is known; 0: none is"),
    "uadray_ledger_decisions_per_second": Exported("gauge", "Slides decided a second, in the last 5 minutes"),
    "uadray_ledger_seconds_left": Exported("gauge", "Time for the backlog at this rate; absent where nothing moves"),
    "uadray_ledger_drivers": Exported("gauge", "Drivers that live, and that were killed (not ended)", ("state",)),
    "uadray_ledger_driver_lag_seconds": Exported("gauge", "Longest silence of a driver that has not ended"),
    "uadray_ledger_stage_seconds": Exported("gauge", "Seconds of each part of the work, of all drivers", ("stage",)),
    "uadray_ledger_p_value": Exported("histogram", "p-values of slides; uniform where all are normal", _GROUP),
    "uadray_ledger_alpha": Exported("gauge", "The stated false-alarm rate", ("bundle",)),
    "uadray_ledger_run_info": Exported(
        "gauge", "1; whose screening it is",
        ("fingerprint", "bundle", "bundle_id", "calibration_id", "detector", "version"),
    ),
    "uadray_ledger_jobs": Exported("gauge", "Slides in an endpoint's queue: waiting, running", ("state",)),
    "uadray_calibration_read": Exported(
        "gauge", "1 where the bundle's calibration could be read; 0: all about drift is absent, the log says why",
        ("bundle",),
    ),
    "uadray_calibration_age_seconds": Exported("gauge", "Since the calibration was made", ("bundle",)),
    "uadray_calibration_slides": Exported("gauge", "Normal slides of the calibration, one a patient", ("bundle",)),
    "uadray_calibration_holds": Exported(
        "gauge",
        "0 where drift was detected, or more slides have p <= alpha than normal ones have by chance once in 100 times "
        "(true anomalies raise it too: look at the slides); 1 where 20 were judged and neither is so; else absent",
        _GROUP,
    ),
    "uadray_drift_evidence": Exported(
        "gauge", "log10 of the test martingale that slides are as the calibration's, highest so far",
        (*_GROUP, "measure"),
    ),
    "uadray_drift_limit": Exported("gauge", "log10 of the evidence at which drift is called", ("bundle",)),
    "uadray_drift_detected": Exported("gauge", "1 where the evidence of a measure has reached the limit", _GROUP),
    "uadray_drift_slides": Exported("gauge", "Slides that were compared with the calibration's", _GROUP),
    "uadray_cost": Exported("gauge", "What readers and scorers have cost: their seconds times prices", ("currency",)),
    "uadray_cost_per_slide": Exported("gauge", "The same a slide, of those that tell their seconds", ("currency",)),
    "uadray_budget": Exported("gauge", "What the screening may cost", ("currency",)),
}  # fmt: skip
"""By name; that of a counter without its `_total`."""
