"""`open_slide`, tiles and thumbnails: on files painted here, and on real ones, against OpenSlide itself."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile

from uadray.errors import SlideError
from uadray.phantoms.pyramid import write_pyramid
from uadray.slides import openslide as openslide_module
from uadray.slides.opening import open_slide
from uadray.slides.pixel_size import level0_mpp, openslide_size
from uadray.slides.thumbnail import thumbnail
from uadray.slides.tile_reading import finer_level, read_tile

Make = Callable[..., Path]


def _picture(height: int, width: int) -> np.ndarray:
    """Smooth and different everywhere, so that a pixel's place shows in its colour."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 200 // width + 20, y * 200 // height + 20, (x + y) % 97 + 60], axis=-1).astype(np.uint8)


@pytest.fixture
def slide_path(tmp_path: Path) -> Path:
    return write_pyramid(tmp_path / "slide.tif", _picture(512, 768), mpp=0.5, tile_px=128, downsamples=(2, 4))


def _own_pixels(path: Path, level: int, x0: int, y0: int, side: int) -> np.ndarray:
    with openslide.OpenSlide(path) as handle:
        return np.asarray(handle.read_region((x0, y0), level, (side, side)))[..., :3]


@pytest.mark.parametrize(("x", "y"), [(0, 0), (100, 37), (704, 448)])
def test_level_0_is_openslides_own(slide_path: Path, x: int, y: int) -> None:
    with open_slide(slide_path, slide_id="s") as slide:
        tile = read_tile(slide, x_level0_px=x, y_level0_px=y, mpp=0.5, tile_px=64)
    np.testing.assert_array_equal(tile, _own_pixels(slide_path, 0, x, y, 64))


@pytest.mark.parametrize(("level", "mpp"), [(1, 1.0), (2, 2.0)])
def test_an_exact_pyramid_level_is_openslides_own(slide_path: Path, level: int, mpp: float) -> None:
    with open_slide(slide_path, slide_id="s") as slide:
        tile = read_tile(slide, x_level0_px=64, y_level0_px=128, mpp=mpp, tile_px=64)
    np.testing.assert_array_equal(tile, _own_pixels(slide_path, level, 64, 128, 64))


def test_a_resampled_tile_shows_the_place_it_names(slide_path: Path) -> None:
    """0.8 um/px from 0.5: each output pixel is 1.6 level-0 pixels, and red and green tell where it was."""
    with open_slide(slide_path, slide_id="s") as slide:
        tile = read_tile(slide, x_level0_px=201, y_level0_px=99, mpp=0.8, tile_px=64).astype(float)
    x = 201 + (np.arange(64) + 0.5) * 1.6
    y = 99 + (np.arange(64) + 0.5) * 1.6
    assert np.abs(tile[:, :, 0].mean(0) - (x * 200 / 768 + 19.5)).max() < 2
    assert np.abs(tile[:, :, 1].mean(1) - (y * 200 / 512 + 19.5)).max() < 2


def test_between_levels_the_finer_one_is_averaged(slide_path: Path) -> None:
    """1.5 um/px takes level 1 (1.0): equal to the area mean of OpenSlide's own level-1 pixels."""
    with open_slide(slide_path, slide_id="s") as slide:
        assert [finer_level(slide, m) for m in (0.5, 0.99, 1.0, 1.5, 2.0, 9.0)] == [0, 0, 1, 1, 2, 2]
        tile = read_tile(slide, x_level0_px=0, y_level0_px=0, mpp=1.5, tile_px=32)
    fine = np.repeat(np.repeat(_own_pixels(slide_path, 1, 0, 0, 48).astype(float), 2, 0), 2, 1)
    expected = fine.reshape(32, 3, 32, 3, 3).mean((1, 3))
    assert np.abs(tile - expected).max() <= 0.51


def test_outside_is_white(slide_path: Path) -> None:
    with open_slide(slide_path, slide_id="s") as slide:
        across = read_tile(slide, x_level0_px=736, y_level0_px=480, mpp=0.5, tile_px=64)
        beyond = read_tile(slide, x_level0_px=5000, y_level0_px=-400, mpp=0.5, tile_px=16)
        before = slide.read_region(0, -8, -8, 16, 16)
    assert (beyond == 255).all()
    assert (across[32:] == 255).all()
    assert (across[:, 32:] == 255).all()
    assert across[:32, :32].max() < 250
    assert (before[:8] == 255).all()
    np.testing.assert_array_equal(before[8:, 8:], _own_pixels(slide_path, 0, 0, 0, 8))


def test_transparent_is_white_and_half_transparent_half_white() -> None:
    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [100, 0, 200, 51]]], np.uint8)
    mixed = openslide_module._on_white(rgba)
    # 51 of 255 is a fifth: 0.2 * 100 + 0.8 * 255 = 224, 204, 244
    assert mixed.tolist() == [[[255, 255, 255], [10, 20, 30], [224, 204, 244]]]


def test_no_mpp_is_refused_and_the_manifest_gives_it(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "s.tif", _picture(64, 64), mpp=None, tile_px=64, downsamples=())
    with pytest.raises(SlideError, match="give them in the manifest's mpp column") as caught:
        open_slide(path, slide_id="s")
    assert caught.value.reason == "no_mpp"
    with open_slide(path, slide_id="s", mpp=0.25) as slide:
        assert slide.mpp == 0.25


def test_the_manifests_mpp_wins(slide_path: Path) -> None:
    with open_slide(slide_path, slide_id="s") as own, open_slide(slide_path, slide_id="s", mpp=0.25) as given:
        assert (own.mpp, given.mpp) == (pytest.approx(0.5), 0.25)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ("0.5", "0.6", "OpenSlide reads it, gives 0.5 x 0.6 um/px, which cannot be: pixels of a scanner are square"),
        ("84.67", "84.67", "gives 84.67 um/px, which cannot be: above 20 um/px .* resolution for print"),
        ("20.1", "20.1", "above 20 um/px"),
        ("0.079", "0.079", "gives 0.079 um/px, which cannot be: no light microscope samples below 0.08 um/px"),
        ("-0.5", "-0.5", "no light microscope"),
        ("nan", "0.5", "gives 'nan' as um/px, which is no number; give the right value in the manifest's mpp column"),
        ("0,25", "0,25", r"gives '0,25' as um/px, which is no number \(a decimal comma\?\)"),
    ],
)
def test_an_mpp_that_cannot_be_is_no_mpp(x: str, y: str, message: str) -> None:
    stated = openslide_size({"openslide.mpp-x": x, "openslide.mpp-y": y})
    with pytest.raises(SlideError, match=message) as caught:
        level0_mpp(stated, given=None, slide_id="s")
    assert caught.value.reason == "no_mpp"
    assert level0_mpp(stated, given=0.25, slide_id="s") == 0.25


@pytest.mark.parametrize("given", [0.05, 84.7])
def test_an_mpp_of_the_manifest_that_cannot_be_is_no_mpp(slide_path: Path, given: float) -> None:
    with pytest.raises(SlideError, match=f"the manifest gives {given} um/px, which cannot be: .*correct it") as caught:
        open_slide(slide_path, slide_id="s", mpp=given)
    assert caught.value.reason == "no_mpp"


def test_nearly_square_pixels_are_averaged() -> None:
    stated = openslide_size({"openslide.mpp-x": "0.2525", "openslide.mpp-y": "0.2527"})
    assert level0_mpp(stated, given=None, slide_id="s") == 0.2526


@pytest.mark.parametrize(("wanted", "fits"), [(0.46, True), (0.455, True), (0.45, False), (0.25, False)])
def test_too_coarse(slide_path: Path, wanted: float, fits: bool) -> None:
    with open_slide(slide_path, slide_id="s") as slide:
        if fits:
            assert read_tile(slide, x_level0_px=0, y_level0_px=0, mpp=wanted, tile_px=32).shape == (32, 32, 3)
            return
        with pytest.raises(SlideError, match=r"level 0 has 0\.5 um/px") as caught:
            read_tile(slide, x_level0_px=0, y_level0_px=0, mpp=wanted, tile_px=32)
    assert caught.value.reason == "too_coarse"


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="no such file") as caught:
        open_slide(tmp_path / "none.svs", slide_id="s")
    assert caught.value.reason == "missing"


@pytest.mark.parametrize("content", [b"", b"not a slide", b"II*\0" + b"\0" * 60])
def test_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.svs"
    path.write_bytes(content)
    with pytest.raises(SlideError, match=r"OpenSlide cannot open bad\.svs") as caught:
        open_slide(path, slide_id="s", mpp=0.5)
    assert caught.value.reason == "unreadable"


def test_a_folder_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(SlideError) as caught:
        open_slide(tmp_path, slide_id="s", mpp=0.5)
    assert caught.value.reason == "unreadable"


def test_one_broken_tile_leaves_the_others_readable(slide_path: Path) -> None:
    """An OpenSlide handle stays in error after the first one; the slide must not."""
    with tifffile.TiffFile(slide_path) as file:
        offset, count = file.pages[0].dataoffsets[1], file.pages[0].databytecounts[1]
    data = bytearray(slide_path.read_bytes())
    data[offset : offset + count] = bytes(count)
    slide_path.write_bytes(data)
    with open_slide(slide_path, slide_id="s") as slide:
        for _ in range(2):
            with pytest.raises(SlideError, match="pixels at") as caught:
                read_tile(slide, x_level0_px=128, y_level0_px=0, mpp=0.5, tile_px=128)
            assert caught.value.reason == "unreadable"
            tile = read_tile(slide, x_level0_px=256, y_level0_px=0, mpp=0.5, tile_px=128)
            np.testing.assert_array_equal(tile, _own_pixels(slide_path, 0, 256, 0, 128))


def test_thumbnail(slide_path: Path) -> None:
    with open_slide(slide_path, slide_id="s") as slide:
        image, mpp = thumbnail(slide)
    assert image.shape == (64, 96, 3)
    assert mpp == pytest.approx(4.0)
    expected = cv2.resize(_picture(512, 768), (96, 64), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(image.astype(int) - expected).mean() < 3


def test_thumbnail_in_strips_is_the_same(tmp_path: Path) -> None:
    """A slide without pyramid, tall enough for several strips, has no seams: its grey rises from top to bottom."""
    ramp = np.linspace(20, 220, 9000).round().astype(np.uint8)
    tall = np.broadcast_to(ramp[:, None, None], (9000, 2000, 3))
    path = write_pyramid(tmp_path / "tall.tif", np.ascontiguousarray(tall), mpp=4.0, tile_px=512, downsamples=())
    with open_slide(path, slide_id="s") as slide:
        image, mpp = thumbnail(slide)
    assert image.shape == (4096, 910, 3)
    assert mpp == pytest.approx(4.0 * 9000 / 4096, rel=1e-3)
    rows = image.astype(float).mean((1, 2))
    assert np.abs(rows - (20 + 200 * (np.arange(4096) + 0.5) / 4096)).max() < 1.5


WSI = {
    "CMU-1-Small-Region.svs": "opens",
    "boxes.tiff": "no_mpp",
    "boxes_0.dcm": "opens",
    "boxes_1.dcm": "opens",
    "broken.svs": "unreadable",
    "jpeg.dicom": "opens",
    "small.svs": "opens",
    "tcga-cr-7395-01a-01-ts1.svs": "no_mpp",
    "unopenable.tiff": "unreadable",
    "unreadable.svs": "unreadable",
}


def _look(path: Path) -> None:
    """Open, overview, one tile: what a screening does first."""
    with open_slide(path, slide_id=path.name) as slide:
        image, mpp = thumbnail(slide)
        tile = read_tile(slide, x_level0_px=0, y_level0_px=0, mpp=slide.mpp * 1.3, tile_px=48)
    assert image.ndim == 3
    assert mpp > 0
    assert tile.shape == (48, 48, 3)


@pytest.mark.parametrize("name", [name for name, state in WSI.items() if state == "opens"])
def test_real_files_open(data_dir: Path, name: str) -> None:
    _look(data_dir / "wsi" / name)


@pytest.mark.parametrize("name", [name for name, state in WSI.items() if state != "opens"])
def test_real_files_end_in_a_named_state(data_dir: Path, name: str) -> None:
    with pytest.raises(SlideError) as caught:
        _look(data_dir / "wsi" / name)
    assert (caught.value.slide_id, caught.value.reason) == (name, WSI[name])


def test_every_real_file_is_in_the_table(data_dir: Path) -> None:
    assert {path.name for path in (data_dir / "wsi").iterdir()} == set(WSI)


def test_real_slide_without_mpp_opens_with_the_manifests(data_dir: Path) -> None:
    """JPEG 2000, two levels, from TCGA; its centre, which is tissue."""
    path = data_dir / "wsi" / "tcga-cr-7395-01a-01-ts1.svs"
    with open_slide(path, slide_id="t", mpp=0.25) as slide:
        x, y = (side // 2 for side in slide.level_sizes_px[0])
        tile = read_tile(slide, x_level0_px=x, y_level0_px=y, mpp=0.25, tile_px=64)
        assert len(slide.level_sizes_px) == len(slide.downsamples) == 2
    assert tile.std() > 5
    np.testing.assert_array_equal(tile, _own_pixels(path, 0, x, y, 64))
