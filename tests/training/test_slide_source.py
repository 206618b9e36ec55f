"""Slides as a source of tiles: few tiles in memory, few slides open, nothing out of focus."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from training_slides import planned, read_crops, write_slide

from uadray.phantoms.pyramid import write_pyramid
from uadray.slides.manifest import SlideRow
from uadray.tiles.spec import TileSpec
from uadray.training.crops import crop_block
from uadray.training.dataset import slide_source
from uadray.training.slide_source import OpenSlides, SlideSource
from uadray.training.survey import survey_slide


def test_tiles_out_of_focus_are_not_trained_on(manifest: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = np.array([210, 110, 180], np.uint8) - rng.integers(0, 80, (512, 512, 3), dtype=np.uint8)
    image[:, 256:] = cv2.resize(image[::8, 256::8], (256, 512), interpolation=cv2.INTER_CUBIC)
    write_pyramid(tmp_path / "half.tif", image, mpp=1.0, tile_px=128)
    spec = TileSpec(mpp=1.0, tile_px=32)
    found = survey_slide(SlideRow("half", str(tmp_path / "half.tif")), spec)
    half = slide_source([found], spec, per_slide=None, seed=0)
    x = half.corners(0)[0][read_crops(half, passes=1)["tile"].to_numpy(), 0]
    assert 100 < len(x) < 2 * half.n_tiles.sum()
    assert x.max() < 256


def test_a_slide_that_is_one_entry_is_read_by_and_by(tmp_path: Path) -> None:
    """All of its tiles once, in tables of bounded size that are mixed like others; 50 MB of pixels in much less."""
    row = write_slide(tmp_path / "large.tif", 1, size_px=4096)
    spec = TileSpec(mpp=1.0, tile_px=256, quality=None)
    large = replace(slide_source([survey_slide(row, spec)], spec, per_slide=None, seed=0), whole=np.array([True]))
    tracemalloc.start()
    try:
        tables = [
            table.drop(["pixels"])
            for table in crop_block(large, planned(large, input_px=256), 0, input_px=256, stain_augment=0)
        ]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    tiles = [table["tile"].to_numpy() for table in tables]
    assert sorted(np.concatenate(tiles).tolist()) == list(range(256))
    assert max(map(len, tiles)) <= 2 * 21
    assert peak < 30e6
    x, y = large.corners(0)[0][np.concatenate(tiles[:4])].T // 256
    assert min(np.ptp(x), np.ptp(y)) > 8, "no patch of the slide"


def test_open_slides_are_bounded(source: SlideSource) -> None:
    opened = OpenSlides(3)
    first = None
    for i, row in enumerate(source.rows):
        opened.hold({(row.uri, source.etags[i])})
        slide = opened.get(row, source.etags[i])
        first = first or slide
        assert len(opened) <= 3
        assert opened.get(row, source.etags[i]) is slide
    opened.hold({(row.uri, etag) for row, etag in zip(source.rows[:5], source.etags, strict=False)})
    reopened = opened.get(source.rows[0], source.etags[0])
    assert reopened is not first
    assert reopened.read_region(0, 0, 0, 8, 8).shape == (8, 8, 3)
