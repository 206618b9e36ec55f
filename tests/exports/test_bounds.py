"""A slide whose level 0 is larger than what was scanned, from its file to what QuPath is given."""

import json
from pathlib import Path

import endpoint_parts
import numpy as np
import pytest
import shapely
import small_screening
from leica_slides import write_leica

from uadray.exports.exported_slide import ExportOptions
from uadray.exports.qupath_geojson import exported
from uadray.exports.source import slides_of
from uadray.slides.manifest import SlideRow
from uadray.slides.opening import open_slide
from uadray.slides.slide import Mpp

OFFSET, CANVAS = (310, 205), (1200, 1100)


@pytest.fixture(scope="module")
def screened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A painted slide as Leica's scanner writes it, screened; and the pixels of what was scanned."""
    folder = tmp_path_factory.mktemp("bounds")
    small_screening.write_archive(folder, n_slides=1, n_lesion=0, seed=1, size_px=700, mpp=1)
    with open_slide(folder / "phantom_000.tif", slide_id="p") as phantom:
        pixels = phantom.read_region(0, 0, 0, 700, 700).copy()
    path = write_leica(folder / "a.scn", pixels, offset=OFFSET, canvas=CANVAS)
    bundle = endpoint_parts.write_calibrated(folder)
    rows = [SlideRow("a", str(path), Mpp(1.0)), SlideRow("p", str(folder / "phantom_000.tif"), Mpp(1.0))]
    small_screening.screen_here(str(folder / "out"), [bundle], rows)
    return folder, pixels


def test_a_decision_records_the_bounds(screened: tuple[Path, np.ndarray]) -> None:
    bounded, whole = slides_of(str(screened[0] / "out"))
    assert bounded.bounds_level0_px == (*OFFSET, 700, 700)
    assert bounded.size_level0_px == CANVAS
    assert whole.bounds_level0_px is None
    assert whole.size_level0_px == (700, 700)


def test_a_tile_shows_the_same_pixels_in_the_file_and_in_qupath(screened: tuple[Path, np.ndarray]) -> None:
    folder, pixels = screened
    (slide,) = slides_of(str(folder / "out"), only=["a"])
    named = ({"all_tiles": True, "coordinates": coordinates} for coordinates in ("level0", "qupath"))
    of_file, of_qupath = (
        json.loads(exported(slide, ExportOptions(**options)))["features"]
        for options in named  # type: ignore[arg-type]
    )
    assert len(of_file) == len(of_qupath) == len(slide.tiles) > 20
    inside = 0
    with open_slide(folder / "a.scn", slide_id="a", mpp=1.0) as file:
        for here, there in zip(of_file, of_qupath, strict=True):
            assert here["id"] == there["id"]
            (x, y, right, low), (x1, y1, right1, low1) = (
                (int(side) for side in shapely.geometry.shape(each["geometry"]).bounds) for each in (here, there)
            )
            if min(x1, y1) >= 0 and max(right1, low1) <= 700:  # QuPath shows nothing else
                inside += 1
                np.testing.assert_array_equal(file.read_region(0, x, y, right - x, low - y), pixels[y1:low1, x1:right1])
    assert inside > 20
