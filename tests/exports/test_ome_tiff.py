"""OME-TIFF heatmaps, read by tifffile, by OpenSlide and as slides."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from pictured_slides import pictured, place

from uadray.errors import InputError, SlideError
from uadray.exports.exported_slide import ExportOptions
from uadray.exports.ome_tiff import COLOURS, NAMESPACE, SCORES, exported
from uadray.reports.colours import scale_colours
from uadray.slides.opening import open_slide
from uadray.tiles.spec import TileSpec

LEVEL0, QUPATH = ExportOptions(), ExportOptions(coordinates="qupath")
FINE = TileSpec(mpp=0.25, tile_px=90, quality=None)


def _opened(data: bytes) -> tuple[list[np.ndarray], dict]:
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        assert tiff.is_ome
        (series,) = tiff.series
        assert len(tiff.pages) == 1  # coarser levels lie in SubIFDs
        assert all(page.is_tiled and page.compression == 8 for level in series.levels for page in level.pages)
        ome = tifffile.xml2dict(tiff.ome_metadata)["OME"]
        return [level.asarray() for level in series.levels], ome


@pytest.mark.parametrize("bounds", [None, (1003, 507, 7001, 5003)])
@pytest.mark.parametrize("options", [LEVEL0, QUPATH])
@pytest.mark.parametrize("marker", [0, 1500, 2003])
def test_marker_lies_where_it_is_at_every_level(bounds: tuple, options: ExportOptions, marker: int) -> None:
    slide = pictured((9001, 6007), mpp=0.2528, spec=FINE, bounds=bounds, marker=marker)
    x, y, width, height = place(slide, marker)
    origin = bounds[:2] if bounds and options is QUPATH else (0, 0)
    levels, ome = _opened(exported(slide, options)[SCORES])
    pixels = ome["Image"]["Pixels"]
    assert len(levels) == (3 if origin != (0, 0) else 4)
    corner_um = [pixels["Plane"][f"Position{axis}"] for axis in "XY"]
    np.testing.assert_allclose(corner_um, np.multiply(origin, 0.2528))
    for number, level in enumerate(levels):
        pixel_um = pixels["PhysicalSizeX"] * 2**number
        assert pixel_um == pytest.approx(0.2528 * 8 * 2**number)
        marked = np.argwhere(level == 1)[:, ::-1]
        if marker == 0 and origin != (0, 0):
            assert not len(marked)  # outside the bounds
            continue
        edges_um = np.concatenate([marked.min(0), marked.max(0) + 1]) * pixel_um + [*corner_um, *corner_um]
        expected_um = np.array([x, y, x + width, y + height]) * 0.2528
        if number == 0:
            assert np.abs(edges_um - expected_um).max() <= pixel_um / 2 + 1e-6
        assert (edges_um[:2] >= expected_um[:2] - pixel_um).all()
        assert (edges_um[2:] <= expected_um[2:] + pixel_um).all()
        centre = ((np.array([x + width / 2, y + height / 2]) * 0.2528 - corner_um) / pixel_um).astype(int)
        assert level[centre[1], centre[0]] == 1


def test_says_its_size_and_place() -> None:
    slide = pictured((2000, 1000), mpp=0.5, bounds=(104, 56, 1600, 800))
    (scores,), ome = _opened(exported(slide, QUPATH)[SCORES])
    assert scores.dtype == np.float32
    assert scores.shape == (100, 200)
    pixels = ome["Image"]["Pixels"]
    assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeXUnit"]) == (4.0, "µm")
    assert (pixels["PhysicalSizeY"], pixels["SizeX"], pixels["SizeY"]) == (4.0, 200, 100)
    annotation = ome["StructuredAnnotations"]["MapAnnotation"]
    assert annotation["Namespace"] == NAMESPACE


def test_physical_size_is_that_of_the_slide_divided() -> None:
    slide = pictured((9001, 6007), mpp=0.2528, spec=FINE)
    levels, ome = _opened(exported(slide, LEVEL0)[SCORES])
    width_um = levels[0].shape[1] * ome["Image"]["Pixels"]["PhysicalSizeX"]
    assert 0 <= width_um - 9001 * 0.2528 < 8 * 0.2528


def test_colours_open_as_a_slide(tmp_path: Path) -> None:
    slide = pictured((9001, 6007), mpp=0.2528, spec=FINE, marker=1500)
    path = tmp_path / "a.ome.tif"
    path.write_bytes(exported(slide, LEVEL0)[COLOURS])
    dark, (x, y, width, height) = scale_colours()[-1], place(slide, 1500)
    with open_slide(path, slide_id="a") as picture:
        assert picture.mpp == pytest.approx(8 * 0.2528)
        assert picture.level_sizes_px == ((1126, 751), (563, 376), (282, 188), (141, 94))
        for level, factor in enumerate((8, 16, 32, 64)):
            column, row = int((x + width / 2) / factor), int((y + height / 2) / factor)
            assert picture.read_region(level, column, row, 1, 1)[0, 0].tolist() == dark.tolist()
    with openslide.OpenSlide(path) as picture:
        assert picture.dimensions == (1126, 751)
        assert float(picture.properties["openslide.mpp-x"]) == pytest.approx(8 * 0.2528)


def test_same_slide_gives_the_same_bytes() -> None:
    slide = pictured((2000, 1000), marker=3)
    assert exported(slide, LEVEL0) == exported(slide, LEVEL0)


def test_strange_names_are_no_fault() -> None:
    slide = pictured((2000, 1000), slide_id="7 ü%2F?#&+'<b>\x01")
    _, ome = _opened(exported(dataclasses.replace(slide, name="{x}</OME>\x00"), LEVEL0)[SCORES])
    assert ome["Image"]["Name"] == "7 ü%2F?#&+'<b>?"


def test_what_is_missing_is_said() -> None:
    slide = pictured((2000, 1000))
    with pytest.raises(InputError, match=r"no calibration says which colours scores have \(there is none\)"):
        exported(dataclasses.replace(slide, scale=None, why_no_scale="there is none"), LEVEL0)
    with pytest.raises(SlideError, match="how large its pixels are"):
        exported(dataclasses.replace(pictured((2000, 1000), mpp_level0=None), spec=None), LEVEL0)
