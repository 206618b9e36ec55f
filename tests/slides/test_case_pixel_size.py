"""The pixel size, and levels, whatever the codec; lossless pixels are those of OpenSlide."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from slides.case_files import (
    HALF_UM,
    LOSSLESS,
    MPP,
    SLIDE,
    SPEC,
    check_refused,
    encoded_tiles,
    level_pixels,
    ome,
    open_path,
    page_of,
    shrunk,
    with_levels_below,
    write_tiff,
)
from slides.tiff_files import ASCII, SHORT, Value, page, resolution

from uadray.errors import SlideError
from uadray.slides.openslide import OpenSlideSlide
from uadray.slides.tiff.slide import TiffSlide
from uadray.tiles.plan import plan_slide


@pytest.mark.parametrize("codec", ["JPEG", *LOSSLESS])
@pytest.mark.parametrize("tags", [{}, resolution(2.0)], ids=["XML alone", "and other tags"])
def test_an_ome_tiff_says_the_same_in_every_codec(tmp_path: Path, codec: str, tags: dict[str, Value]) -> None:
    whole = with_levels_below(codec, **ome(f'Name="a"|{HALF_UM}'), **tags)
    with open_path(write_tiff(tmp_path / "s.ome.tif", [whole], big=True)) as slide:
        assert slide.mpp == 0.5
        assert slide.level_sizes_px == ((256, 256), (128, 128), (64, 64))
        for level, n in enumerate((1, 2, 4)):
            difference = np.abs(level_pixels(slide, level).astype(int) - shrunk(SLIDE, n))
            assert difference.mean() < 12 if codec == "JPEG" else difference.max() == 0


@pytest.mark.parametrize("codec", LOSSLESS)
def test_lossless_pixels_are_openslides_and_damage_costs_one_tile(tmp_path: Path, codec: str) -> None:
    whole = page_of(SLIDE[:200], codec, **MPP)
    path = write_tiff(tmp_path / "s.tif", [whole, page_of(shrunk(SLIDE[:200]), codec, reduced=True)])
    with open_path(path) as fast, OpenSlideSlide.open(str(path), slide_id="s", mpp=None) as slow:
        assert isinstance(fast, TiffSlide)
        assert fast.mpp == pytest.approx(slow.mpp)
        for level in range(2):
            np.testing.assert_array_equal(level_pixels(fast, level), level_pixels(slow, level))
        assert fast.encoded_tile(0, 0, 0, 64, 64) is None
    damaged = bytearray(whole.tiles[1])
    damaged[len(damaged) // 2] ^= 1  # deflate has a check sum
    half = bytes(damaged[: len(damaged) // 2])
    whole.tiles[1] = bytes(damaged) if "deflate" in codec else half
    with open_path(write_tiff(path, [whole])) as slide:
        with pytest.raises(SlideError, match="data that cannot be decoded") as caught:
            slide.read_region(0, 64, 0, 64, 64)
        assert caught.value.reason == "unreadable"
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 64, 64), SLIDE[:64, :64])


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ('PhysicalSizeX="0.5" PhysicalSizeY="0.5"', 0.5),
        ('PhysicalSizeX="500" PhysicalSizeXUnit="nm" PhysicalSizeY="0.0005" PhysicalSizeYUnit="mm"', 0.5),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1" PhysicalSizeYUnit="pixel"', 0.25),
        ('SizeX="256"', 0.25),
        ('PhysicalSizeX="0,5" PhysicalSizeY="0,5"', "OME-XML .* gives '0,5' as um/px, .* decimal comma"),
        (
            'PhysicalSizeX="1" PhysicalSizeXUnit="furlong" PhysicalSizeY="1" PhysicalSizeYUnit="furlong"',
            "gives '1 furlong' as um/px",
        ),
        ('PhysicalSizeX="0.05" PhysicalSizeY="0.05"', "gives 0.05 um/px, which cannot be: no light microscope"),
    ],
)
@pytest.mark.parametrize("codec", ["JPEG", "deflate"])
def test_what_the_xml_says_is_understood_or_named(
    tmp_path: Path, codec: str, pixels: str, expected: float | str
) -> None:
    """The tags say 0.25, and count where the XML says nothing."""
    path = write_tiff(tmp_path / "s.tif", [page_of(SLIDE, codec, **ome(f"|{pixels}"), **resolution(0.25))])
    if isinstance(expected, str):
        check_refused(path, "no_mpp", expected)
    else:
        with open_path(path) as slide:
            assert slide.mpp == pytest.approx(expected)


def test_openslide_is_told_the_pixel_size_of_what_it_decodes(tmp_path: Path) -> None:
    """RGB and an alpha channel are OpenSlide's; it goes by the tags, and would say 2."""
    rgba = np.dstack([SLIDE, np.full((256, 256), 255, np.uint8)])
    whole = page(
        SLIDE, t258=(SHORT, [8] * 4), t259=(SHORT, [8]), t262=(SHORT, [2]), t277=(SHORT, [4]), t338=(SHORT, [2]),
        **ome(f"|{HALF_UM}"), **resolution(2.0),
    )  # fmt: skip
    whole.tiles = encoded_tiles(rgba, lambda tile: zlib.compress(tile.tobytes()))
    with open_path(write_tiff(tmp_path / "s.tif", [whole])) as slide:
        assert isinstance(slide, OpenSlideSlide)
        assert slide.mpp == 0.5
        np.testing.assert_array_equal(level_pixels(slide), SLIDE)


@pytest.mark.parametrize("name", ["deflate_xmlonly", "jpeg_xmlonly"])
def test_case_ome_pixel_size(data_dir: Path, name: str) -> None:
    with open_path(data_dir / "cases" / "06_ome_pixel_size" / f"{name}.ome.tif") as slide:
        assert slide.mpp == 0.5
        assert slide.level_sizes_px == ((1024, 1024), (512, 512), (256, 256))
        assert len(plan_slide(slide, etag="", spec=SPEC).tiles) > 0


APERIO_SIZES = {
    "0.4990": 0.499,
    "0,4990": "MPP in its Aperio description gives '0,4990' as um/px, which is no number .a decimal comma",
    "4.99e-2": "MPP in its Aperio description gives 0.0499 um/px, which cannot be",
    "49.9": "gives 49.9 um/px, which cannot be: above 20",
    "": "gives '' as um/px",
}


@pytest.mark.parametrize("text", APERIO_SIZES)
def test_aperios_pixel_size(tmp_path: Path, text: str) -> None:
    description = f"Aperio Image Library v12\r\n256x256|AppMag = 20|MPP = {text}|Left = 1,5\0".encode()
    path = write_tiff(tmp_path / "s.svs", [page(SLIDE, t270=(ASCII, description))])
    expected = APERIO_SIZES[text]
    if isinstance(expected, str):
        check_refused(path, "no_mpp", expected)
        with open_path(path, mpp=0.25) as slide:
            assert slide.mpp == 0.25
    else:
        with open_path(path) as slide:
            assert slide.mpp == expected


def test_case_pixel_size(data_dir: Path) -> None:
    folder = data_dir / "cases" / "11_pixel_size"
    check_refused(
        folder / "dpi300.tif", "no_mpp", r"resolution tag \(300 pixels per inch\) gives 84\.6667 um/px, .*print"
    )
    check_refused(
        folder / "ten_times_too_fine.tif", "no_mpp", r"gives 0\.05 um/px, which cannot be: no light microscope"
    )
