"""Folders that are read by threads of their own: a store that is away, one that comes back, an endpoint's folder."""

import json
import logging
import threading
import time
from pathlib import Path

import endpoint_parts
import made_up_ledger as made
import pytest
from fault_proxy import FaultProxy
from seaweed import SeaweedServer

from uadray.monitoring.watched import STALE_S, WatchedFolder
from uadray.screening.bundles import calibrated_bundle
from uadray.serving.jobs.folders import claim_screening
from uadray.serving.jobs.queue import Jobs
from uadray.serving.jobs.records import JobBundle, JobRecord, Slide, new_id
from uadray.storage import objects


@pytest.mark.s3
def test_a_store_that_is_away_leaves_nothing_that_looks_new(
    s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = f"s3://{s3.bucket}/away"
    made.write_run(out)
    made.write_decisions(out, [made.scored(f"s{i}") for i in range(300)])
    proxy = FaultProxy(s3.env["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    folder = WatchedFolder("away", out)
    assert folder.current is None
    folder.refresh()
    assert folder.current is not None
    assert folder.current.numbers["away"].decided == 300
    before = len(proxy.requests)
    folder.refresh()
    assert len(proxy.requests) - before <= 6, [f"{r.method} {r.path}" for r in proxy.requests[before:]]
    proxy.fault = lambda request: "403 AccessDenied"
    for _ in range(2):
        folder.refresh()
        assert folder.current is None
    assert folder.last is not None
    assert caplog.text.count("away cannot be read") == 1, "said once"
    proxy.fault = lambda request: None
    folder.refresh()
    assert folder.current is not None
    proxy.close()


def test_an_old_reading_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not answer at all keeps the reader waiting, and nobody is told old numbers meanwhile."""
    made.write_run(str(tmp_path))
    folder = WatchedFolder("x", str(tmp_path), refresh_s=1)
    folder.refresh()
    assert folder.current is not None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + STALE_S + 1)
    assert folder.current is None


def test_a_folder_that_holds_nonsense_is_said_and_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    out = str(tmp_path)
    folder = WatchedFolder("x", out)
    folder.refresh()
    assert "there is no screening" in folder.problem
    for nonsense in (b"", b"[]", b'{"fingerprint": "f"}', b"[" * 5000):
        objects.write_bytes(f"{out}/run.json", nonsense)
        folder.refresh()
        assert folder.current is None
        assert folder.problem
    made.write_run(out)
    folder.refresh()
    assert folder.problem == ""
    assert "Traceback" not in caplog.text


def test_the_thread_reads_until_it_is_stopped(tmp_path: Path) -> None:
    made.write_run(str(tmp_path))
    folder, stop = WatchedFolder("x", str(tmp_path), refresh_s=0.05), threading.Event()
    thread = threading.Thread(target=folder.run, args=(stop,))
    thread.start()
    deadline = time.monotonic() + 20
    while folder.last is None or not folder.last.numbers["x"].decided:
        assert time.monotonic() < deadline
        if folder.last is not None:
            made.write_decisions(str(tmp_path), [made.scored("s1")])
        time.sleep(0.02)
    stop.set()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_an_endpoints_folder_has_a_queue_and_the_screenings_of_all_its_bundles(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    caplog.set_level(logging.WARNING)
    jobs = Jobs(str(tmp_path / "out"))
    folder = WatchedFolder("e", jobs.out)
    bundles = [calibrated_bundle(endpoint_parts.write_calibrated(tmp_path, name=n, seed=s)) for s, n in enumerate("ab")]
    for i, bundle in enumerate((bundles[0], bundles[1], bundles[1])):
        screening = claim_screening(jobs.out, [bundle])
        named = JobBundle(name="x", uri=bundle.uri, id=bundle.bundle.id, calibration_id=bundle.calibration.id)
        jobs.submit(
            JobRecord(
                id=new_id(), slide=Slide(slide_id=f"s{i}", uri=f"/s{i}"), bundles=(named,), screening=screening,
                priority=5, submitted=jobs.clock(), submitted_by="test",
            )
        )  # fmt: skip
    objects.write_bytes(f"{jobs.out}/leases/s0.json", json.dumps({"driver": "d", "tenure": "d.1"}).encode())
    folder.refresh()
    reading = folder.current
    assert reading is not None, folder.problem
    assert reading.jobs == {"waiting": 2, "running": 1}
    assert sorted(reading.numbers) == ["e", f"e/{screening[:8]}"]
    assert [each.record.name for of in reading.numbers.values() for each in of.bundles] == ["a", "b"]
    made.write_decisions(jobs.out, [made.scored("s0")])
    folder.refresh()
    assert folder.current is not None
    assert folder.current.jobs == {"waiting": 3, "running": 0}, "a lease beside a decision is no work"
