"""A folder's numbers: right, incremental, in few requests, of any version, and bounded."""

import json
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import endpoint_parts
import made_up_ledger as made
import numpy as np
import pytest
import screening_drivers as sd
import small_screening
from seaweed import SeaweedServer

from uadray.detectors.description import described_bundle
from uadray.errors import NotFoundError
from uadray.monitoring.ledger_metrics import MAX_REASONS, LedgerReader
from uadray.screening.decision_segments import read_decisions
from uadray.storage import objects


@pytest.fixture(scope="module")
def screening(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three painted slides and a file that is none, by two bundles, in this process."""
    folder = tmp_path_factory.mktemp("watched")
    bundles = [endpoint_parts.write_calibrated(folder, name=name, seed=seed) for seed, name in enumerate("ab")]
    small_screening.screen_here(str(folder / "out"), bundles, small_screening.painted_rows(folder))
    return str(folder / "out")


def test_the_numbers_of_a_real_screening_are_its_decisions(screening: str) -> None:
    numbers = LedgerReader(screening).read()
    rows = read_decisions(screening).table.to_pylist()
    assert numbers.decided == 4
    assert [each.record.folder for each in numbers.bundles] == ["a", "b"]
    for each in numbers.bundles:
        own = [row for row in rows if row["bundle"] == each.record.folder]
        for state in ("scored", "not_assessable", "failed"):
            assert sum(n for (of, _), n in each.slides.items() if of == state) == sum(r["state"] == state for r in own)
        assert each.slides["failed", "unreadable"] == 1
        assert sum(each.decisions.values()) == sum(row["decision"] is not None for row in own)
        assert each.calibration is not None, "the record says where the bundles lie"
        assert sum(group.n_slides for group in each.groups) == sum(row["p_value"] is not None for row in own)
        assert {group.site for group in each.groups} == {"North", "South", "unknown"}
    first = [row for row in rows if row["bundle"] == "a"]
    assert numbers.read_seconds == pytest.approx(sum(row["read_seconds"] for row in first))
    assert numbers.score_seconds == pytest.approx(sum(row["score_seconds"] or 0 for row in first))
    assert numbers.timed == 4
    assert numbers.per_second > 0


def test_rate_backlog_and_time_left(tmp_path: Path) -> None:
    """30 slides of the last 5 minutes; the driver said 10 s ago that 100 are open, and 4 were decided since."""
    out, now = str(tmp_path), datetime.now(UTC)
    made.write_run(out)
    ages = [5.0, 6.0, 7.0, 8.0, *np.linspace(20, 290, 26), *[400.0] * 10]
    made.write_decisions(out, [made.scored(f"s{i}", ago_s=age, now=now) for i, age in enumerate(ages)])
    made.write_progress(out, "a", ago_s=10, open=100, slides=136, oldest_open=(now - timedelta(hours=2)).isoformat())
    made.write_progress(out, "b", ago_s=3000, open=130, slides=136, stages={"read": 5.0})
    numbers = LedgerReader(out).read(now=now)
    assert numbers.per_second == pytest.approx(30 / 300)
    assert (numbers.total, numbers.backlog, numbers.decided) == (136, 96, 40)
    assert numbers.seconds_left == pytest.approx(960)
    assert numbers.oldest_open == now - timedelta(hours=2)
    assert {each.driver: each.state for each in numbers.drivers} == {"a": "alive", "b": "dead"}
    assert numbers.lag_s(now) == pytest.approx(3000, abs=5)
    assert numbers.stages == {"read": 5.0}


def test_a_screening_that_ended_has_no_backlog_and_one_that_nobody_describes_an_unknown_one(tmp_path: Path) -> None:
    out = str(tmp_path)
    made.write_run(out)
    numbers = LedgerReader(out).read()
    assert (numbers.decided, numbers.total, numbers.backlog, numbers.seconds_left) == (0, None, None, None)
    made.write_decisions(out, [made.scored("s")])
    made.write_progress(out, "a", ended="done", open=0, slides=1)
    numbers = LedgerReader(out).read()
    assert (numbers.total, numbers.backlog, numbers.seconds_left, numbers.oldest_open) == (1, 0, 0.0, None)


def test_only_what_is_new_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = str(tmp_path)
    made.write_run(out)
    made.write_decisions(out, [made.scored(f"s{i}") for i in range(20)])
    reader = LedgerReader(out)
    assert reader.read().decided == 20
    read: list[str] = []
    read_ranges = objects.read_ranges
    monkeypatch.setattr(objects, "read_ranges", lambda uri, *a, **k: (read.append(uri), read_ranges(uri, *a, **k))[1])
    assert reader.read().decided == 20
    assert [uri for uri in read if "/decisions/" in uri] == []
    made.write_decisions(out, [made.scored("s3", p=0.01), made.unscored("new", "failed", "no_mpp")])
    numbers = reader.read()
    assert sorted(objects.name(uri) for uri in read if "/decisions/" in uri) == ["new.json", "s3.json"]
    assert (numbers.decided, numbers.bundles[0].decisions["anomalous"]) == (21, 1)
    assert numbers.bundles[0].slides["failed", "no_mpp"] == 1
    objects.delete(f"{out}/decisions/s4.json")
    assert reader.read().decided == 20


def test_a_calibration_is_found_where_the_record_or_the_configuration_says(tmp_path: Path) -> None:
    """And only that which the decisions were made with."""
    out, uri = str(tmp_path / "out"), endpoint_parts.write_calibrated(tmp_path)
    bundle_id = described_bundle(uri).id
    made.write_run(out, bundle_id=bundle_id, bundle="tiny", calibration_id="cal0")
    made.write_decisions(out, [made.scored(f"s{i}") for i in range(3)])
    (unknown,) = LedgerReader(out).read().bundles
    assert unknown.calibration is None
    assert "does not say where its bundle lies" in unknown.problem
    assert unknown.alpha == 0.05, "the decisions say it"
    for known in ({"tiny": uri}, {bundle_id: uri}):
        (named,) = LedgerReader(out, known).read().bundles
        assert named.calibration is not None
        assert (named.calibration.id, named.alpha, named.problem) == ("cal0", 0.25, "")
    made.write_run(out, bundle_id=bundle_id, bundle="tiny", calibration_id="older", bundle_uri=uri)
    (other,) = LedgerReader(out).read().bundles
    assert other.calibration is None
    assert "has been calibrated anew (cal0)" in other.problem
    made.write_run(out, bundle_uri=str(tmp_path / "gone"))
    (gone,) = LedgerReader(out).read().bundles
    assert gone.calibration is None
    assert gone.problem


def test_drift_is_told_of_the_site_that_has_it(tmp_path: Path) -> None:
    out, uri = str(tmp_path / "out"), endpoint_parts.write_calibrated(tmp_path)
    bundle_id, rng = described_bundle(uri).id, np.random.default_rng(3)
    Path(uri, "calibration.json").write_text(made.calibration(bundle_id=bundle_id).model_dump_json())
    made.write_run(out, bundle_id=bundle_id, bundle_uri=uri)
    same = [made.scored(f"n{i:03d}", p=float(rng.uniform(0.06, 1)), **made.measures(rng)) for i in range(60)]
    pale = [
        made.scored(f"p{i:03d}", p=float(rng.uniform(0.06, 1)), site="South", **made.measures(rng, saturation=-3))
        for i in range(60)
    ]
    made.write_decisions(out, [*same, *pale])
    (bundle,) = LedgerReader(out).read().bundles
    assert {each.site: each.detected_at is not None for each in bundle.drift} == {"North": False, "South": True}
    drifted = {(each.site, each.scanner) for each in bundle.drift if each.detected_at}
    assert {each.site: each.holds(drifted) for each in bundle.groups} == {"North": True, "South": False}


def test_names_from_outside_are_bounded(tmp_path: Path) -> None:
    out = str(tmp_path)
    made.write_run(out)
    rows = [made.scored(f"s{i}", site=f"site {i}", decided_at="not a time") for i in range(70)]
    made.write_decisions(out, [*rows, *(made.unscored(f"f{i}", "failed", f"reason {i}") for i in range(50))])
    (bundle,) = LedgerReader(out).read().bundles
    assert len(bundle.groups) == 51
    assert sum(each.n_slides for each in bundle.groups) == 70
    reasons = [reason for state, reason in bundle.slides if state == "failed"]
    assert len(reasons) == MAX_REASONS
    assert sum(n for (state, _), n in bundle.slides.items() if state == "failed") == 50


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    """JSON as Python reads it has NaN and infinity."""
    out = str(tmp_path)
    made.write_run(out)
    odd = [{"p_value": float("nan")}, {"p_value": 7.0}, {"alpha": float("nan")}, {"read_seconds": float("inf")}]
    made.write_decisions(out, [made.scored(f"s{i}", **more) for i, more in enumerate([*odd, {"score_seconds": -5.0}])])
    numbers = LedgerReader(out).read()
    (group,) = numbers.bundles[0].groups
    assert (group.n_slides, group.total, numbers.bundles[0].alpha) == (3, 1.5, 0.05)
    assert (numbers.read_seconds, numbers.score_seconds, numbers.timed) == (8.0, 4.0, 4)


def test_folders_and_bundles_of_older_versions(tmp_path: Path) -> None:
    """Decisions without the newer fields: what they say is told, what they do not say is unknown and not 0."""
    out = str(tmp_path)
    made.write_run(out)
    older = ("slide_id", "uri", "state", "decision", "p_value", "alpha", "fingerprint")
    for i in range(3):
        record = {name: value for name, value in made.scored(f"s{i}").items() if name in older}
        objects.write_bytes(f"{out}/decisions/s{i}.json", json.dumps(record).encode())
    objects.write_bytes(f"{out}/drivers/d.json", b'{"driver": "d", "lease_s": 60, "beat": 7}')
    numbers = LedgerReader(out).read()
    assert (numbers.decided, numbers.timed, numbers.per_second) == (3, 0, 0.0)
    assert [(each.state, each.lag_s) for each in numbers.drivers] == [("alive", None)]
    assert numbers.bundles[0].groups[0].site == "unknown"


def test_no_screening_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no screening"):
        LedgerReader(str(tmp_path)).read()


@pytest.mark.s3
def test_in_s3_a_killed_driver_is_told_and_what_it_left(s3: SeaweedServer, tmp_path: Path) -> None:
    out = f"s3://{s3.bucket}/{tmp_path.name}"
    herd = sd.Herd(
        tmp_path, {"hang_after": 3}, out=out, folder=str(tmp_path), n_slides=8, lease_s=2.0, describe=True
    )  # fmt: skip
    herd.wait_for(lambda: {"hangs": True} in herd.events())
    reader = LedgerReader(out)
    herd.wait_for(lambda: reader.read().backlog == 5)
    assert [each.state for each in reader.read().drivers] == ["alive"]
    os.kill(herd.pids[0], signal.SIGKILL)
    assert herd.codes() == [-signal.SIGKILL]
    numbers = reader.read()
    assert ([each.state for each in numbers.drivers], numbers.backlog, numbers.decided) == (["dead"], 5, 3)
    assert sd.Herd(tmp_path, {}, out=out, folder=str(tmp_path), n_slides=8, lease_s=2.0, describe=True).codes() == [0]
    numbers = reader.read()
    assert ([each.state for each in numbers.drivers], numbers.backlog, numbers.decided) == (["ended"], 0, 8)
