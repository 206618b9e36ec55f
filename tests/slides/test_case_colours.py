"""What the components of a JPEG are: what the JPEG says wins over the TIFF's tag."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from slides.case_files import (
    MPP,
    check_refused,
    encoded_tiles,
    level_pixels,
    open_path,
    shrunk,
    write_tiff,
)
from slides.tiff_files import ASCII, SHORT, page, picture

from uadray.slides.openslide import OpenSlideSlide


def _jfif(tile: np.ndarray, subsampling: str = "444") -> bytes:
    return bytes(simplejpeg.encode_jpeg(tile, 90, "RGB", colorsubsampling=subsampling))


def _bare(tile: np.ndarray, subsampling: str = "444") -> bytes:
    """YCbCr, without a marker that says so."""
    data = _jfif(tile, subsampling)
    return data[:2] + data[2 + 2 + int.from_bytes(data[4:6]) :]


def _adobe(data: bytes, transform: int) -> bytes:
    return data[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform]) + data[2:]


def _rgb(tile: np.ndarray, names: bytes) -> bytes:
    """Components that are red, green and blue, under these names, without a marker that says so."""
    sink = io.BytesIO()
    Image.fromarray(tile).save(sink, "JPEG", quality=90, keep_rgb=True)
    data = sink.getvalue()
    assert data[2:4] == b"\xff\xee"  # Adobe's marker, which is left out
    data = data[:2] + data[18:]
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    out = bytearray(data)
    for i, name in enumerate(names):
        out[frame + 10 + 3 * i] = out[scan + 5 + 2 * i] = name
    return bytes(out)


TAG_RGB, TAG_YCBCR = 2, 6


COLOURS: dict[str, tuple[int, Callable[[np.ndarray], bytes]]] = {
    "RGB over JFIF 4:4:4": (TAG_RGB, _jfif),
    "RGB over JFIF 4:2:2": (TAG_RGB, lambda tile: _jfif(tile, "422")),
    "RGB over JFIF 4:2:0": (TAG_RGB, lambda tile: _jfif(tile, "420")),
    "RGB over subsampled chroma alone": (TAG_RGB, lambda tile: _bare(tile, "420")),
    "RGB over Adobe's YCbCr": (TAG_RGB, lambda tile: _adobe(_bare(tile), 1)),
    "RGB over JFIF and Adobe's YCbCr": (TAG_RGB, lambda tile: _adobe(_jfif(tile), 1)),
    "YCbCr over Adobe's RGB": (TAG_YCBCR, lambda tile: _adobe(_rgb(tile, b"\1\2\3"), 0)),
    "YCbCr over components called R, G, B": (TAG_YCBCR, lambda tile: _rgb(tile, b"RGB")),
    "YCbCr over nothing": (TAG_YCBCR, _bare),
    "RGB over nothing, as Aperio writes": (TAG_RGB, lambda tile: _rgb(tile, b"\0\1\2")),
    "RGB over numbered components": (TAG_RGB, lambda tile: _rgb(tile, b"\1\2\3")),
}


@pytest.mark.parametrize("case", COLOURS)
def test_what_the_jpeg_says_of_its_colours_wins(tmp_path: Path, case: str) -> None:
    tag, encode = COLOURS[case]
    image = picture(128, 192)
    levels = [page(image, t262=(SHORT, [tag]), **MPP), page(shrunk(image), reduced=True, t262=(SHORT, [tag]))]
    for each, pixels in zip(levels, (image, shrunk(image)), strict=True):
        each.tiles = encoded_tiles(pixels, encode)
    for big in (False, True):
        with open_path(write_tiff(tmp_path / "s.tif", levels, big=big)) as slide:
            assert np.abs(level_pixels(slide).astype(int) - image).mean() < 8
            assert np.abs(level_pixels(slide, 1).astype(int) - shrunk(image)).mean() < 8


def test_the_shared_tables_may_say_it(tmp_path: Path) -> None:
    image = picture(64, 64)
    whole = page(image, t262=(SHORT, [TAG_RGB]), t347=(7, _adobe(b"\xff\xd8\xff\xd9", 1)), **MPP)
    whole.tiles = encoded_tiles(image, _bare)
    with open_path(write_tiff(tmp_path / "s.tif", [whole])) as slide:
        assert np.abs(level_pixels(slide).astype(int) - image).mean() < 8


@pytest.mark.parametrize(("tag", "refused"), [(TAG_RGB, True), (TAG_YCBCR, False)])
def test_openslide_is_not_given_what_it_would_show_in_other_colours(tmp_path: Path, tag: int, refused: bool) -> None:
    """A vendor's format, which OpenSlide decodes by the tag."""
    path = write_tiff(tmp_path / "s.tif", [page(picture(64, 64), t262=(SHORT, [tag]), t305=(ASCII, b"Philips DP\0"))])
    if refused:
        check_refused(path, "colours", r"page 1 is called RGB, and its JPEG tiles say that they are YCbCr\. OpenSlide")
    else:
        with open_path(path, mpp=0.5) as slide:
            assert isinstance(slide, OpenSlideSlide)


def test_case_colours(data_dir: Path) -> None:
    folder = data_dir / "cases" / "01_colour_declared"
    with open_path(folder / "right_420.tif") as right, open_path(folder / "saysrgb_420.tif") as other:
        for level in range(2):
            difference = np.abs(level_pixels(right, level).astype(int) - level_pixels(other, level))
            assert difference.mean() < 1
