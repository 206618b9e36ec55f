"""Which tiles are detections."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tile_grids import STEP, grid_tiles

from uadray.evaluation.tile_detections import RADIUS_UM, highest_of_regions, highest_tiles
from uadray.schemas import TILE_SCORES


def test_a_high_tile_stands_for_its_surroundings() -> None:
    """Two tiles away is still near at 187 um, three is not; a tile without a score is none."""
    tiles = grid_tiles([[0.5, 0.6, 0.9, 0.8, 0.7, 0.3, None]])
    found = highest_tiles(tiles, mpp_level0=0.972)
    assert found.confidence.tolist() == [0.9, 0.3]
    assert found.x_level0_px.tolist() == [2.5 * STEP, 5.5 * STEP]
    assert found.y_level0_px.tolist() == [STEP / 2] * 2
    assert pytest.approx(2 * STEP * 0.972) == RADIUS_UM
    alone = highest_tiles(tiles, mpp_level0=0.972, radius_um=80)
    assert alone.confidence.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5, 0.3]


def test_of_equal_tiles_the_first_is_taken() -> None:
    found = highest_tiles(grid_tiles([[0.5] * 7] * 2), mpp_level0=0.972)
    assert found.x_level0_px.tolist() == [0.5 * STEP, 3.5 * STEP, 6.5 * STEP]
    assert set(found.y_level0_px) == {STEP / 2}


def test_a_slide_without_scores_has_no_detection() -> None:
    for tiles in (grid_tiles([[None, None]]), TILE_SCORES.empty_table()):
        assert len(highest_tiles(tiles, mpp_level0=1).confidence) == 0
        assert len(highest_of_regions(tiles, threshold=0).confidence) == 0


@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, np.nan]), min_size=5, max_size=5), min_size=1, max_size=5)
)
def test_detections_lie_apart_and_cover_all(scores: list[list[float]]) -> None:
    """No two are near each other, and each tile has one near it that is as high."""
    tiles = grid_tiles(scores)
    found = highest_tiles(tiles, mpp_level0=0.972)
    at = np.column_stack([found.x_level0_px, found.y_level0_px])
    apart = np.hypot(*(at[:, None] - at[None]).T)
    assert (apart[~np.eye(len(at), dtype=bool)] > 2 * STEP).all()
    for tile in tiles.to_pylist():
        away = np.hypot(*(at - (tile["x_level0_px"] + STEP / 2, tile["y_level0_px"] + STEP / 2)).T)
        assert (found.confidence[away <= 2 * STEP + 1] >= tile["score"]).any()


def test_a_region_is_one_detection_at_its_highest_tile() -> None:
    """Tiles that touch at a corner are of one region."""
    tiles = grid_tiles([[0.9, 0.1, 0.1, 0.6], [0.1, 0.8, 0.1, 0.7], [0.1, 0.1, 0.1, 0.1]])
    found = highest_of_regions(tiles, threshold=0.5)
    assert found.confidence.tolist() == [0.9, 0.7]
    assert found.x_level0_px.tolist() == [0.5 * STEP, 3.5 * STEP]
    assert found.y_level0_px.tolist() == [0.5 * STEP, 1.5 * STEP]
    assert len(highest_of_regions(tiles, threshold=0.1).confidence) == 1
