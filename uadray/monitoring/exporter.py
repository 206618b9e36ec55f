"""The ledgers of screenings as metrics for Prometheus: what a scrape is told, and the server that tells it.

A scrape reads nothing: it is told what was read last (see `watched`). Of a folder that cannot be read only
`uadray_ledger_up` 0 is told, and when it was read last, so that no old number looks like a new one.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from uadray.decisions.validity import P_EDGES
from uadray.errors import InputError
from uadray.monitoring.exported import EXPORTED, label
from uadray.monitoring.ledger_metrics import BundleNumbers, LedgerNumbers
from uadray.monitoring.prices import ExporterConfig, cost
from uadray.monitoring.watched import Reading, WatchedFolder

Sample = tuple[str, dict[str, str], Any]
"""Name, labels, and value; of a histogram its buckets and sum."""

_KINDS = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}


class LedgerCollector(Collector):
    """Tells what was read last of each folder.

    Args:
        folders: that are read.
        config: for what the work costs.
    """

    def __init__(self, folders: Sequence[WatchedFolder], config: ExporterConfig) -> None:
        self._folders, self._config = folders, config

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are not checked against other collectors, there are none."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every metric that there is something to tell of."""
        families: dict[str, Any] = {}
        told: set[tuple[str, ...]] = set()
        for name, labels, value in self._samples():
            meant = EXPORTED[name]
            names = ("screening", *meant.labels)
            family = families.setdefault(name, _KINDS[meant.kind](name, meant.meaning, labels=names))
            values = [label(labels[key]) for key in names]
            if (name, *values) in told:  # names that differ only where they were cut
                continue
            told.add((name, *values))
            if meant.kind == "histogram":
                family.add_metric(values, value[0], value[1])
            else:
                family.add_metric(values, value)
        yield from families.values()

    def _samples(self) -> Iterator[Sample]:
        for folder in self._folders:
            reading = folder.current
            yield "uadray_ledger_up", {"screening": folder.name}, int(reading is not None)
            if folder.last is not None:
                yield "uadray_ledger_read_timestamp_seconds", {"screening": folder.name}, folder.last.at
            if reading is not None:
                yield from self._of_reading(folder.name, reading)

    def _of_reading(self, name: str, reading: Reading) -> Iterator[Sample]:
        yield "uadray_ledger_read_seconds", {"screening": name}, reading.seconds
        for state, n in (reading.jobs or {}).items():
            yield "uadray_ledger_jobs", {"screening": name, "state": state}, n
        if reading.jobs is not None:
            yield "uadray_ledger_backlog_slides", {"screening": name}, sum(reading.jobs.values())
        for screening, numbers in reading.numbers.items():
            samples = [*_of_ledger(numbers, has_queue=reading.jobs is not None), *self._cost(screening, numbers)]
            for each in numbers.bundles:
                samples += _of_bundle(each, numbers)
            yield from ((metric, labels | {"screening": screening}, value) for metric, labels, value in samples)

    def _cost(self, screening: str, numbers: LedgerNumbers) -> Iterator[Sample]:
        prices = self._config.prices
        if prices is None or (numbers.decided and not numbers.timed):  # decisions of older versions do not tell
            return
        labels = {"currency": prices.currency}
        spent = cost(
            prices, slides=numbers.timed, read_seconds=numbers.read_seconds, score_seconds=numbers.score_seconds
        )  # fmt: skip
        yield "uadray_cost", labels, spent
        if numbers.timed:
            yield "uadray_cost_per_slide", labels, spent / numbers.timed
        if screening in self._config.budgets:
            yield "uadray_budget", labels, self._config.budgets[screening]


def bundle_label(numbers: BundleNumbers) -> str:
    """What a bundle is called: its folder, or its name where it is the only one."""
    return numbers.record.folder or numbers.record.name


def _of_ledger(numbers: LedgerNumbers, *, has_queue: bool) -> Iterator[Sample]:
    now = datetime.now(UTC)
    yield "uadray_ledger_decided", {}, numbers.decided
    yield "uadray_ledger_decisions_per_second", {}, numbers.per_second
    if numbers.total is not None:
        yield "uadray_ledger_total_slides", {}, numbers.total
    if numbers.backlog is not None and not has_queue:
        yield "uadray_ledger_backlog_slides", {}, numbers.backlog
        since = numbers.oldest_open
        if since is not None or not numbers.backlog:
            yield "uadray_ledger_oldest_open_seconds", {}, max(0.0, (now - since).total_seconds()) if since else 0
    if numbers.seconds_left is not None:
        yield "uadray_ledger_seconds_left", {}, numbers.seconds_left
    for state in ("alive", "dead"):
        yield "uadray_ledger_drivers", {"state": state}, sum(each.state == state for each in numbers.drivers)
    lag_s = numbers.lag_s(now)
    if lag_s is not None:
        yield "uadray_ledger_driver_lag_seconds", {}, lag_s
    for stage, seconds in numbers.stages.items():
        yield "uadray_ledger_stage_seconds", {"stage": stage}, seconds


def _of_bundle(numbers: BundleNumbers, ledger: LedgerNumbers) -> Iterator[Sample]:
    bundle, record = {"bundle": bundle_label(numbers)}, numbers.record
    info = {"fingerprint": ledger.run.fingerprint, "bundle_id": record.id, "calibration_id": record.calibration_id}
    yield "uadray_ledger_run_info", bundle | info | {"detector": record.detector, "version": ledger.run.version}, 1
    for (state, reason), n in numbers.slides.items():
        yield "uadray_ledger_slides", bundle | {"state": state, "reason": reason}, n
    for decision, n in numbers.decisions.items():
        yield "uadray_ledger_decisions", bundle | {"decision": decision}, n
    if numbers.alpha is not None:
        yield "uadray_ledger_alpha", bundle, numbers.alpha
    yield "uadray_calibration_read", bundle, int(numbers.calibration is not None)
    if numbers.calibration is not None:
        yield "uadray_calibration_slides", bundle, len(numbers.calibration.scores)
        age_s = _age_s(numbers.calibration.made)
        if age_s is not None:
            yield "uadray_calibration_age_seconds", bundle, age_s
    yield from _of_groups(numbers, bundle)
    yield from _of_drift(numbers, bundle)


def _of_groups(numbers: BundleNumbers, bundle: dict[str, str]) -> Iterator[Sample]:
    drifted = {(each.site, each.scanner) for each in numbers.drift if each.detected_at is not None}
    for each in numbers.groups:
        labels = bundle | {"site": each.site, "scanner": each.scanner}
        buckets = [(str(edge), n) for edge, n in zip(P_EDGES, each.at_most, strict=True)]
        yield "uadray_ledger_p_value", labels, ([*buckets, ("+Inf", each.n_slides)], each.total)
        holds = each.holds(drifted)
        if holds is not None:
            yield "uadray_calibration_holds", labels, int(holds)


def _of_drift(numbers: BundleNumbers, bundle: dict[str, str]) -> Iterator[Sample]:
    told = [each for each in numbers.drift if each.evidence]
    for each in told:
        labels = bundle | {"site": each.site, "scanner": each.scanner}
        yield "uadray_drift_slides", labels, each.n_slides
        yield "uadray_drift_detected", labels, int(each.detected_at is not None)
        for measure, evidence in each.evidence.items():
            yield "uadray_drift_evidence", labels | {"measure": measure}, evidence
    if told:
        yield "uadray_drift_limit", bundle, told[0].limit


def _age_s(made: str) -> float | None:
    """Seconds since a time that a calibration tells; None where it tells none."""
    try:
        at = datetime.fromisoformat(made)
    except ValueError:
        return None
    return max(0.0, (datetime.now(UTC) - at).total_seconds()) if at.tzinfo else None


def serve(folders: Sequence[WatchedFolder], config: ExporterConfig, *, port: int, host: str) -> Any:
    """Answer scrapes, from threads, until the server that is returned is told to `shutdown`.

    Raises:
        InputError: the port cannot be had.
    """
    registry = CollectorRegistry()
    registry.register(LedgerCollector(folders, config))
    try:
        server, _ = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise InputError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}; name another --port"
        ) from error
    return server
