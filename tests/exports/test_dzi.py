"""Deep Zoom heatmaps, put together from their tiles."""

import dataclasses
import json

import cv2
import numpy as np
import openslide.deepzoom
import PIL.Image
import pytest
from pictured_slides import pictured, place

from uadray.errors import InputError
from uadray.exports import dzi
from uadray.exports.exported_slide import ExportOptions
from uadray.reports.colours import scale_colours
from uadray.tiles.spec import TileSpec

LEVEL0 = ExportOptions()
FINE = TileSpec(mpp=0.25, tile_px=90, quality=None)


def _level(files: dict[str, bytes], number: int) -> np.ndarray:
    """A level put together, BGRA."""
    tiles = {}
    for path, data in files.items():
        if path.startswith(f"_files/{number}/"):
            column, row = path.removesuffix(".png").rpartition("/")[2].split("_")
            tiles[int(row), int(column)] = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    rows = sorted({row for row, _ in tiles})
    return np.vstack([np.hstack([tiles[key] for key in sorted(tiles) if key[0] == row]) for row in rows])


def test_marker_lies_where_it_is_at_every_level() -> None:
    slide = pictured((9001, 6007), mpp=0.2528, spec=FINE, marker=1500)
    x, y, width, height = place(slide, 1500)
    files = dzi.exported(slide, LEVEL0)
    assert '<Size Width="1126" Height="751"/>' in files[".dzi"].decode()
    across = json.loads(files[".placement.json"])["width"]
    for number in range(11, -1, -1):
        level = _level(files, number)
        assert level.shape[:2] == tuple(-(-side // 2 ** (11 - number)) for side in (751, 1126))
        pixel_level0 = 8 * 2 ** (11 - number)
        column, row = int((x + width / 2) / pixel_level0), int((y + height / 2) / pixel_level0)
        assert level[row, column, 2::-1].tolist() == scale_colours()[-1].tolist()
        assert across * 9001 == 1126 * 8


def test_levels_are_those_of_the_slide() -> None:
    """OpenSlide's Deep Zoom image of the slide has a level of the size of ours, and all coarser ones."""
    whole = openslide.ImageSlide(PIL.Image.new("L", (2001, 1007)))
    zoom = openslide.deepzoom.DeepZoomGenerator(whole, tile_size=512, overlap=0)
    files = dzi.exported(pictured((2001, 1007)), LEVEL0)
    sizes = [_level(files, number).shape[1::-1] for number in range(9)]
    assert sizes == list(zoom.level_dimensions[:9])


def test_transparent_where_no_tile_is() -> None:
    slide = pictured((2000, 1000), marker=3)
    few = dataclasses.replace(slide, tiles=slide.tiles.slice(0, 10))
    level = _level(dzi.exported(few, LEVEL0), 8)
    assert level[50:, :, 3].max() == 0
    assert 0 < level[:6, :60, 3].min() < level[:6, :60, 3].max() < 255


def test_files_are_few() -> None:
    slide = pictured((100_000, 100_000), mpp=0.25, spec=TileSpec(mpp=0.5, tile_px=1024, quality=None))
    assert len(dzi.exported(slide, LEVEL0)) < 20


def test_colours_need_a_calibration() -> None:
    with pytest.raises(InputError, match="no calibration says which colours"):
        dzi.exported(dataclasses.replace(pictured(), scale=None), LEVEL0)
