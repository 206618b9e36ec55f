"""Pyramids: OpenSlide and tifffile open what is written, and find its pixels and resolution."""

from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import simplejpeg
import tifffile

from uadray.phantoms.pyramid import write_pyramid


def _picture(height_px: int, width_px: int) -> np.ndarray:
    y, x = np.mgrid[:height_px, :width_px]
    return np.stack([x * 255 // width_px, y * 255 // height_px, np.full_like(x, 90)], axis=-1).astype(np.uint8)


def test_openslide_opens_a_pyramid_with_its_resolution(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", _picture(700, 1000), mpp=0.2527)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.2527, rel=1e-7)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.2527, rel=1e-7)
        assert slide.level_dimensions == ((1000, 700), (500, 350), (250, 175))
        assert slide.level_downsamples == (1.0, 2.0, 4.0)


@pytest.mark.parametrize("shared_tables", [True, False])
def test_pixels_survive_up_to_jpeg(tmp_path: Path, shared_tables: bool) -> None:
    picture = _picture(530, 300)
    path = write_pyramid(tmp_path / "a.tif", picture, mpp=0.5, tile_px=128, shared_tables=shared_tables)
    with openslide.OpenSlide(path) as slide:
        for level, factor in enumerate((1, 2, 4)):
            size = slide.level_dimensions[level]
            read = np.asarray(slide.read_region((0, 0), level, size).convert("RGB"), int)
            wanted = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            assert np.abs(read - wanted).mean() < 3, factor


def test_tables_can_be_joined_again(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", _picture(256, 256), mpp=0.5)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert [p.subfiletype for p in tiff.pages] == [0, 1, 1]
        stream = path.read_bytes()[page.dataoffsets[0] :][: page.databytecounts[0]]
        joined = page.jpegtables[:-2] + stream[2:]
    assert b"\xff\xdb" not in stream
    decoded = simplejpeg.decode_jpeg(joined).astype(int)
    assert np.abs(decoded - _picture(256, 256)).mean() < 3


def test_a_pyramid_without_resolution_has_none(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", _picture(256, 256), mpp=None)
    with openslide.OpenSlide(path) as slide:
        assert "openslide.mpp-x" not in slide.properties


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_a_pyramid_of_something_else_is_refused(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected RGB uint8"):
        write_pyramid(tmp_path / "a.tif", image, mpp=0.5)
    with pytest.raises(ValueError, match="multiple of 16"):
        write_pyramid(tmp_path / "a.tif", _picture(8, 8), mpp=0.5, tile_px=100)
    assert not list(tmp_path.iterdir())
