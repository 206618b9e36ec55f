"""The pixels of planned tiles, with tiles that cannot be read among them."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiles.painted_slides import damage, painted_slide

from uadray.phantoms.pyramid import write_pyramid
from uadray.slides.opening import open_slide
from uadray.slides.thumbnail import thumbnail
from uadray.slides.tile_reading import read_tile
from uadray.tiles.chunks import chunk_tiles, normalizer_of, read_chunk, read_chunks
from uadray.tiles.plan import plan_slide
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import StainConfig
from uadray.tiles.stain_fit import fit_stain

SPEC = TileSpec(mpp=1.0, tile_px=64)


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


def test_a_broken_part_costs_its_own_tiles_only(tmp_path: Path) -> None:
    """One of level 0's 128 px blocks is zeroed: the four 64 px tiles on it have an error, the other 124 pixels."""
    path = painted_slide(tmp_path / "s.tif")
    with open_slide(path, slide_id="s") as slide:
        plan = plan_slide(slide, etag="", spec=SPEC)
        whole = read_chunk(slide, plan.tiles, spec=SPEC)
    damage(path, level=0, tile=8 + 2)  # second row, third column: x 256-383, y 128-255
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


def test_real_mosaic(data_dir: Path) -> None:
    path = data_dir / "mosaics" / "normal_calib" / "ncalib_000.tif"
    spec = TileSpec(mpp=0.972, tile_px=96)
    with open_slide(path, slide_id="m") as slide:
        plan = plan_slide(slide, etag="", spec=spec)
        chunk = read_chunk(slide, plan.tiles, spec=spec)
    assert 30 < len(plan.tiles) <= 83
    assert not any(chunk.errors)
    assert chunk.pixels.mean((1, 2, 3)).max() < 235
    assert 1 < np.nanmedian(chunk.focus) < 5


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
    focus = dict(zip(chunk.tiles["x_level0_px"].to_pylist(), chunk.focus, strict=True))
    assert focus[448] < 0.4


def test_stain_is_normalised_to_the_reference(data_dir: Path) -> None:
    folder = data_dir / "mosaics" / "normal_train"
    names = [row["slide_id"] for row in csv.DictReader((folder / "manifest.csv").read_text().splitlines())][:2]
    paths = [next(folder.glob(f"**/{name}.tif*")) for name in names]
    plain = TileSpec(mpp=0.972, tile_px=96)
    with open_slide(paths[1], slide_id="r") as slide:
        reference = fit_stain(thumbnail(slide)[0], StainConfig())
    spec = plain.model_copy(update={"stain": StainConfig(reference=reference)})
    with open_slide(paths[0], slide_id="a") as slide:
        plan = plan_slide(slide, etag="e", spec=spec)
        before = read_chunk(slide, plan.tiles, spec=plain)
        after = read_chunk(slide, plan.tiles, spec=spec, normalise=normalizer_of(plan.stain, spec))
        refit = fit_stain(after.pixels.reshape(1, -1, 3)[:, ::7], StainConfig())
    assert before.flags == after.flags, "quality is looked at before colours are changed"
    assert np.abs(before.pixels.astype(int) - after.pixels).mean() > 1
    for name in ("haematoxylin", "eosin"):
        cosine = float(np.dot(getattr(refit, name), getattr(reference, name)))
        assert cosine > np.cos(np.radians(8)), f"{name} is {np.degrees(np.arccos(cosine)):.1f} degrees off"
