"""One slide -> plan -> chunks of tiles, with tiles that cannot be read among them."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from uadray.errors import SlideError
from uadray.phantoms.slides import write_pyramid
from uadray.slides.manifest import SlideRow
from uadray.slides.opening import open_slide
from uadray.slides.thumbnail import thumbnail
from uadray.slides.tile_reading import read_tile
from uadray.tiles.plan import (
    PREVIEW_PX,
    chunk_tiles,
    normalizer_of,
    plan_slide,
    read_chunk,
    read_chunks,
    slide_etag,
)
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import StainConfig, fit

SPEC = TileSpec(mpp=1.0, tile_px=64)


def _slide(path: Path, *, size_px: int = 1024) -> Path:
    """Pink tissue of two shades in the left half, glass in the right."""
    image = np.full((size_px, size_px, 3), 245, np.uint8)
    y, x = np.mgrid[:size_px, : size_px // 2]
    image[:, : size_px // 2] = np.stack([200 - x % 40, 120 + y % 40, 180 + (x + y) % 20], axis=-1)
    return write_pyramid(path, image, mpp=1.0, tile_px=128)


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _slide(tmp_path_factory.mktemp("slides") / "s.tif")


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


def test_a_chunk_is_its_tiles_one_by_one(slide_path: Path) -> None:
    with open_slide(slide_path, slide_id="s") as slide:
        some = plan_slide(slide, etag="", spec=SPEC).tiles.slice(50, 20)
        chunk = read_chunk(slide, some, spec=SPEC)
        alone = [
            read_tile(slide, x_level0_px=x, y_level0_px=y, mpp=1.0, tile_px=64)
            for x, y in zip(some["x_level0_px"].to_pylist(), some["y_level0_px"].to_pylist(), strict=True)
        ]
    np.testing.assert_array_equal(chunk.pixels, np.stack(alone))
    assert chunk.errors == [None] * 20


def test_chunks_are_all_tiles_in_order(slide_path: Path) -> None:
    spec = TileSpec(mpp=1.0, tile_px=128, stride_px=24)
    with open_slide(slide_path, slide_id="s") as slide:
        tiles = plan_slide(slide, etag="", spec=spec).tiles
        chunks = list(read_chunks(slide, tiles, spec=spec))
    assert [len(c.errors) for c in chunks[:-1]] == [256] * (len(chunks) - 1)
    assert len(chunks) > 1
    assert [i for c in chunks for i in c.tiles["tile_id"].to_pylist()] == tiles["tile_id"].to_pylist()


@pytest.mark.parametrize(("tile_px", "expected"), [(96, 256), (64, 256), (256, 256), (320, 163), (512, 64), (4096, 1)])
def test_chunk_sizes(tile_px: int, expected: int) -> None:
    assert chunk_tiles(TileSpec(mpp=1, tile_px=tile_px)) == expected


def _damage(path: Path, *, level: int, tile: int) -> None:
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[level].dataoffsets[tile], file.pages[level].databytecounts[tile]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = bytes(count)
    path.write_bytes(data)


def test_a_broken_part_costs_its_own_tiles_only(tmp_path: Path) -> None:
    """One of level 0's 128 px blocks is zeroed: the four 64 px tiles on it have an error, the other 124 pixels."""
    path = _slide(tmp_path / "s.tif")
    with open_slide(path, slide_id="s") as slide:
        plan = plan_slide(slide, etag="", spec=SPEC)
        whole = read_chunk(slide, plan.tiles, spec=SPEC)
    _damage(path, level=0, tile=8 + 2)  # second row, third column: x 256-383, y 128-255
    with open_slide(path, slide_id="s") as slide:
        assert plan_slide(slide, etag="", spec=SPEC).tiles == plan.tiles, "the thumbnail is of another level"
        chunk = read_chunk(slide, plan.tiles, spec=SPEC)
    bad = {i for i, error in enumerate(chunk.errors) if error is not None}
    corners = zip(plan.tiles["x_level0_px"].to_pylist(), plan.tiles["y_level0_px"].to_pylist(), strict=True)
    assert bad == {i for i, (x, y) in enumerate(corners) if x in (256, 320) and y in (128, 192)}
    assert all("cannot be read" in str(chunk.errors[i]) for i in bad)
    good = [i for i in range(len(plan.tiles)) if i not in bad]
    np.testing.assert_array_equal(chunk.pixels[good], whole.pixels[good])
    assert (chunk.pixels[sorted(bad)] == 255).all()


def test_a_broken_overview_fails_the_slide(tmp_path: Path) -> None:
    path = _slide(tmp_path / "s.tif")
    _damage(path, level=2, tile=0)
    with open_slide(path, slide_id="s") as slide, pytest.raises(SlideError) as caught:
        plan_slide(slide, etag="", spec=SPEC)
    assert caught.value.reason == "unreadable"


def test_a_truncated_upload_does_not_open(tmp_path: Path) -> None:
    path = _slide(tmp_path / "s.tif")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SlideError) as caught:
        open_slide(path, slide_id="s")
    assert caught.value.reason == "unreadable"


def test_etag(slide_path: Path, tmp_path: Path) -> None:
    assert slide_etag(SlideRow("s", str(slide_path))) == slide_etag(SlideRow("t", str(slide_path)))
    with pytest.raises(SlideError, match="slide s: ") as caught:
        slide_etag(SlideRow("s", str(tmp_path / "none.tif")))
    assert caught.value.reason == "missing"


def test_real_mosaic(data_dir: Path) -> None:
    path = data_dir / "mosaics" / "normal_calib" / "ncalib_000.tif"
    spec = TileSpec(mpp=0.972, tile_px=96)
    with open_slide(path, slide_id="m") as slide:
        plan = plan_slide(slide, etag="", spec=spec)
        chunk = read_chunk(slide, plan.tiles, spec=spec)
    assert 30 < len(plan.tiles) <= 83
    assert not any(chunk.errors)
    assert chunk.pixels.mean((1, 2, 3)).max() < 235


def _with_pen(path: Path) -> Path:
    """As `_slide`, with a blue stroke of 300 um from left to right."""
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


def test_a_blurred_tile_is_flagged_by_its_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sharp = np.clip(rng.normal((170, 110, 160), 30, (256, 256, 3)), 0, 255).astype(np.uint8)
    coarse = np.clip(rng.normal((170, 110, 160), 40, (64, 64, 3)), 0, 255).astype(np.uint8)
    image = np.concatenate([sharp, cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC)], axis=1)
    path = write_pyramid(tmp_path / "b.tif", image, mpp=1.0, tile_px=128, downsamples=())
    with open_slide(path, slide_id="b") as slide:
        plan = plan_slide(slide, etag="e", spec=SPEC)
        chunk = read_chunk(slide, plan.tiles, spec=SPEC)
    flags = dict(zip(chunk.tiles["x_level0_px"].to_pylist(), chunk.flags, strict=True))
    assert flags[0] is None
    assert flags[64] is None
    assert flags[448] == "out_of_focus"


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


def test_stain_is_normalised_to_the_reference(data_dir: Path) -> None:
    folder = data_dir / "mosaics" / "normal_train"
    names = [row["slide_id"] for row in csv.DictReader((folder / "manifest.csv").read_text().splitlines())][:2]
    paths = [next(folder.glob(f"**/{name}.tif*")) for name in names]
    plain = TileSpec(mpp=0.972, tile_px=96)
    with open_slide(paths[1], slide_id="r") as slide:
        reference = fit(thumbnail(slide)[0], StainConfig())
    spec = plain.model_copy(update={"stain": StainConfig(reference=reference)})
    with open_slide(paths[0], slide_id="a") as slide:
        plan = plan_slide(slide, etag="e", spec=spec)
        before = read_chunk(slide, plan.tiles, spec=plain)
        after = read_chunk(slide, plan.tiles, spec=spec, normalise=normalizer_of(plan.stain, spec))
        refit = fit(after.pixels.reshape(1, -1, 3)[:, ::7], StainConfig())
    assert before.flags == after.flags, "quality is looked at before colours are changed"
    assert np.abs(before.pixels.astype(int) - after.pixels).mean() > 1
    for name in ("haematoxylin", "eosin"):
        cosine = float(np.dot(getattr(refit, name), getattr(reference, name)))
        assert cosine > np.cos(np.radians(8)), f"{name} is {np.degrees(np.arccos(cosine)):.1f} degrees off"


def test_a_slide_whose_stain_cannot_be_told_is_named(tmp_path: Path) -> None:
    one_colour = np.full((512, 512, 3), (200, 120, 180), np.uint8)
    path = write_pyramid(tmp_path / "s.tif", one_colour, mpp=1.0, tile_px=128)
    spec = SPEC.model_copy(update={"stain": StainConfig()})
    with open_slide(path, slide_id="s") as slide, pytest.raises(SlideError) as caught:
        plan_slide(slide, etag="e", spec=spec)
    assert caught.value.reason == "no_stain"
