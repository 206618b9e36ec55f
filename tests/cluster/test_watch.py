"""What begins, ends, and dies in between: the watch's own arithmetic, without a cluster."""

import pytest

from uadray.cluster.watch import MAX_KILLS, Watch

READ = ("read", 7, 0)


@pytest.fixture
def nodes() -> set[str]:
    return {"a", "b"}


@pytest.fixture
def watch(nodes: set[str]) -> Watch:
    return Watch(lambda: nodes)


def test_a_slide_that_is_read_to_its_end_may_be_read_again(watch: Watch) -> None:
    for _ in range(5):  # its rows were lost with a node, say
        assert watch.begin(READ, "a", "10.0.0.1") is None
        watch.end(READ)
    assert watch.look().open == []
    assert watch.look().crashed == {}


def test_the_second_kill_is_the_last(watch: Watch) -> None:
    assert watch.begin(READ, "a", "10.0.0.1") is None
    assert watch.begin(READ, "b", "10.0.0.2") is None
    refusal = watch.begin(READ, "a", "10.0.0.1")
    assert refusal == "the process that reads it was killed 2 times, on 10.0.0.1 and 10.0.0.2"
    assert watch.look().crashed == {7: refusal}
    assert watch.look().open == []
    assert MAX_KILLS == 2


def test_a_node_that_takes_its_readers_with_it_kills_nobody(watch: Watch, nodes: set[str]) -> None:
    assert watch.begin(READ, "a", "10.0.0.1") is None
    assert watch.begin(READ, "a", "10.0.0.1") is None
    nodes.discard("a")
    assert watch.begin(READ, "b", "10.0.0.2") is None
    assert watch.begin(READ, "b", "10.0.0.2") is None  # one kill on a living node
    assert watch.begin(READ, "b", "10.0.0.2") is not None


def test_parts_and_slides_are_told_apart(watch: Watch) -> None:
    for part in range(4):
        for slide in range(3):
            assert watch.begin(("score", slide, part), "a", "10.0.0.1") is None
    assert len(watch.look().open) == 12
    assert watch.begin(("score", 0, 1), "a", "10.0.0.1") is None
    assert "scores it was killed 2 times, on 10.0.0.1" in (watch.begin(("score", 0, 1), "a", "10.0.0.1") or "")
    assert watch.look().crashed.keys() == {0}


def test_what_moves_is_seen_to(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("uadray.cluster.watch.time.monotonic", lambda: now)
    watch.begin(READ, "a", "10.0.0.1")
    now = 150.0
    watch.move(READ)
    now = 160.0
    (found,) = watch.look().open
    assert (found.slide, found.address, found.began, found.moved) == (7, "10.0.0.1", 60.0, 10.0)
    watch.move(("read", 8, 0))  # nobody's
