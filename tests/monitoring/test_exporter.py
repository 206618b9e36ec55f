"""What a scrape is told, over HTTP: the ledger's own counts, with the labels that rules and dashboards rely on."""

import re
import socket
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import endpoint_parts
import made_up_ledger as made
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from uadray.detectors.description import described_bundle
from uadray.errors import InputError
from uadray.monitoring.exported import EXPORTED, label
from uadray.monitoring.exporter import LedgerCollector, serve
from uadray.monitoring.prices import ExporterConfig, Prices
from uadray.monitoring.watched import WatchedFolder

CONFIG = ExporterConfig(prices=Prices(cpu_hour=3.6, currency="CHF"), budgets={"archive": 100.0})


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """130 slides of two sites, one of them with paler tissue; one driver that lives and one that was killed."""
    folder = tmp_path_factory.mktemp("exported")
    uri, out = endpoint_parts.write_calibrated(folder), str(folder / "archive")
    bundle_id, rng = described_bundle(uri).id, np.random.default_rng(3)
    Path(uri, "calibration.json").write_text(made.calibration(bundle_id=bundle_id).model_dump_json())
    made.write_run(out, bundle_id=bundle_id, bundle_uri=uri)
    rows = [made.scored(f"n{i:03d}", p=0.02 + i / 70, ago_s=i, **made.measures(rng)) for i in range(60)]
    rows += [made.scored(f"p{i:03d}", site="South", **made.measures(rng, green=4)) for i in range(60)]
    rows += [made.unscored(f"f{i}", "failed", "no_mpp") for i in range(7)]
    made.write_decisions(out, [*rows, *(made.unscored(f"a{i}", "not_assessable", "pen") for i in range(3))])
    since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    made.write_progress(out, "alive", ago_s=1, slides=200, open=71, oldest_open=since, stages={"decode": 60.0})
    made.write_progress(out, "dead", ago_s=600, slides=200, open=90, stages={"decode": 20.0, "commit": 1.0})
    return out


def _served(*folders: WatchedFolder, config: ExporterConfig = CONFIG) -> Iterator[int]:
    server = serve(folders, config, port=0, host="127.0.0.1")
    yield server.server_port
    server.shutdown()
    server.server_close()


def _scrape(port: int) -> dict[str, dict[str, float]]:
    """Name -> labels as text -> value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    samples: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if k != "screening")
            of_name = samples.setdefault(sample.name, {})
            assert labels not in of_name, f"{sample.name} {labels} is told twice"
            of_name[labels] = sample.value
    return samples


@pytest.fixture(scope="module")
def scraped(archive: str) -> Iterator[dict[str, dict[str, float]]]:
    folder = WatchedFolder("archive", archive)
    folder.refresh()
    for port in _served(folder):
        yield _scrape(port)


def test_counts_are_the_ledgers(scraped: dict[str, dict[str, float]]) -> None:
    bundle = "bundle=made-up"
    assert scraped["uadray_ledger_up"] == {"": 1.0}
    assert scraped["uadray_ledger_decided_total"] == {"": 130.0}
    slides = {labels: n for labels, n in scraped["uadray_ledger_slides"].items() if n}
    assert slides == {
        f"{bundle},reason=,state=scored": 120.0, f"{bundle},reason=no_mpp,state=failed": 7.0,
        f"{bundle},reason=pen,state=not_assessable": 3.0,
    }  # fmt: skip
    assert scraped["uadray_ledger_slides"][f"{bundle},reason=,state=failed"] == 0, "0 and not absent"
    assert scraped["uadray_ledger_decisions"] == {
        f"{bundle},decision={decision}": n for decision, n in (("anomalous", 3), ("normal", 117), ("not_assessable", 3))
    }  # fmt: skip
    ((info, one),) = scraped["uadray_ledger_run_info"].items()
    assert one == 1
    known = dict(pair.split("=") for pair in info.split(","))
    assert len(known.pop("bundle_id")) == 12
    assert known == {
        "bundle": "made-up", "calibration_id": "c1", "detector": "dpa", "fingerprint": "0123456789abcdef",
        "version": "0.0.1",
    }  # fmt: skip


def test_work_is_told_with_its_age(scraped: dict[str, dict[str, float]]) -> None:
    assert scraped["uadray_ledger_drivers"] == {"state=alive": 1.0, "state=dead": 1.0}
    assert scraped["uadray_ledger_driver_lag_seconds"][""] == pytest.approx(600, abs=60)
    assert 69 <= scraped["uadray_ledger_backlog_slides"][""] <= 71
    assert scraped["uadray_ledger_oldest_open_seconds"][""] == pytest.approx(3600, abs=60)
    assert scraped["uadray_ledger_decisions_per_second"][""] == pytest.approx(60 / 300, rel=0.1)
    left = scraped["uadray_ledger_backlog_slides"][""] / scraped["uadray_ledger_decisions_per_second"][""]
    assert scraped["uadray_ledger_seconds_left"][""] == pytest.approx(left)
    assert scraped["uadray_ledger_stage_seconds"] == {"stage=decode": 80.0, "stage=commit": 1.0}


def test_p_values_are_a_histogram_that_prometheus_can_use(scraped: dict[str, dict[str, float]]) -> None:
    north = "scanner=S1,site=North"
    buckets = {
        re.findall(r",le=([^,]+)", labels)[0]: n
        for labels, n in scraped["uadray_ledger_p_value_bucket"].items()
        if north in labels
    }
    assert buckets["+Inf"] == scraped["uadray_ledger_p_value_count"][f"bundle=made-up,{north}"] == 60
    assert buckets["0.05"] == 3
    assert list(buckets.values()) == sorted(buckets.values())
    assert scraped["uadray_ledger_alpha"] == {"bundle=made-up": 0.05}


def test_drift_and_what_holds_are_told_by_site(scraped: dict[str, dict[str, float]]) -> None:
    north, south = (f"bundle=made-up,scanner=S1,site={site}" for site in ("North", "South"))
    assert scraped["uadray_drift_detected"] == {north: 0.0, south: 1.0}
    assert scraped["uadray_calibration_holds"] == {north: 1.0, south: 0.0}
    assert scraped["uadray_drift_slides"] == {north: 60.0, south: 60.0}
    limit = scraped["uadray_drift_limit"]["bundle=made-up"]
    evidence = scraped["uadray_drift_evidence"]
    assert evidence["bundle=made-up,measure=green,scanner=S1,site=South"] >= limit
    assert all(value < limit for labels, value in evidence.items() if "North" in labels)
    assert scraped["uadray_calibration_read"] == {"bundle=made-up": 1.0}
    assert scraped["uadray_calibration_slides"] == {"bundle=made-up": 99.0}
    made_at = datetime(2026, 11, 1, tzinfo=UTC)
    age_s = (datetime.now(UTC) - made_at).total_seconds()
    assert scraped["uadray_calibration_age_seconds"]["bundle=made-up"] == pytest.approx(age_s, abs=120)


def test_cost_is_that_of_the_seconds(scraped: dict[str, dict[str, float]]) -> None:
    """120 slides took a reader 2 s and a scorer 1 s each, at 3.60 an hour."""
    assert scraped["uadray_cost"] == {"currency=CHF": pytest.approx(120 * 3 * 0.001)}
    assert scraped["uadray_cost_per_slide"] == {"currency=CHF": pytest.approx(0.003)}
    assert scraped["uadray_budget"] == {"currency=CHF": 100.0}


def test_every_metric_is_told_but_the_queue(scraped: dict[str, dict[str, float]]) -> None:
    bases = {re.sub("_(total|bucket|count|sum)$", "", name) for name in scraped}
    assert {*EXPORTED} - bases == {"uadray_ledger_jobs"}


def test_without_prices_nothing_is_said_of_cost(archive: str) -> None:
    folder = WatchedFolder("archive", archive)
    folder.refresh()
    names = {family.name for family in LedgerCollector([folder], ExporterConfig()).collect()}
    assert not any("cost" in name or "budget" in name for name in names)
    assert "uadray_ledger_up" in names


def test_what_cannot_be_read_is_down_and_the_others_are_told(archive: str, tmp_path: Path) -> None:
    folders = [WatchedFolder("archive", archive), WatchedFolder("gone", str(tmp_path / "gone"))]
    for folder in folders:
        folder.refresh()
    samples = [s for family in LedgerCollector(folders, CONFIG).collect() for s in family.samples]
    assert {s.labels["screening"]: s.value for s in samples if s.name == "uadray_ledger_up"} == {
        "archive": 1,
        "gone": 0,
    }
    assert [s.name for s in samples if s.labels["screening"] == "gone"] == ["uadray_ledger_up"]
    folders[0].problem = "the store is away"
    names = {s.name for family in LedgerCollector(folders[:1], CONFIG).collect() for s in family.samples}
    assert names == {"uadray_ledger_up", "uadray_ledger_read_timestamp_seconds"}


def test_hostile_names_break_no_scrape(tmp_path: Path) -> None:
    """Line breaks, quotes, escapes, names that differ only beyond what is kept."""
    out = str(tmp_path)
    made.write_run(out, bundle='a"b\n\\\x1b[31m')
    sites = ['"} 1\nfake_metric 2', "x" * 300 + "1", "x" * 300 + "2", "\x00", ""]
    made.write_decisions(out, [made.scored(f"s{i}", site=site) for i, site in enumerate(sites)])
    folder = WatchedFolder("h", out)
    folder.refresh()
    for port in _served(folder):
        scraped = _scrape(port)
    assert "fake_metric" not in scraped
    assert len(scraped["uadray_ledger_p_value_count"]) == 4, "two are one where they were cut"
    assert label("\x1b]0;owned\x07") == "?]0;owned?"


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=r"cannot be listened on.*--port"):
            serve([], ExporterConfig(), port=taken.getsockname()[1], host="127.0.0.1")
