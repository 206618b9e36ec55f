"""One slide -> shards: whose bytes are kept, which tiles are left out, and how they lie in the files."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from seaweed import SeaweedServer
from tile_sets import FILE_GRID, cut, two_slides, write_slide, written_tiles

from uadray.phantoms.pyramid import write_pyramid
from uadray.slides.manifest import SlideRow
from uadray.slides.opening import open_slide
from uadray.slides.thumbnail import thumbnail
from uadray.slides.tile_reading import read_tile
from uadray.storage import objects
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import StainConfig
from uadray.tiles.stain_fit import fit_stain
from uadray.tilesets import cutting, shards
from uadray.tilesets.containers import is_tile_set, kind, list_tiles, read_tiles


@pytest.fixture
def rows(tmp_path: Path) -> list[SlideRow]:
    return two_slides(tmp_path)


def test_the_files_own_bytes_are_kept_where_they_are_the_tile(rows: list[SlideRow], tmp_path: Path) -> None:
    out = str(tmp_path / "set")
    a, b = cut(rows, FILE_GRID, out).slides
    assert (a.n_tiles, a.kept, a.unreadable) == (16, 16, 0)
    assert (b.n_tiles, b.kept, b.unreadable) == (12, 9, 0), "the lowest row of b reaches over the edge"
    read = {ref.tile_id: image for ref, image, _ in read_tiles(out, list_tiles(out))}
    for tile_id, row in written_tiles(out).items():
        slide = next(r for r in rows if r.slide_id == row["slide_id"])
        with open_slide(slide.uri, slide_id=slide.slide_id) as opened:
            pixels = read_tile(
                opened, x_level0_px=row["x_level0_px"], y_level0_px=row["y_level0_px"], mpp=1.0, tile_px=128
            )
        image = read[tile_id]
        assert image is not None
        if row["format"] == "jpeg":
            np.testing.assert_array_equal(image, pixels)
        else:
            assert row["format"] == "jpeg 4:4:4 q90"
            assert row["y_level0_px"] == 384
            assert np.abs(image.astype(int) - pixels).mean() < 3
        assert (row["label"], row["mpp"], row["width_level0_px"]) == ("normal", 1.0, 128)
        assert row["tissue_fraction"] >= 0.5


def test_resampled_tiles_are_encoded_at_the_asked_quality(rows: list[SlideRow], tmp_path: Path) -> None:
    spec = TileSpec(mpp=1.5, tile_px=64, quality=None)
    sizes = []
    for quality in (50, 95):
        out = str(tmp_path / f"q{quality}")
        (slide,) = cut(rows[:1], spec, out, quality=quality).slides
        assert slide.kept == 0
        assert {row["format"] for row in written_tiles(out).values()} == {f"jpeg 4:4:4 q{quality}"}
        sizes.append(slide.bytes)
    assert sizes[1] > 1.5 * sizes[0]


def test_what_is_out_of_focus_is_left_out_and_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = np.array([210, 110, 180], np.uint8) - rng.integers(0, 80, (512, 512, 3), dtype=np.uint8)
    image[:, 256:] = cv2.resize(image[::8, 256::8], (256, 512), interpolation=cv2.INTER_CUBIC)
    write_pyramid(tmp_path / "half.tif", image, mpp=1.0, tile_px=128)
    rows = [SlideRow("half", str(tmp_path / "half.tif"))]
    (whole,) = cut(rows, TileSpec(mpp=1.0, tile_px=128), str(tmp_path / "whole")).slides
    (quarters,) = cut(rows, TileSpec(mpp=1.0, tile_px=64), str(tmp_path / "quarters")).slides
    assert (whole.n_tiles, whole.kept) == (8, 8)
    assert {row["x_level0_px"] for row in written_tiles(str(tmp_path / "whole")).values()} == {0, 128}
    assert (quarters.n_tiles, quarters.kept) == (32, 0)
    assert max(row["x_level0_px"] for row in written_tiles(str(tmp_path / "quarters")).values()) < 256


def test_tiles_of_normalised_slides_are_encoded_anew(rows: list[SlideRow], tmp_path: Path) -> None:
    with open_slide(rows[0].uri, slide_id="a") as slide:
        image, _ = thumbnail(slide)
    reference = fit_stain(image, StainConfig())
    bluer = reference.model_copy(update={"maxima": tuple(2 * m for m in reference.maxima)})
    darkness = {}
    for name, stain, n_kept in (("plain", None, 16), ("normalised", StainConfig(reference=bluer), 0)):
        out = str(tmp_path / name)
        (cut_tiles,) = cut(rows[:1], FILE_GRID.model_copy(update={"stain": stain}), out).slides
        assert cut_tiles.kept == n_kept
        pictures = [picture for _, picture, _ in read_tiles(out, list_tiles(out)) if picture is not None]
        darkness[name] = np.mean([255 - picture.mean() for picture in pictures])
    assert darkness["normalised"] > 1.2 * darkness["plain"]


def test_random_tiles_follow_from_seed_and_slide(rows: list[SlideRow], tmp_path: Path) -> None:
    drawn = []
    for name, seed in (("x", 0), ("y", 0), ("z", 1)):
        cut(rows[:1], FILE_GRID, str(tmp_path / name), tiles_per_slide=6, seed=seed)
        drawn.append(set(written_tiles(str(tmp_path / name))))
    assert len(drawn[0]) == 6
    assert drawn[0] == drawn[1] != drawn[2]


def test_row_groups_are_samples_of_a_slide(tmp_path: Path) -> None:
    row = write_slide(tmp_path / "a.tif", 1, size=(1024, 1024))
    out = str(tmp_path / "set")
    tile_set = cut([row], TileSpec(mpp=1.0, tile_px=32, quality=None), out)
    runs = shards.folder_ranges(out, tile_set)
    assert [run.stop - run.start for _, run in runs] == [64] * 16
    assert [run.first_tile for _, run in runs] == list(range(0, 1024, 64))
    for _, run in runs:
        y = [values["y_level0_px"] for values in shards.read_range(run, ("y_level0_px",))]
        assert np.ptp(y) > 700


def test_a_large_slide_has_several_shards(
    rows: list[SlideRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, split = str(tmp_path / "whole"), str(tmp_path / "split")
    (one,) = cut(rows[:1], FILE_GRID, whole).slides
    monkeypatch.setattr(cutting, "SHARD_BYTES", one.bytes // 4)
    (slide,) = cut(rows[:1], FILE_GRID, split).slides
    assert len(one.shards) == 1
    assert len(slide.shards) == len(slide.rows) > 2
    assert (slide.n_tiles, slide.kept) == (16, 16)
    images = [{k: row["image"] for k, row in written_tiles(folder).items()} for folder in (whole, split)]
    assert images[0] == images[1]


@pytest.mark.s3
def test_from_s3_to_s3(s3: SeaweedServer, rows: list[SlideRow], tmp_path: Path) -> None:
    base = f"s3://{s3.bucket}/cutting"
    for row in rows:
        objects.write_bytes(f"{base}/{row.slide_id}.tif", Path(row.uri).read_bytes())
    there = [SlideRow(row.slide_id, f"{base}/{row.slide_id}.tif", label=row.label) for row in rows]
    assert cut(there, FILE_GRID, f"{base}/set", tiles_per_slide=9).n_tiles == 18
    assert kind(f"{base}/set") == "shards"
    assert is_tile_set(f"{base}/set")
    local = str(tmp_path / "set")
    cut(rows, FILE_GRID, local, tiles_per_slide=9)
    here = {ref.tile_id: image for ref, image, _ in read_tiles(local, list_tiles(local))}
    for ref, image, error in read_tiles(f"{base}/set", list_tiles(f"{base}/set")):
        assert error is None
        np.testing.assert_array_equal(image, here[ref.tile_id])
