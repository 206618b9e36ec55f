"""What ends a search for requests that were joined: nobody waits, or it takes too long; and what each is told."""

import numpy as np
import pytest
from toy_search import CountedSearch, searching

from uadray import metrics
from uadray.detectors.inversion.interruption import looked_at
from uadray.detectors.stage_clock import StageClock
from uadray.serving.scores import Wanted
from uadray.serving.stages.joined_calls import Asked, CrowdedError, JoinedCall, SearchEndedError, TooManyTilesError
from uadray.serving.stages.loaded_stages import mapped, scored_at_once
from uadray.serving.stages.stage_replica import WORK, computed

DETECTOR = searching(CountedSearch(steps=100), batch_tiles=10)
TILES = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)


class Clock:
    """Seconds that pass when they are told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def asked(n: int, limit_s: float | None = 60.0, *, arrived: float = 100.0) -> Asked:
    return Asked(DETECTOR, (TILES[:n],), limit_s, arrived=arrived)


def ended(call: JoinedCall, clock: Clock, *, tiles: int, step_s: float) -> tuple[int, float | None]:
    """After how many steps the search for so many tiles is ended, and how long a tile is said to take.

    Ten tiles a pass, and a hundred steps.
    """
    made = 0
    for _ in range(-(-tiles // 10)):
        for step in range(100):
            clock.now += step_s
            made += 1
            try:
                call.look((step + 1) / 100)
            except SearchEndedError as error:
                return made, error.tile_s
    return made, None


def test_a_search_that_will_take_too_long_ends_after_its_first_steps() -> None:
    """Three passes of 100 steps of 1 s are 300 s: known after a fiftieth of them."""
    clock = Clock()
    steps, tile_s = ended(JoinedCall([asked(30)], clock=clock), clock, tiles=30, step_s=1.0)
    assert steps in (6, 7)
    assert tile_s == pytest.approx(10.0)


def test_one_that_may_still_end_in_time_has_its_time() -> None:
    """75 s, were no tile done early."""
    clock = Clock()
    assert ended(JoinedCall([asked(30)], clock=clock), clock, tiles=30, step_s=0.25) == (241, pytest.approx(2.5))
    clock = Clock()
    assert ended(JoinedCall([asked(30)], clock=clock), clock, tiles=30, step_s=0.19) == (300, None)


def test_time_counts_from_the_arrival_and_the_last_request_counts() -> None:
    clock = Clock()
    waited = asked(10, arrived=60.0)  # 20 s are left
    assert ended(JoinedCall([waited], clock=clock), clock, tiles=10, step_s=0.25)[0] == 81
    clock = Clock()
    assert ended(JoinedCall([waited, asked(5)], clock=clock), clock, tiles=15, step_s=0.25) == (200, None)


def test_tiles_of_slides_have_no_limit() -> None:
    clock = Clock()
    call = JoinedCall([asked(10), asked(10, limit_s=None)], clock=clock)
    assert ended(call, clock, tiles=20, step_s=9.0) == (200, None)


def test_it_ends_once_nobody_waits() -> None:
    first, second = asked(5), asked(5, limit_s=None)
    call = JoinedCall([first, second])
    call.look(0.01)
    first.is_gone = True
    call.look(0.02)
    second.is_gone = True
    with pytest.raises(SearchEndedError):
        call.look(0.03)


def test_each_request_is_told_how_many_tiles_fit() -> None:
    with pytest.raises(TooManyTilesError, match=r"30 tiles would take about 120 s, and may take 60 s: send at most 15"):
        asked(30).refuse(4.0)
    with pytest.raises(TooManyTilesError, match="too long for any"):
        asked(1).refuse(70.0)
    with pytest.raises(CrowdedError, match="other requests"):
        asked(10).refuse(4.0)


def test_a_search_is_ended_between_its_steps_and_counts_as_no_error() -> None:
    search = CountedSearch(steps=50)
    request = Asked(searching(search), (TILES, Wanted()))
    looks = []

    def look(share: float) -> None:
        looks.append(share)
        request.is_gone = len(looks) == 3
        JoinedCall([request]).look(share)

    metrics.start_run("serve-0", kind="serve")
    try:
        with pytest.raises(SearchEndedError), looked_at(look):
            computed(WORK["AllStages"], request.detector, [request.arguments], StageClock())
        assert metrics.told()[metrics.ERRORS, ("serve_score",)] == 0
        assert metrics.told()[metrics.SECONDS, ("serve_score",)] > 0
    finally:
        metrics.end_run()
    assert looks == [0.02, 0.04, 0.06]


@pytest.mark.parametrize("wanted", [Wanted(pictures=True), Wanted(evidence=4)])
def test_a_replica_with_all_stages_searches_once_for_scores_and_pictures(wanted: Wanted) -> None:
    search = CountedSearch()
    detector = searching(search, batch_tiles=7)
    first, second = scored_at_once(detector, [(TILES[:3], Wanted(evidence=1)), (TILES[3:], wanted)])
    assert search.tiles == 30
    for answer, tiles in ((first, TILES[:3]), (second, TILES[3:])):
        assert answer.pictures is not None
        seen, x_hat = detector.pictures(tiles[answer.pictures.rows])
        np.testing.assert_array_equal(answer.pictures.seen, seen)
        np.testing.assert_array_equal(answer.pictures.reconstruction, x_hat)


def test_latents_of_tuples_come_apart_by_request() -> None:
    z = mapped(DETECTOR, [(TILES[:3],), (TILES[3:],)])
    (whole,) = mapped(DETECTOR, [(TILES,)])
    np.testing.assert_array_equal(np.concatenate([z[0][0], z[1][0]]), whole[0])
