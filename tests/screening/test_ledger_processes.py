"""Several real processes on one screening: each slide once, whoever dies or stands still."""

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest
import screening_drivers as sd
from seaweed import SeaweedServer

from uadray.storage import objects


@pytest.fixture
def out(s3: SeaweedServer, tmp_path: Path) -> str:
    return f"s3://{s3.bucket}/{tmp_path.name}"


@pytest.mark.s3
def test_eight_drivers_screen_every_slide_once(out: str, tmp_path: Path) -> None:
    # a lease is longer than a busy machine stands still, which took 20 s to a slide that was begun twice
    herd = sd.Herd(tmp_path, *[{}] * 8, out=out, folder=str(tmp_path), n_slides=24, lease_s=60.0, in_flight=2)
    assert herd.codes() == [0] * 8
    rows = sd.rows(str(tmp_path), 24)
    assert herd.count("begun") == herd.count("committed") == Counter(row.slide_id for row in rows)
    assert len({pid for pid in herd.pids if any("committed" in event for event in herd.events(pid))}) > 1
    assert sd.decisions_table(out)["slide_id"].to_pylist() == [row.slide_id for row in rows]
    assert json.loads(objects.read_bytes(f"{out}/summary.json"))["scored"] == 24
    assert sd.consistent(out, rows) == [1.5] * 24
    assert sd.left_behind(out) == []
    assert 1 <= len(list(objects.list_objects(f"{out}/segments"))) <= 8


@pytest.mark.s3
def test_the_slides_of_a_killed_driver_are_taken_over(out: str, tmp_path: Path) -> None:
    """At once on the same machine: its process is gone, whatever `lease_s` says."""
    first = {"hang_after": 2, "score": 1.0}
    herd = sd.Herd(tmp_path, first, {"work_s": 0.1}, out=out, folder=str(tmp_path), n_slides=16, lease_s=4.0)
    victim = herd.pids[0]
    herd.wait_for(lambda: {"hangs": True} in herd.events(victim))
    os.kill(victim, signal.SIGKILL)
    assert herd.codes() == [-signal.SIGKILL, 0]
    begun, committed = herd.count("begun"), herd.count("committed")
    held = {event["begun"] for event in herd.events(victim) if "begun" in event} - {
        event["committed"] for event in herd.events(victim) if "committed" in event
    }
    assert held
    assert begun == committed + Counter(held)
    assert set(committed.values()) == {1}
    assert len(committed) == 16
    assert sorted(sd.consistent(out, sd.rows(str(tmp_path), 16))).count(1.0) == 2
    assert sd.left_behind(out) == []


def test_a_driver_that_stood_still_commits_nothing_twice(tmp_path: Path) -> None:
    """SIGSTOP is what a sleeping laptop, a frozen container or another host looks like: its process is not gone."""
    out = str(tmp_path / "out")
    both = {"out": out, "folder": str(tmp_path), "n_slides": 10, "lease_s": 1.5}
    herd = sd.Herd(tmp_path, {"work_s": 0.3, "score": 1.0}, **both)
    herd.wait_for(lambda: bool(herd.count("committed")))
    os.kill(herd.pids[0], signal.SIGSTOP)
    other = sd.Herd(tmp_path, {"score": 2.0}, **both)
    assert other.codes() == [0]
    before = {info.uri: info.etag for info in objects.list_objects(f"{out}/decisions")}
    assert len(before) == 10
    os.kill(herd.pids[0], signal.SIGCONT)
    assert herd.codes() == [0]
    assert {info.uri: info.etag for info in objects.list_objects(f"{out}/decisions")} == before
    committed = herd.count("committed") + other.count("committed")
    assert set(committed.values()) == {1}
    assert len(committed) == 10
    assert set(sd.consistent(out, sd.rows(str(tmp_path), 10))) == {1.0, 2.0}
    assert sd.left_behind(out) == []


@pytest.mark.s3
def test_failed_slides_are_tried_again_once_by_two_drivers(out: str, tmp_path: Path) -> None:
    """Also where the driver that was at it is killed: the failed decision stays until another takes its place."""
    shared = {"out": out, "folder": str(tmp_path), "n_slides": 14, "lease_s": 3.0}
    assert sd.Herd(tmp_path, {"fail": "3"}, **shared).codes() == [0]
    assert json.loads(objects.read_bytes(f"{out}/summary.json"))["failed"] == 2
    before = {info.uri: info.etag for info in objects.list_objects(f"{out}/decisions")}
    herd = sd.Herd(tmp_path, {"retry_failed": True, "hang_after": 0}, **shared)
    herd.wait_for(lambda: {"hangs": True} in herd.events())
    os.kill(herd.pids[0], signal.SIGKILL)
    assert herd.codes() == [-signal.SIGKILL]
    assert {info.uri: info.etag for info in objects.list_objects(f"{out}/decisions")} == before
    herd = sd.Herd(tmp_path, *[{"retry_failed": True}] * 2, **shared)
    assert herd.codes() == [0, 0]
    assert herd.count("committed") == herd.count("begun") == Counter(["s00003", "s00013"])
    after = {info.uri: info.etag for info in objects.list_objects(f"{out}/decisions")}
    assert {uri[-11:-5] for uri in after if after[uri] != before[uri]} == {"s00003", "s00013"}
    assert sd.decisions_table(out)["state"].to_pylist() == ["scored"] * 14
    assert sd.left_behind(out) == []
