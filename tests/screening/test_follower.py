"""Slides that come one by one: each version is decided once, whatever fails, whoever is killed."""

import json
import logging
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import follow_drivers as fd
import pytest
import screening_drivers as sd
from fault_proxy import FaultProxy, Request
from seaweed import SeaweedServer

from uadray import metrics
from uadray.errors import InputError, UnreachableError
from uadray.screening.follower import Follower, Pace
from uadray.slides.folder_index import index_folder
from uadray.slides.manifest import SlideRow
from uadray.storage import objects


def _put(folder: Path, name: str, content: str = "x") -> Callable[[], object]:
    return lambda: objects.write_bytes(str(folder / name), content.encode())


def _waiting(folder: Path) -> str:
    folder.mkdir()
    return str(folder)


def test_each_version_of_a_slide_is_done_once(tmp_path: Path) -> None:
    """A failed one is not tried again until its file changes; one that is gone stays decided."""
    slides = tmp_path / "slides"
    slides.mkdir()
    _put(slides, "a.svs")()
    events = {
        100.0: _put(slides, "b.svs"),
        200.0: _put(slides, "bad.svs"),
        300.0: _put(slides, "a.svs", "another"),
        500.0: _put(slides, "bad.svs", "good"),
        700.0: (slides / "b.svs").unlink,
    }

    def fail(row: SlideRow) -> tuple[str, str] | None:
        return ("unreadable", "x") if objects.read_bytes(row.uri) == b"x" and row.slide_id == "bad.svs" else None

    done, summary = fd.followed(str(slides), str(tmp_path / "out"), fd.Days(900, events), fail=fail)
    assert done == ["a.svs", "b.svs", "bad.svs", "a.svs", "bad.svs"]
    assert [summary[name] for name in ("slides", "scored", "failed", "open", "growing")] == [3, 3, 0, 0, 0]
    assert sd.decisions_table(str(tmp_path / "out"))["slide_id"].to_pylist() == ["a.svs", "b.svs", "bad.svs"]
    assert sd.left_behind(str(tmp_path / "out")) == []
    again, summary = fd.followed(str(slides), str(tmp_path / "out"), fd.Days(100))
    assert (again, summary["scored"]) == ([], 3)


def test_what_changed_or_failed_while_nobody_was_there(tmp_path: Path) -> None:
    """A failure stands, also one that tells no version of its file, unless it is to be tried again."""
    slides, out = _waiting(tmp_path / "slides"), str(tmp_path / "out")
    for name in ("a.svs", "b.svs", "bad.svs", "worse.svs"):
        _put(tmp_path / "slides", name)()

    def fail(row: SlideRow) -> tuple[str, str] | None:
        return None if row.slide_id < "bad" else ("crashed", "x")

    assert len(fd.followed(slides, out, fd.Days(10), fail=fail)[0]) == 4
    _put(tmp_path / "slides", "a.svs", "another")()
    _put(tmp_path / "slides", "worse.svs", "another")()
    assert sorted(fd.followed(slides, out, fd.Days(10), fail=fail)[0]) == ["a.svs", "worse.svs"]
    assert sorted(fd.followed(slides, out, fd.Days(100), retry_failed=True)[0]) == ["bad.svs", "worse.svs"]
    assert fd.followed(slides, out, fd.Days(10))[0] == []


def test_a_screening_of_a_manifest_is_gone_on_with(tmp_path: Path) -> None:
    """Slides keep the ids that they have, and what is decided is not screened again under another."""
    slides, out = _waiting(tmp_path / "slides"), str(tmp_path / "out")
    for name in ("a.svs", "day/b.svs"):
        _put(tmp_path / "slides", name)()
    assert sd.screened(out, index_folder(slides)) == ["a", "day__b"]
    _put(tmp_path / "slides", "c.svs")()
    assert fd.followed(slides, out, fd.Days(10))[0] == ["c.svs"]
    _put(tmp_path / "slides", "a.svs", "another")()
    assert fd.followed(slides, out, fd.Days(10))[0] == ["a"]
    assert sd.screened(out, [row for row in index_folder(slides) if row.slide_id != "c"]) == []


def test_a_slide_that_is_given_back_is_tried_again_later_and_later(tmp_path: Path) -> None:
    slides, days, tries = _waiting(tmp_path / "slides"), fd.Days(20_000), list[float]()
    _put(tmp_path / "slides", "a.svs")()
    _put(tmp_path / "slides", "z.svs")()

    def fail(row: SlideRow) -> tuple[str, str] | None:
        if row.slide_id == "a.svs" and len(tries) < 9:
            tries.append(days.now)
            return "open", "no answer"
        return None

    done, summary = fd.followed(slides, str(tmp_path / "out"), days, fail=fail)
    assert done == ["z.svs", "a.svs"]
    waits = [after - before for before, after in pairwise(tries)]
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert summary["open"] == 0


def test_a_fault_of_the_system_is_waited_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line, whatever the number of tries, and each is counted; nothing is lost, nothing is done twice."""
    metrics.start_run("0a0b0c0d")
    slides, out, days = _waiting(tmp_path / "slides"), str(tmp_path / "out"), fd.Days(8000, {})
    for name in ("a.svs", "b.svs", "c.svs"):
        _put(tmp_path / "slides", name)()
    done: list[str] = []
    with sd.book(out) as book, caplog.at_level(logging.INFO):
        works = fd.round_of(book, done)

        def work(rows: list[SlideRow]) -> None:
            works(rows[:1])
            if days.now < 3600:
                raise UnreachableError("s3://out: no answer")
            works(rows[1:])

        pace = Pace(settle_s=0)
        summary = Follower(slides, book, work, stop=days, pace=pace, clock=days).run()  # type: ignore[arg-type]
    assert sorted(done) == ["a.svs", "b.svs", "c.svs"]
    assert (summary["scored"], summary["open"]) == (3, 0)
    lines = [record.getMessage() for record in caplog.records if record.name == "uadray.screening.follower"]
    assert [line for line in lines if not line.startswith("worklist renewed")] == [
        "(path): no answer; it is tried again until it works",
        "the fault is over; slides are screened again",
    ]
    assert metrics.told()[metrics.RETRIES, ("unreachable",)] == 3
    metrics.end_run()
    assert sd.left_behind(out) == []


def test_of_two_processes_each_leaves_half_to_the_other_for_a_while(tmp_path: Path) -> None:
    """Not both begin a round for a slide; what the other does not take is taken then."""
    slides, out, days = _waiting(tmp_path / "slides"), str(tmp_path / "out"), fd.Days(100)
    names = [f"{i:02}.svs" for i in range(40)]
    for name in names:
        _put(tmp_path / "slides", name)()
    done: list[str] = []
    taken: dict[str, float] = {}
    with sd.book(out, lease_s=1.0) as other, sd.book(out, lease_s=1.0) as book:
        _wait_for(lambda: not other.alone)

        def work(rows: Sequence[SlideRow]) -> None:
            taken.update(dict.fromkeys([row.slide_id for row in rows], days.now))
            fd.round_of(book, done)(rows)

        firsts = {name for name in names if book.is_first_for(name)}
        assert firsts == {name for name in names if not other.is_first_for(name)}
        Follower(slides, book, work, stop=days, pace=Pace(settle_s=0), clock=days).run()
    assert sorted(done) == names
    assert {name for name, at_s in taken.items() if at_s < 10} == firsts
    assert {at_s for at_s in taken.values() if at_s >= 10} == {30}
    assert 5 < len(firsts) < 35


@contextmanager
def _refusing(server: SeaweedServer) -> Iterator[tuple[FaultProxy, dict[str, bool]]]:
    """This process's requests go through a proxy, which refuses them while the switch is on."""
    switch = {"refuses": False}
    fault = lambda request: "400 ExpiredToken" if switch["refuses"] else None  # noqa: E731
    with FaultProxy(server.endpoint, fault) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy, switch


@pytest.mark.s3
def test_a_store_that_refuses_for_hours_ends_nothing(s3: SeaweedServer, tmp_path: Path) -> None:
    root = f"s3://{s3.bucket}/{tmp_path.name}"
    with _refusing(s3) as (proxy, switch):
        events: dict[float, Callable[[], object]] = {
            50.0: lambda: objects.write_bytes(f"{root}/in/a.svs", b"x"),
            100.0: lambda: switch.update(refuses=True),
            5000.0: lambda: switch.update(refuses=False),
            5001.0: lambda: objects.write_bytes(f"{root}/in/b.svs", b"x"),
        }
        done, summary = fd.followed(f"{root}/in", f"{root}/out", fd.Days(6000, events))
        assert proxy.faults["400 ExpiredToken"] >= 10
    assert done == ["a.svs", "b.svs"]
    assert summary["scored"] == 2


@pytest.mark.s3
def test_requests_do_not_grow_with_what_is_decided(s3: SeaweedServer, tmp_path: Path) -> None:
    """A slide that comes costs what its screening costs; a look with nothing new is one listing."""
    root = f"s3://{s3.bucket}/{tmp_path.name}"
    times = {100.0 * i: (lambda i=i: objects.write_bytes(f"{root}/in/{i:03}.svs", b"x")) for i in range(40)}
    pace = Pace(look_s=100.0, settle_s=0, renew_s=1e9)
    with _refusing(s3) as (proxy, _):
        requests: list[list[Request]] = []
        for events in (dict(list(times.items())[:20]), dict(list(times.items())[20:])):
            before = len(proxy.requests)
            done, _ = fd.followed(f"{root}/in", f"{root}/out", fd.Days(4500, events), pace=pace)
            assert len(done) == 20
            requests.append(proxy.requests[before:])
    first, second = (len(each) for each in requests)
    # a slide: its upload, 10 of the screening, one look; and 45 looks, the start and the end of both runs
    assert max(first, second) <= 20 * 12 + 45 + 60, Counter((r.method, r.path.split("/")[3]) for r in requests[1])
    assert second <= first + 20


@contextmanager
def _started(tmp_path: Path, folder: str, name: str, *, out: str, **plan: object) -> Iterator[subprocess.Popen[str]]:
    """A follower as a process; what it prints is in `<name>.out`, what it has done in `<name>`."""
    values = {"out": out, "folder": folder, "log": str(tmp_path / name), "work_s": 0.05} | plan
    with (tmp_path / f"{name}.out").open("w") as printed:
        process = subprocess.Popen(
            [sys.executable, fd.__file__, json.dumps(values)], stdout=printed, stderr=printed, text=True
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def _wait_for(happened: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _done(*logs: Path) -> list[str]:
    return [line for log in logs if log.exists() for line in log.read_text().split()]


@pytest.mark.s3
def test_two_share_a_prefix_and_one_is_killed(s3: SeaweedServer, tmp_path: Path) -> None:
    """Each slide by one of them; the other goes on with what the dead one held, and ends cleanly on a signal."""
    root = f"s3://{s3.bucket}/{tmp_path.name}"
    logs = [tmp_path / "one", tmp_path / "two"]
    out = f"{root}/out"
    with (
        _started(tmp_path, f"{root}/in", "one", out=out) as one,
        _started(tmp_path, f"{root}/in", "two", out=out) as two,
    ):
        for i in range(40):
            objects.write_bytes(f"{root}/in/{i:03}.svs", b"x")
        _wait_for(lambda: bool(_done(logs[0])) and len(_done(*logs)) >= 10)
        one.kill()
        for i in range(40, 50):
            objects.write_bytes(f"{root}/in/{i:03}.svs", b"x")
        _wait_for(lambda: len(list(objects.list_objects(f"{out}/decisions"))) == 50)
        two.send_signal(signal.SIGTERM)
        assert two.wait(30) == 0, (tmp_path / "two.out").read_text()
    summary = json.loads((tmp_path / "two.out").read_text().splitlines()[-1])
    assert [summary[name] for name in ("slides", "scored", "open")] == [50, 50, 0]
    assert set(Counter(_done(*logs)).values()) == {1}
    assert len(_done(logs[1])) >= 50 - len(_done(logs[0])) - 1  # one may have been killed between commit and log
    assert sd.left_behind(f"{root}/out") == []


def test_the_first_signal_ends_cleanly_and_the_second_at_once(tmp_path: Path) -> None:
    folder = _waiting(tmp_path / "slides")
    for i in range(100):
        _put(tmp_path / "slides", f"{i:03}.svs")()
    out = str(tmp_path / "out")
    for ignores_stop, status in ((False, 0), (True, 128 + signal.SIGINT)):
        log = tmp_path / f"log-{ignores_stop}"
        with _started(tmp_path, folder, log.name, out=out, work_s=0.2, ignores_stop=ignores_stop) as process:
            _wait_for(lambda log=log: len(_done(log)) >= 2)  # type: ignore[misc]
            process.send_signal(signal.SIGINT)
            if ignores_stop:
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(1)
                process.send_signal(signal.SIGINT)
            assert process.wait(10) == status
        printed = (tmp_path / f"{log.name}.out").read_text()
        if ignores_stop:
            assert "ended at once" in printed
            continue
        summary = json.loads(printed.splitlines()[-1])
        assert summary["scored"] == len(_done(log)) == summary["slides"] - summary["open"]
        assert summary["slides"] == 100
        assert sd.left_behind(out) == []


def test_wrong_input_ends_it_and_does_not_wait(tmp_path: Path) -> None:
    slides, out = _waiting(tmp_path / "slides"), str(tmp_path / "out")
    _put(tmp_path / "slides", "a.svs")()

    def work(rows: object) -> None:
        raise InputError("score_workers 9 on 2 CPUs leaves none for reading slides")

    with sd.book(out) as book, pytest.raises(InputError, match="score_workers 9"):
        Follower(slides, book, work, stop=fd.Days(100), pace=Pace(settle_s=0)).run()
