"""Which tiles of a slide are read, and what the plan of a slide says besides."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiles.painted_slides import damage, painted_slide

from uadray.errors import SlideError
from uadray.phantoms.pyramid import write_pyramid
from uadray.slides.opening import open_slide
from uadray.slides.thumbnail import thumbnail
from uadray.tiles.chunks import read_chunks
from uadray.tiles.plan import PREVIEW_PX, plan_slide
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import StainConfig

SPEC = TileSpec(mpp=1.0, tile_px=64)


def test_plan(slide_path: Path) -> None:
    with open_slide(slide_path, slide_id="s") as slide:
        plan = plan_slide(slide, etag="e", spec=SPEC)
    assert (plan.slide_id, plan.etag, plan.size_level0_px) == ("s", "e", (1024, 1024))
    assert plan.mpp_level0 == pytest.approx(1.0)
    assert plan.n_grid == 256
    assert len(plan.tiles) == 128, "8 of 16 columns"
    assert max(plan.tiles["x_level0_px"].to_pylist()) == 448
    assert plan.preview.shape == (256, 256, 3)
    assert max(plan.preview.shape) <= PREVIEW_PX


def test_a_large_slides_preview_is_bounded(tmp_path: Path) -> None:
    image = np.full((600, 3000, 3), (200, 120, 180), np.uint8)
    path = write_pyramid(tmp_path / "s.tif", image, mpp=4.0, tile_px=128, downsamples=())
    with open_slide(path, slide_id="s") as slide:
        preview = plan_slide(slide, etag="", spec=TileSpec(mpp=8, tile_px=64)).preview
    assert preview.shape == (128, PREVIEW_PX, 3)


def test_a_preview_is_the_thumbnail_reduced(slide_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uadray.tiles.plan.PREVIEW_PX", 30)
    with open_slide(slide_path, slide_id="s") as slide:
        preview = plan_slide(slide, etag="", spec=SPEC).preview
        image, _ = thumbnail(slide)
    expected = cv2.resize(image, preview.shape[1::-1], interpolation=cv2.INTER_AREA).astype(int)
    assert max(preview.shape) == 30
    assert np.abs(preview.astype(int) - expected).mean() < 4


def test_plan_refuses_before_it_reads(slide_path: Path) -> None:
    with open_slide(slide_path, slide_id="s") as slide, pytest.raises(SlideError) as caught:
        plan_slide(slide, etag="", spec=TileSpec(mpp=0.25, tile_px=64))
    assert caught.value.reason == "too_coarse"


def test_glass_has_a_plan_without_tiles(tmp_path: Path) -> None:
    glass = np.full((256, 256, 3), 244, np.uint8)
    path = write_pyramid(tmp_path / "g.tif", glass, mpp=1.0, tile_px=128, downsamples=())
    with open_slide(path, slide_id="g") as slide:
        plan = plan_slide(slide, etag="", spec=SPEC)
        assert (len(plan.tiles), plan.n_grid) == (0, 16)
        assert list(read_chunks(slide, plan.tiles, spec=SPEC)) == []


def test_a_broken_overview_fails_the_slide(tmp_path: Path) -> None:
    path = painted_slide(tmp_path / "s.tif")
    damage(path, level=2, tile=0)
    with open_slide(path, slide_id="s") as slide, pytest.raises(SlideError) as caught:
        plan_slide(slide, etag="", spec=SPEC)
    assert caught.value.reason == "unreadable"


def test_a_truncated_upload_does_not_open(tmp_path: Path) -> None:
    path = painted_slide(tmp_path / "s.tif")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SlideError) as caught:
        open_slide(path, slide_id="s")
    assert caught.value.reason == "unreadable"


def _with_pen(path: Path) -> Path:
    """As `painted_slide`, with a blue stroke of 300 um from left to right."""
    image = np.full((1024, 1024, 3), 245, np.uint8)
    y, x = np.mgrid[:1024, :512]
    image[:, :512] = np.stack([200 - x % 40, 120 + y % 40, 180 + (x + y) % 20], axis=-1)
    image[256:556] = (20, 40, 160)
    return write_pyramid(path, image, mpp=1.0, tile_px=128)


def test_a_pen_stroke_is_flagged_and_not_read(tmp_path: Path) -> None:
    with open_slide(_with_pen(tmp_path / "p.tif"), slide_id="p") as slide:
        plan = plan_slide(slide, etag="e", spec=SPEC)
        unflagged = plan_slide(slide, etag="e", spec=SPEC.model_copy(update={"quality": None}))
    rows = set(plan.flagged["y_level0_px"].to_pylist())
    assert set(plan.flags) == {"pen"}
    assert {256, 320, 384, 448} <= rows <= {192, 256, 320, 384, 448, 512, 576}
    assert not set(plan.tiles["tile_id"].to_pylist()) & set(plan.flagged["tile_id"].to_pylist())
    assert len(unflagged.tiles) == len(plan.tiles) + len(plan.flagged)
    assert b'"Pen"' in plan.masks
    assert b'"Pen"' not in unflagged.masks


def test_an_edited_mask_takes_the_place_of_what_is_found(slide_path: Path, tmp_path: Path) -> None:
    ring = [[0, 0], [256, 0], [256, 256], [0, 256], [0, 0]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    folder = tmp_path / "masks"
    folder.mkdir()
    (folder / "s.geojson").write_text(json.dumps({"type": "Feature", "geometry": geometry, "properties": {}}))
    spec = SPEC.model_copy(update={"mask_dir": str(folder)})
    with open_slide(slide_path, slide_id="s") as slide:
        assert len(plan_slide(slide, etag="e", spec=spec).tiles) == 16
        (folder / "s.geojson").write_text('{"type": "Point", "coordinates": [1, 2]}')
        with pytest.raises(SlideError) as caught:
            plan_slide(slide, etag="e", spec=spec)
    assert caught.value.reason == "bad_mask"
    with open_slide(slide_path, slide_id="other") as slide:
        assert len(plan_slide(slide, etag="e", spec=spec).tiles) == 128, "no mask of that name: what is found"


def test_a_slide_whose_stain_cannot_be_told_is_named(tmp_path: Path) -> None:
    one_colour = np.full((512, 512, 3), (200, 120, 180), np.uint8)
    path = write_pyramid(tmp_path / "s.tif", one_colour, mpp=1.0, tile_px=128)
    spec = SPEC.model_copy(update={"stain": StainConfig()})
    with open_slide(path, slide_id="s") as slide, pytest.raises(SlideError) as caught:
        plan_slide(slide, etag="e", spec=spec)
    assert caught.value.reason == "no_stain"
