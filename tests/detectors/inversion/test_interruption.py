"""Looks at a search between its steps: who is told what, in which thread, and what ends it."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from uadray.detectors.inversion.interruption import between_steps, looked_at


def search(steps: int = 4) -> int:
    for step in range(steps):
        between_steps((step + 1) / steps)
    return steps


def test_a_look_is_told_the_share_and_only_within_its_block() -> None:
    told: list[float] = []
    search()
    with looked_at(told.append):
        search()
        with looked_at(lambda share: None):
            search()
        search(1)
    search()
    assert told == [0.25, 0.5, 0.75, 1, 1]


def test_what_it_raises_ends_the_search_and_the_look() -> None:
    told: list[float] = []

    def ends(share: float) -> None:
        told.append(share)
        if share >= 0.5:
            raise TimeoutError

    with pytest.raises(TimeoutError), looked_at(ends):
        search()
    assert told == [0.25, 0.5]
    assert search() == 4, "nobody looks any more"


def test_other_threads_are_not_looked_at() -> None:
    with ThreadPoolExecutor(1) as pool, looked_at(lambda share: pytest.fail("another thread's search")):
        assert pool.submit(search).result() == 4
