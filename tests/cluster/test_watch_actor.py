"""The watch as an actor: what a worker tells it, and what the driver sees."""

from collections.abc import Iterator

import pytest

from uadray.cluster.place import here
from uadray.cluster.watch import Look
from uadray.cluster.watch_actor import DriversWatch, _begin, _work_done, watched

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def watch(ray_cluster: None) -> Iterator[DriversWatch]:
    watch = DriversWatch()
    yield watch
    watch.close()


def _look(watch: DriversWatch) -> Look:
    watch.look(10)  # the answer to what was asked before
    return watch.look(10)


def test_the_driver_sees_what_begins_and_ends(watch: DriversWatch) -> None:
    with watched(watch.name, "read", 3) as refusal:
        assert refusal is None
        (work,) = _look(watch).open
        assert (work.what, work.slide, work.node_id, work.address) == ("read", 3, *here())
        assert 0 <= work.moved <= work.began < 60
    assert _look(watch) == Look([], {})


def test_what_has_killed_two_processes_is_refused(watch: DriversWatch) -> None:
    assert [_begin(watch.name, ("read", 3, 0)) for _ in range(2)] == [None, None]  # begun, and never ended
    with watched(watch.name, "read", 3) as refusal:
        assert str(refusal).startswith("the process that reads it was killed 2 times, on ")
    look = _look(watch)
    assert look.crashed == {3: refusal}
    assert look.open == []


def test_without_a_watch_work_is_done(watch: DriversWatch) -> None:
    with watched(None, "read", 3) as refusal:
        assert refusal is None
    with watched("no such actor", "read", 3) as refusal:
        assert refusal is None


def test_work_that_is_done_is_seen() -> None:
    before = _work_done()
    sum(i * i for i in range(2_000_000))
    after = _work_done()
    assert after[0] > before[0]
    assert after[1] >= before[1]
