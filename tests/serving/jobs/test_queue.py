"""The queue of slide jobs, in a folder and in S3: nothing is lost, nothing is done twice."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from seaweed import SeaweedServer

from uadray.serving.jobs.batches import Batches, BatchRecord
from uadray.serving.jobs.queue import ConflictError, Jobs, place_of
from uadray.serving.jobs.records import End, JobRecord, Progress, Slide, batch_job_id, new_id


@pytest.fixture(params=["folder", "s3"])
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Jobs:
    if request.param == "folder":
        return Jobs(str(tmp_path))
    server: SeaweedServer = request.getfixturevalue("s3")
    assert server.env
    return Jobs(f"s3://slides/{tmp_path.name}-{new_id()}")


def record(number: int = 0, *, priority: int = 5, submitted: float | None = None) -> JobRecord:
    return JobRecord(
        id=new_id(1000.0 + number), slide=Slide(slide_id=f"s{number}", uri=f"/s/{number}.tif"), bundles=(),
        screening="main", priority=priority, submitted=1000.0 + number if submitted is None else submitted,
        submitted_by="test",
    )  # fmt: skip


def batch_of(n: int, *, submitted: float = 1000.0) -> BatchRecord:
    return BatchRecord(
        id=new_id(submitted), source="x", n_slides=n, bundles=(), screening="main", priority=5, submitted=submitted,
        submitted_by="test",
    )  # fmt: skip


def slides(n: int) -> list[Slide]:
    return [Slide(slide_id=f"b{i}", uri=f"/s/b{i}.tif") for i in range(n)]


def test_jobs_wait_in_order_and_are_listed_the_newest_first(jobs: Jobs) -> None:
    records = [record(i) for i in range(5)]
    urgent = record(9, priority=9)
    for each in [*records, urgent]:
        jobs.submit(each)
        jobs.submit(each)
    assert jobs.places() == [place_of(urgent), *map(place_of, records)]
    ids = [urgent.id, *(each.id for each in reversed(records))]
    assert jobs.ids(limit=10) == ids
    assert jobs.ids(limit=2) + jobs.ids(after=ids[1], limit=10) == ids
    assert next(jobs.records(ids)).slide == urgent.slide
    jobs.leave(place_of(urgent))
    assert len(jobs.places()) == 5


def test_one_of_cancelling_and_committing_wins(jobs: Jobs) -> None:
    outcomes = []
    for number in range(12):
        each = record(number)
        jobs.submit(each)
        acts: list[Callable[[], object]] = [
            lambda each=each: jobs.begin_commit(each.id), lambda each=each: jobs.cancel(each.id, by="x").end,
        ]  # fmt: skip
        with ThreadPoolExecutor(2) as pool:
            begun, end = pool.map(lambda act: act(), acts if number % 2 else acts[::-1])
        begun, end = (begun, end) if number % 2 else (end, begun)
        assert begun == (end == "committing")
        outcomes.append(begun)
    jobs.done(record(0).id, [{"state": "scored"}])


def test_progress_and_ends_are_read_back(jobs: Jobs) -> None:
    each = record()
    jobs.submit(each)
    assert (jobs.progress(each.id), jobs.end(each.id)) == (None, None)
    jobs.tell(each.id, Progress(tiles=3, of=7))
    told = jobs.progress(each.id)
    assert told is not None
    assert (told.tiles, told.of) == (3, 7)
    assert jobs.begin_commit(each.id)
    assert jobs.begin_commit(each.id)  # by whoever takes it over
    jobs.done(each.id, [{"state": "scored"}])
    end = jobs.end(each.id)
    assert isinstance(end, End)
    assert (end.end, end.decisions) == ("done", ({"state": "scored"},))
    jobs.submit(each)  # a client that asks again after the end puts nothing into the queue
    jobs.leave(place_of(each))
    jobs.submit(each)
    assert jobs.places() == []


def test_a_key_is_one_request(jobs: Jobs) -> None:
    assert jobs.once("k", by="a", asked="x", new_id="1") == "1"
    assert jobs.once("k", by="a", asked="x", new_id="2") == "1"
    assert jobs.once("k", by="b", asked="y", new_id="3") == "3"
    with pytest.raises(ConflictError, match="another request"):
        jobs.once("k", by="a", asked="y", new_id="4")
    jobs.reserve("main", "s", "/a")
    jobs.reserve("main", "s", "/a")
    jobs.reserve("other", "s", "/b")
    with pytest.raises(ConflictError, match="another URI"):
        jobs.reserve("main", "s", "/b")


def test_a_batch_is_expanded_once_whoever_begins_again(jobs: Jobs) -> None:
    batches, batch = Batches(jobs), batch_of(30)
    batches.submit(batch, slides(30))
    assert jobs.waiting() == 30
    assert not batches.expand(batch, lambda: False)
    assert batches.expand(batch, lambda: True)
    assert batches.expand(batch, lambda: True)
    ids = jobs.ids_of_batch(batch.id, limit=100)
    assert ids == [batch_job_id(batch.id, number) for number in range(30)]
    assert [each.slide.slide_id for each in jobs.records(ids)] == [f"b{i}" for i in range(30)]
    assert len(jobs.places()) == 30
    assert batches.ids(limit=10) == [batch.id]


def test_counts_of_a_batch_add_up(jobs: Jobs) -> None:
    batches, batch = Batches(jobs), batch_of(6)
    batches.submit(batch, slides(6))
    batches.expand(batch, lambda: True)
    ids = jobs.ids_of_batch(batch.id, limit=100)
    for job_id, state, decision in (
        (ids[0], "scored", "anomalous"),
        (ids[1], "scored", "normal"),
        (ids[2], "failed", None),
    ):
        jobs.begin_commit(job_id)
        jobs.done(job_id, [{"state": state, "decision": decision}])
    jobs.cancel(ids[3], by="x")
    assert batches.counts(batch) == {
        "open": 2, "done": 3, "cancelled": 1, "scored": 2, "not_assessable": 0, "failed": 1, "anomalous": 1,
    }  # fmt: skip
    batches.cancel(batch.id, by="x")
    counts = batches.counts(batch)
    assert (counts["open"], counts["done"], counts["cancelled"]) == (0, 3, 3)


def test_a_batch_that_is_cancelled_before_it_is_expanded_becomes_no_job(jobs: Jobs) -> None:
    batches, batch = Batches(jobs), batch_of(4)
    batches.submit(batch, slides(4))
    batches.cancel(batch.id, by="x")
    assert batches.expand(batch, lambda: True)
    assert jobs.places() == jobs.ids(limit=9) == []
    assert batches.counts(batch)["cancelled"] == 4


def test_lone_slides_pass_the_rest_of_a_batch_and_do_not_starve_it(jobs: Jobs) -> None:
    batches, batch = Batches(jobs), batch_of(5, submitted=1000.0)
    batches.submit(batch, slides(5))
    batches.expand(batch, lambda: True)
    lone = record(submitted=1060.0)
    late = record(1, submitted=1000.0 + 3 * 600.0 + 1.0)
    jobs.submit(lone)
    jobs.submit(late)
    order = [place.split("-", 2)[2] for place in jobs.places()]
    members = [batch_job_id(batch.id, number) for number in range(5)]
    assert order == [members[0], lone.id, *members[1:4], late.id, members[4]]
