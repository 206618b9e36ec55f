"""Tiles as JPEG have the pixels that screening reads."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg

from uadray.phantoms.pyramid import write_pyramid
from uadray.slides.opening import open_slide
from uadray.tiles.chunks import read_chunks
from uadray.tiles.spec import TileSpec
from uadray.tilesets.cutting import chosen_tiles
from uadray.tilesets.encoding import encoded_tiles


def test_tiles_have_the_pixels_that_screening_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Level 1 has exactly the scale asked for, but tiles begin between its pixels, all but the first one."""
    small = np.random.default_rng(5).integers(0, 80, (126, 126, 3), dtype=np.uint8)
    image = np.array([210, 110, 180], np.uint8) - cv2.resize(small, (1001, 1001))
    level = cv2.resize(image, (498, 498), interpolation=cv2.INTER_AREA)
    monkeypatch.setattr("uadray.phantoms.pyramid._reduced", lambda *_: level)
    write_pyramid(tmp_path / "odd.tif", image, mpp=0.5, tile_px=128, downsamples=(2,))
    with open_slide(tmp_path / "odd.tif", slide_id="odd") as slide:
        assert slide.downsamples[1][0] % 1
        spec = TileSpec(mpp=0.5 * slide.downsamples[1][0], tile_px=128, quality=None)
        tiles, _ = chosen_tiles(slide, "", spec, per_slide=None, seed=0)
        encoded = list(encoded_tiles(slide, tiles, spec, quality=100, normalise=None, left_out=Counter()))
        (chunk,) = read_chunks(slide, tiles, spec=spec)
    assert sum(tile.is_files for tile in encoded) == 1
    assert [tile.row for tile in encoded] == list(range(16))
    assert len(tiles) == 16
    for tile in encoded:
        difference = simplejpeg.decode_jpeg(tile.jpeg).astype(int) - chunk.pixels[tile.row]
        assert np.abs(difference).mean() < 1, f"tile {tile.row}: no more than what JPEG of quality 100 loses"


def test_a_file_tile_that_cannot_be_read_is_left_out_and_counted(tmp_path: Path) -> None:
    image = np.full((256, 256, 3), (210, 110, 180), np.uint8)
    write_pyramid(tmp_path / "a.tif", image, mpp=1.0, tile_px=128)
    spec = TileSpec(mpp=1.0, tile_px=128, quality=None)
    with open_slide(tmp_path / "a.tif", slide_id="a") as slide:
        tiles, _ = chosen_tiles(slide, "", spec, per_slide=None, seed=0)
        data = bytearray((tmp_path / "a.tif").read_bytes())
        first = slide.encoded_tile(0, 0, 0, 128, 128)  # type: ignore[attr-defined]
        body = first[first.rindex(b"\xff\xda") : -2]  # the file keeps the tables apart: only the scan is in it as it is
        at = data.index(body)
        data[at : at + len(body)] = b"\xff" * len(body)
        (tmp_path / "a.tif").write_bytes(data)
    left_out: Counter[str] = Counter()
    with open_slide(tmp_path / "a.tif", slide_id="a") as slide:
        rows = [t.row for t in encoded_tiles(slide, tiles, spec, quality=90, normalise=None, left_out=left_out)]
    assert len(tiles) == 4
    assert (rows, left_out) == ([1, 2, 3], {"unreadable": 1})
