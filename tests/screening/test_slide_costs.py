"""What is measured of one slide, without a cluster."""

from pathlib import Path

import pytest
from tile_sets import FILE_GRID, cut, two_slides

from uadray.screening.slide_costs import SlideCosts, measure_slide
from uadray.slides.manifest import SlideRow


def test_a_slide_is_measured_as_the_job_takes_it(tmp_path: Path) -> None:
    row, _ = two_slides(tmp_path)
    (done,) = cut([row], FILE_GRID, str(tmp_path / "set")).slides
    whole = measure_slide(row, FILE_GRID, "tile", None, 90, 256, 0)
    assert (whole.tiles, whole.tried, whole.error) == (16, 16, None)
    assert whole.bytes_written == pytest.approx(done.bytes, rel=0.3)
    assert 0 < whole.bytes_read < Path(row.uri).stat().st_size
    few = measure_slide(row, FILE_GRID, "tile", None, 90, 4, 0)
    assert (few.tiles, few.tried) == (16, 4)
    assert few.bytes_read == whole.bytes_read
    assert few.bytes_written == pytest.approx(whole.bytes_written, rel=0.3)
    assert measure_slide(row, FILE_GRID, "tile", 7, 90, 256, 0).tiles == 7
    scores = measure_slide(row, FILE_GRID, "screen", None, 90, 256, 0)
    assert 0 < scores.bytes_written < whole.bytes_written


def test_a_slide_that_cannot_be_used_is_an_answer(tmp_path: Path) -> None:
    costs = measure_slide(SlideRow("gone", str(tmp_path / "gone.tif")), FILE_GRID, "tile", None, 90, 256, 0)
    assert (costs.tiles, costs.tried) == (0, 0)
    assert str(costs.error).startswith("missing: ")


def test_seconds_of_a_slide_by_hand() -> None:
    assert SlideCosts(tiles=100, plan_s=3.0, tried=10, read_s=2.0).seconds == 23.0
    assert SlideCosts(plan_s=3.0).seconds == 3.0
