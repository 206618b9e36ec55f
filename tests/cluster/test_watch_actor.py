"""The watch as an actor: what a worker tells it, and what the driver sees."""

from collections.abc import Iterator

import pytest

from uadray.cluster.place import here
from uadray.cluster.watch import Look
from uadray.cluster.watch_actor import DriversWatch, _begun, _work_done, watched, watched_together

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
    assert [_begun(watch.name, "begin", ("read", 3, 0), default=None) for _ in range(2)] == [
        None,
        None,
    ]  # begun, and never ended
    with watched(watch.name, "read", 3) as refusal:
        assert str(refusal).startswith("the process that reads it was killed 2 times, on ")
    look = _look(watch)
    assert look.crashed == {3: refusal}
    assert look.open == []


def test_who_dies_at_one_of_several_is_found_by_taking_them_one_by_one(watch: DriversWatch) -> None:
    """Begun together and never ended: from then on each alone, and the one that kills again is refused."""
    works = [(slide, 0) for slide in (3, 4, 5)]
    assert _begun(watch.name, "begin_together", [("read", *work) for work in works], default=None) is True
    with watched_together(watch.name, "read", works) as is_together:
        assert not is_together
        with watched(watch.name, "read", 3) as refusal:
            assert refusal is None
        assert _begun(watch.name, "begin", ("read", 4, 0), default=None) is None  # and dies
    with watched_together(watch.name, "read", works) as is_together:
        assert not is_together
        for slide in (3, 5):
            with watched(watch.name, "read", slide) as refusal:
                assert refusal is None
        with watched(watch.name, "read", 4) as refusal:
            assert str(refusal).startswith("the process that reads it was killed 2 times, on ")
    with watched_together(watch.name, "read", [(7, 0), (8, 0)]) as is_together:
        assert is_together
        assert len(_look(watch).open) == 2
    assert _look(watch) == Look([], {4: str(refusal)}, retried=3)


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
