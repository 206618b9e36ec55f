"""Levels that are not marked as such, and levels with missing tiles."""

from pathlib import Path

import numpy as np
import pytest
from slides.case_files import (
    APERIO,
    MPP,
    SPEC,
    check_refused,
    level_pixels,
    open_path,
    page_of,
    pyramid_with_gaps,
    shrunk,
    write_tiff,
)
from slides.tiff_files import page, picture

from uadray.slides.thumbnail import thumbnail
from uadray.slides.tile_reading import read_tile, tile_places
from uadray.tiles.chunks import read_chunks
from uadray.tiles.plan import plan_slide
from uadray.tiles.spec import TileSpec


@pytest.mark.parametrize("codec", ["JPEG", "deflate"])
@pytest.mark.parametrize("order", [(2, 4, 8), (8, 2, 4)])
def test_levels_that_are_not_marked_are_known_by_their_pixels(
    tmp_path: Path, codec: str, order: tuple[int, ...]
) -> None:
    image = picture(520, 771)
    pages = [page_of(image, codec, **MPP), *(page_of(shrunk(image, n), codec) for n in order)]
    with open_path(write_tiff(tmp_path / "s.tif", pages)) as slide:
        assert slide.level_sizes_px == ((771, 520), (385, 260), (192, 130), (96, 65))
        assert np.abs(level_pixels(slide, 2).astype(int) - shrunk(image, 4)).mean() < 8


def test_case_unmarked_levels(data_dir: Path) -> None:
    folder = data_dir / "cases" / "07_unmarked_levels"
    with open_path(folder / "large_marked.tif") as marked, open_path(folder / "large_unmarked.tif") as unmarked:
        assert unmarked.level_sizes_px == marked.level_sizes_px
        np.testing.assert_array_equal(*(thumbnail(slide)[0] for slide in (marked, unmarked)))


@pytest.mark.parametrize("codec", ["JPEG", "deflate"])
@pytest.mark.parametrize(
    ("gaps", "left"),
    [
        ({}, [512, 256, 128, 64]),
        ({3: [0]}, [512, 256, 128]),
        ({1: [5]}, [512, 128, 64]),
        ({1: [5], 2: [0, 1, 2, 3], 3: [0]}, [512]),
        ({0: [0, 1, 8, 9]}, [512, 256, 128, 64]),  # glass, drawn at the coarser levels
        ({0: [0, 1, 8, 9], 1: [0]}, [512, 256, 128, 64]),  # glass, at both
        ({0: [0, 1, 8, 9], 1: [0, 1]}, [512, 128, 64]),
    ],
)
def test_a_level_that_lacks_what_a_finer_one_has_is_not_used(
    tmp_path: Path, codec: str, gaps: dict[int, list[int]], left: list[int]
) -> None:
    with open_path(write_tiff(tmp_path / "s.tif", pyramid_with_gaps(codec, gaps, **MPP), big=True)) as slide:
        assert [width for width, _ in slide.level_sizes_px] == left
        assert len(slide.unused_levels) == 4 - len(left)
        for mpp in (1.0, 2.0, 4.0):
            tile = read_tile(slide, x_level0_px=256, y_level0_px=256, mpp=mpp, tile_px=16)
            assert tile.mean() < 200
        if 0 in gaps:
            assert (slide.read_region(0, 0, 0, 128, 128) == 255).all()


def test_aperio_with_gaps_is_read_from_finer_levels(tmp_path: Path) -> None:
    levels = [page(picture(128, 128), **APERIO), page(picture(64, 64), **APERIO)]
    levels[1].tiles[0] = b""
    with open_path(write_tiff(tmp_path / "s.svs", levels)) as slide:
        assert slide.level_sizes_px == ((128, 128),)
        assert thumbnail(slide)[0].mean() < 250


def test_a_slide_that_has_no_other_overview_says_which_level_has_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uadray.slides.thumbnail.OVERVIEW_MAX_PX", 200 * 200)
    gaps = {1: [0], 2: [0], 3: [0]}
    path = write_tiff(tmp_path / "s.tif", pyramid_with_gaps("JPEG", gaps, **MPP))
    check_refused(
        path, "no_overview", r"512 x 512 px; add pyramid levels \(not usable: page 2 \(256 x 256 px\), page 3"
    )


@pytest.mark.parametrize(
    ("name", "tiles"), [("whole", 256), ("coarse_half", 256), ("jpeg_coarse", 64), ("jpeg_glass", 64)]
)
def test_case_missing_tiles(data_dir: Path, name: str, tiles: int) -> None:
    with open_path(data_dir / "cases" / "09_missing_tiles" / f"{name}.tif") as slide:
        plan = plan_slide(slide, etag="", spec=SPEC)
        assert len(plan.tiles) == tiles
        for chunk in read_chunks(slide, plan.tiles, spec=SPEC):
            assert not any(chunk.errors)
            assert chunk.pixels.mean((1, 2, 3)).max() < 250


def test_tissue_that_is_not_in_the_file_is_an_error_and_glass_is_white(tmp_path: Path) -> None:
    """Level 0 lacks a quarter of the slide's tissue, and all of its glass (the right half)."""
    image = np.full((512, 1024, 3), 255, np.uint8)
    image[:, :512] = (180, 90, 150)
    pages = [page(image, **MPP), page(shrunk(image), reduced=True), page(shrunk(image, 4), reduced=True)]
    for row in range(8):
        for column in (*range(8, 16), *((0, 1, 2, 3) if row < 4 else ())):
            pages[0].tiles[16 * row + column] = b""
    spec = TileSpec(mpp=0.5, tile_px=64, quality=None)
    with open_path(write_tiff(tmp_path / "s.tif", pages)) as slide:
        plan = plan_slide(slide, etag="", spec=spec)
        assert (len(plan.tiles), plan.n_grid) == (64, 128)
        chunks = list(read_chunks(slide, plan.tiles, spec=spec))
        every = tile_places(slide, [0, 224, 256, 1000], [0, 0, 300, 500], mpp=0.5, tile_px=64)
        assert slide.missing_share(0, every.boxes).tolist() == [1, 0.5, 0, 24 * 12 / 64**2]
    errors = [error for chunk in chunks for error in chunk.errors]
    lost = (plan.tiles["x_level0_px"].to_numpy() < 256) & (plan.tiles["y_level0_px"].to_numpy() < 256)
    assert [error is not None for error in errors] == lost.tolist()
    assert {error for error in errors if error} == {"the overview shows tissue, and the file no pixels"}
