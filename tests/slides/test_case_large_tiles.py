"""Files with large tiles, and tiles of many pixels."""

from pathlib import Path

import numpy as np
import pytest
from slides.case_files import LOSSLESS, MPP, SPEC, open_path, write_tiff
from slides.tiff_files import LONG, SHORT, page, picture

from uadray.errors import SlideError
from uadray.phantoms.pyramid import write_pyramid
from uadray.slides.tile_reading import read_tile
from uadray.tiles.chunks import read_chunks
from uadray.tiles.plan import plan_slide


@pytest.mark.parametrize("codec", ["JPEG", "deflate", "none"])
def test_large_file_tiles_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    """5,120 px: 75 MiB decoded, which is kept all the same, so that each tile is decoded once."""
    image = np.kron(picture(32, 32), np.ones((160, 160, 1), np.uint8))
    if codec == "JPEG":
        whole = page(image, tile_px=5120, subsampling="444", **MPP)
    else:
        compression, _, encode = LOSSLESS[codec]
        whole = page(image[:16, :16], tile_px=16, t259=(SHORT, [compression]), t262=(SHORT, [2]), **MPP)
        whole.tags |= {code: (LONG, [5120]) for code in (256, 257, 322, 323)}
        whole.tiles = [encode(image)]
    counts = []
    for kind in ("tiff.jpeg.TileDecoder", "tiff.lossless.LosslessDecoder"):
        name = f"uadray.slides.{kind}.decode"
        module, _, decoder = kind.rpartition(".")
        own = getattr(__import__(f"uadray.slides.{module}", fromlist=[decoder]), decoder).decode
        monkeypatch.setattr(name, lambda self, data, out=None, own=own: counts.append(1) or own(self, data, out))
    with open_path(write_tiff(tmp_path / "s.tif", [whole])) as slide:
        for corner in (0, 1600, 4480):
            found = slide.read_region(0, corner, corner, 640, 640)
            assert np.abs(found.astype(int) - image[corner : corner + 640, corner : corner + 640]).mean() < 6
    assert len(counts) == 1


def test_case_large_tile(data_dir: Path) -> None:
    with open_path(data_dir / "cases" / "17_large_tile" / "jpeg.tif") as slide:
        plan = plan_slide(slide, etag="", spec=SPEC)
        chunks = list(read_chunks(slide, plan.tiles.slice(0, 8), spec=SPEC))
    assert len(plan.tiles) > 0
    assert not any(error for chunk in chunks for error in chunk.errors)


def test_a_tile_of_too_many_pixels_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "s.tif", picture(64, 64), mpp=0.5, tile_px=64, downsamples=())
    with (
        open_path(path) as slide,
        pytest.raises(SlideError, match="covers 32768 x 32768 px of its level 0, expected 8,192 a side") as caught,
    ):
        read_tile(slide, x_level0_px=0, y_level0_px=0, mpp=4.0, tile_px=4096)
    assert caught.value.reason == "too_large"
