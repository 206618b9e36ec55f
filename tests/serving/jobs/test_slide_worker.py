"""The worker of slide jobs: the same record as a screening's, once, whoever dies."""

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import endpoint_parts as parts
import pytest

from uadray import metrics
from uadray.decisions.slide_measures import MEASURES
from uadray.errors import UnreachableError
from uadray.screening.bundles import calibrated_bundle
from uadray.serving.access.allowed_uris import check_slide
from uadray.serving.jobs import scoring
from uadray.serving.jobs.folders import claim_screening
from uadray.serving.jobs.queue import Jobs, place_of
from uadray.serving.jobs.records import JobBundle, JobRecord, Slide, new_id
from uadray.serving.jobs.slide_worker import SlideWorker

SLIDE = "mosaics/small/small21_000.tif"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return parts.write_calibrated(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(str(tmp_path / "out"))


@pytest.fixture
def submit(jobs: Jobs, bundle: str, data_dir: Path) -> Callable[..., JobRecord]:
    """Puts a slide into the queue."""

    def put(uri: str = SLIDE, *, slide_id: str = "a", priority: int = 5) -> JobRecord:
        found = calibrated_bundle(bundle)
        screening = claim_screening(jobs.out, [found])
        named = JobBundle(name="tiny", uri=bundle, id=found.bundle.id, calibration_id=found.calibration.id)
        record = JobRecord(
            id=new_id(), slide=Slide(slide_id=slide_id, uri=str(data_dir / uri)), bundles=(named,), screening=screening,
            priority=priority, submitted=jobs.clock(), submitted_by="test",
        )  # fmt: skip
        jobs.submit(record)
        return record

    return put


Make = Callable[..., SlideWorker]


@pytest.fixture
def make(jobs: Jobs) -> Iterator[Make]:
    """Makes workers, which are closed in the end."""
    made: list[SlideWorker] = []

    def worker(score: Any = parts.score_here, **options: Any) -> SlideWorker:
        made.append(SlideWorker(jobs, score, **options))
        return made[-1]

    yield worker
    for each in made:
        each.close()


@pytest.fixture
def worker(make: Make) -> SlideWorker:
    return make()


def decision(jobs: Jobs, slide_id: str = "a") -> dict[str, Any]:
    return dict(json.loads((Path(jobs.out) / "decisions" / f"{slide_id}.json").read_text()))


def test_a_slide_is_decided_and_leaves_the_queue(
    jobs: Jobs, submit: Callable[..., JobRecord], worker: SlideWorker
) -> None:
    record = submit()
    assert worker.step(threading.Event())
    assert jobs.places() == []
    end = jobs.end(record.id)
    assert end is not None
    assert end.end == "done"
    assert end.decisions[0]["score"] == decision(jobs)["score"] is not None
    assert decision(jobs)["decided_at"]
    assert all(decision(jobs)[name] > 0 for name in (*MEASURES, "read_seconds", "score_seconds"))
    assert not worker.step(threading.Event())


def test_a_slide_that_cannot_be_read_has_failed(
    jobs: Jobs, submit: Callable[..., JobRecord], worker: SlideWorker
) -> None:
    submit("wsi/unopenable.tiff")
    assert worker.step(threading.Event())
    assert (decision(jobs)["state"], decision(jobs)["reason"]) == ("failed", "unreadable")
    submit("wsi/no such file.tiff", slide_id="b")
    assert worker.step(threading.Event())
    assert (decision(jobs, "b")["state"], decision(jobs, "b")["reason"]) == ("failed", "missing")


def test_what_a_worker_does_is_counted_once(jobs: Jobs, submit: Callable[..., JobRecord], worker: SlideWorker) -> None:
    metrics.start_run("serve-0")
    submit()
    submit("wsi/unopenable.tiff", slide_id="b")
    assert worker.step(threading.Event())
    assert worker.step(threading.Event())
    told, n_tiles = metrics.told(), decision(jobs)["n_tiles"]
    metrics.end_run()
    assert told[metrics.TILES, ("screen_read",)] == told[metrics.TILES, ("screen_score",)] == n_tiles > 0
    assert told[metrics.ERRORS, ("screen_read",)] == 0
    assert [told[metrics.SLIDES, (state,)] for state in metrics.STATES] == [1, 0, 1]
    assert told[metrics.REASONS, ("unreadable",)] == 1
    assert min(told[metrics.STAGE_SECONDS, (stage,)] for stage in ("stat", "plan", "read", "commit")) > 0
    assert told[metrics.BATCH_TILES, ("screen_score",)] == 0
    assert told[metrics.WAIT_SECONDS, ("data",)] > 0
    assert all(told[metrics.QUEUE, (queue,)] == 0 for queue in ("reading", "scoring", "committing"))
    assert sum(value for (name, _), value in told.items() if name == metrics.RETRIES) == 0


def test_what_is_cancelled_is_not_decided(jobs: Jobs, submit: Callable[..., JobRecord], worker: SlideWorker) -> None:
    record = submit()
    place = place_of(record)
    assert jobs.cancel(record.id, by="test").end == "cancelled"
    assert jobs.places() == []
    (Path(jobs.out) / "queue" / place).write_text("{}")  # as if its worker had looked just before
    assert worker.step(threading.Event())
    assert not (Path(jobs.out) / "decisions").exists()
    assert jobs.places() == []


def test_a_cancellation_in_the_middle_is_noticed_before_the_commit(
    jobs: Jobs, submit: Callable[..., JobRecord], make: Make
) -> None:
    record = submit()

    def score(*arguments: Any) -> Any:
        if len(arguments[1]) > 2:  # tiles of the slide, not the two that every detector is tried with
            jobs.cancel(record.id, by="test")
        return parts.score_here(*arguments)

    make(score).step(threading.Event())
    assert not (Path(jobs.out) / "decisions").exists()
    assert list((Path(jobs.out) / "leases").iterdir()) == []


def test_a_search_for_a_part_ends_soon_after_its_job(
    jobs: Jobs, submit: Callable[..., JobRecord], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search takes minutes for a part: its tiles are sent some at a time, and no more once it is cancelled."""
    monkeypatch.setattr(scoring, "searches", lambda bundle: True)
    monkeypatch.setattr(scoring, "SEARCHED_AT_ONCE", 4)
    record, calls = submit(), list[int]()

    def score(*arguments: Any) -> Any:
        calls.append(len(arguments[1]))
        time.sleep(0.15 if calls[-1] > 2 else 0)
        if len(calls) == 5:
            jobs.cancel(record.id, by="test")
        return parts.score_here(*arguments)

    worker = make(score)
    worker.step(threading.Event())
    assert max(calls) == 4
    assert 5 <= len(calls) < 5 + 2 * 9, "two parts at a time, and it looks every second"
    assert not (Path(jobs.out) / "decisions").exists()
    assert worker.step(threading.Event()) is False
    submit(slide_id="b")
    calls.clear()
    monkeypatch.setattr(scoring, "SEARCHED_AT_ONCE", 64)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert worker.step(threading.Event())
    assert decision(jobs, "b")["state"] == "scored"


def test_a_fault_of_the_system_is_no_verdict(
    jobs: Jobs, submit: Callable[..., JobRecord], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uadray.serving.jobs.scoring.PATIENCE_S", 0.0)
    record, is_away = submit(), [True]

    def score(*arguments: Any) -> Any:
        if is_away[0]:
            raise UnreachableError("no replica answers")
        return parts.score_here(*arguments)

    now = [0.0]
    worker = make(score, clock=lambda: now[0])
    assert not worker.step(threading.Event())
    progress = jobs.progress(record.id)
    assert progress is not None
    assert "no replica answers" in str(progress.why)
    assert len(jobs.places()) == 1
    is_away[0] = False
    assert not worker.step(threading.Event())  # not yet
    now[0] = 100.0
    assert worker.step(threading.Event())
    assert decision(jobs)["state"] == "scored"


def test_a_slide_that_kills_its_readers_has_failed_and_the_next_goes_on(
    jobs: Jobs, submit: Callable[..., JobRecord], worker: SlideWorker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(KILLER)
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    submit(slide_id="killer")
    submit(slide_id="harmless")
    while worker.step(threading.Event()):
        pass
    assert (decision(jobs, "killer")["state"], decision(jobs, "killer")["reason"]) == ("failed", "crashed")
    assert decision(jobs, "harmless")["state"] == "scored"


KILLER = """
import os, signal, sys
if sys.argv and sys.orig_argv[-1].endswith("reader_process"):
    import builtins, json
    real = json.loads
    def loads(text, **more):
        value = real(text, **more)
        if isinstance(value, dict) and value.get("row", {}).get("slide_id") == "killer":
            os.kill(os.getpid(), signal.SIGKILL)
        return value
    json.loads = loads
"""


def test_a_lease_of_a_dead_worker_is_taken_over(jobs: Jobs, submit: Callable[..., JobRecord], make: Make) -> None:
    record = submit()

    def die() -> None:
        def score(*arguments: Any) -> Any:
            if len(arguments[1]) > 2:  # tiles of the slide, not the two that every detector is tried with
                os._exit(9)  # as if it were killed: nothing is released
            return parts.score_here(*arguments)

        SlideWorker(jobs, score).step(threading.Event())

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join(60)
    assert process.exitcode == 9
    assert (Path(jobs.out) / "leases" / "a.json").exists()
    now = [0.0]
    worker = make(clock=lambda: now[0])
    if not worker.step(threading.Event()):  # sees that it is held, and that nobody lives who holds it
        now[0] += 10
        assert worker.step(threading.Event())
    assert decision(jobs)["state"] == "scored"
    end = jobs.end(record.id)
    assert end is not None
    assert end.end == "done"


def test_a_decision_that_was_put_before_its_worker_died_stands(
    jobs: Jobs, submit: Callable[..., JobRecord], worker: SlideWorker
) -> None:
    first = submit()
    worker.step(threading.Event())
    before = decision(jobs)
    (Path(jobs.out) / "ends" / f"{first.id}.json").write_text('{"end": "committing", "at": 1.0}')
    (Path(jobs.out) / "queue" / place_of(first)).write_text("{}")
    assert worker.step(threading.Event())
    assert decision(jobs) == before
    end = jobs.end(first.id)
    assert end is not None
    assert end.end == "done"
    assert jobs.places() == []


def test_a_failed_decision_of_this_very_job_stands(
    jobs: Jobs, submit: Callable[..., JobRecord], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker decides between this one's looks at the job's end and at the decision."""
    submit("wsi/unopenable.tiff")
    other, worker, end = make(), make(), jobs.end
    made: list[dict[str, Any]] = []

    def end_as_it_was(job_id: str) -> Any:
        if not made:
            monkeypatch.setattr(jobs, "end", end)
            other.step(threading.Event())
            made.append(decision(jobs))
            return None
        return end(job_id)

    monkeypatch.setattr(jobs, "end", end_as_it_was)
    assert worker.step(threading.Event())
    assert made[0]["state"] == "failed"
    assert decision(jobs) == made[0]


def test_a_link_that_leads_elsewhere_by_now_is_not_read(
    jobs: Jobs, submit: Callable[..., JobRecord], make: Make, tmp_path: Path, data_dir: Path
) -> None:
    allowed, link = tmp_path / "allowed", tmp_path / "allowed" / "a.tif"
    allowed.mkdir()
    link.symlink_to(data_dir / SLIDE)
    record = submit(str(link))
    assert not make(check=partial(check_slide, allowed=[str(allowed)])).step(threading.Event())
    progress = jobs.progress(record.id)
    assert progress is not None
    assert "not below any of the folders" in str(progress.why)
    assert not (Path(jobs.out) / "leases").exists()


def test_a_record_that_cannot_be_read_keeps_no_other_from_its_turn(
    jobs: Jobs, submit: Callable[..., JobRecord], worker: SlideWorker
) -> None:
    broken = submit(slide_id="broken", priority=9)
    (Path(jobs.out) / "jobs" / f"{broken.id}.json").write_text("{")
    submit(slide_id="good")
    assert worker.step(threading.Event())
    assert decision(jobs, "good")["state"] == "scored"
    assert jobs.places() == [place_of(broken)]


def test_the_same_slide_sent_again_is_not_done_again_unless_it_failed(
    jobs: Jobs, submit: Callable[..., JobRecord], worker: SlideWorker, tmp_path: Path, data_dir: Path
) -> None:
    submit()
    worker.step(threading.Event())
    before = (Path(jobs.out) / "decisions" / "a.json").stat().st_mtime_ns
    second = submit()
    worker.step(threading.Event())
    assert (Path(jobs.out) / "decisions" / "a.json").stat().st_mtime_ns == before
    end = jobs.end(second.id)
    assert end is not None
    assert end.end == "done"
    slide = tmp_path / "b.tif"
    slide.write_bytes(b"no slide")
    submit(str(slide), slide_id="b")
    worker.step(threading.Event())
    assert decision(jobs, "b")["state"] == "failed"
    slide.write_bytes((data_dir / SLIDE).read_bytes())
    submit(str(slide), slide_id="b")
    worker.step(threading.Event())
    assert decision(jobs, "b")["state"] == "scored"


def test_high_priority_comes_first(jobs: Jobs, submit: Callable[..., JobRecord], worker: SlideWorker) -> None:
    submit(slide_id="low", priority=1)
    submit(slide_id="high", priority=9)
    worker.step(threading.Event())
    assert [path.name for path in (Path(jobs.out) / "decisions").iterdir()] == ["high.json"]
