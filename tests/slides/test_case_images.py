"""Which image of a file is the slide, and which others are named because they would not be read."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from slides.case_files import (
    APERIO,
    HALF_UM,
    MPP,
    OTHER,
    SLIDE,
    SPEC,
    TWO_UM,
    check_refused,
    level_pixels,
    ome,
    open_path,
    shrunk,
    write_tiff,
)
from slides.tiff_files import ASCII, SHORT, Page, Value, page, resolution

from uadray.tiles.plan import plan_slide

BITS_16 = {"t258": (SHORT, [16, 16, 16])}


SEVERAL: dict[str, tuple[str, Callable[[], list[Page]]]] = {
    "two pages": (
        r"page 1 \(256 x 256 px\) would be read, and not page 2 \(256 x 256 px\)",
        lambda: [page(SLIDE, **MPP), page(OTHER, **MPP)],
    ),
    "a smaller one of another shape": (
        r"not page 2 \(96 x 64 px\)",
        lambda: [page(SLIDE, **MPP), page(OTHER[:64, :96])],
    ),
    "a larger one behind": (
        r"page 2 \(256 x 256 px\) would be read, and not page 1 \(200 x 128 px\)",
        lambda: [page(OTHER[:128, :200], **MPP), page(SLIDE, **MPP)],
    ),
    "one of half the size": (
        r"page 2 \(128 x 128 px\) has the size of a smaller level and does not show what page 1",
        lambda: [page(SLIDE, **MPP), page(shrunk(OTHER))],
    ),
    "each with levels that are marked": (
        r"not page 3 \(256 x 256 px\)",
        lambda: [page(SLIDE, **MPP), page(shrunk(SLIDE), reduced=True), page(OTHER), page(shrunk(OTHER), reduced=True)],
    ),
    "OME": (
        r"not page 2 \(256 x 256 px\)",
        lambda: [page(SLIDE, **ome(f'Name="a"|{HALF_UM}', f'Name="b"|{HALF_UM}')), page(OTHER)],
    ),
    "OME, without names and sizes": (r"not page 2", lambda: [page(SLIDE, **ome("|", "|"), **MPP), page(OTHER)]),
    "Aperio": (r"not page 2 \(192 x 256 px\)", lambda: [page(SLIDE, **APERIO), page(OTHER[:, :192], **APERIO)]),
    "marked as reduced, and as large": (r"not page 2", lambda: [page(SLIDE, **MPP), page(OTHER, reduced=True)]),
    "what OpenSlide reads": (r"not page 2", lambda: [page(SLIDE, **MPP, **BITS_16), page(OTHER, **BITS_16)]),
    "levels that only OpenSlide decodes, and does not see": (
        r"not page 2 \(128 x 128 px\): .* mark it so \(NewSubfileType 1\)",
        lambda: [page(SLIDE, **MPP, **BITS_16), page(shrunk(SLIDE), **BITS_16)],
    ),
}


@pytest.mark.parametrize("case", SEVERAL)
@pytest.mark.parametrize("big", [False, True], ids=["classic", "big"])
def test_images_that_would_not_be_read_are_named(tmp_path: Path, case: str, big: bool) -> None:
    message, pages = SEVERAL[case]
    check_refused(write_tiff(tmp_path / "s.tif", pages(), big=big), "several_images", message)


def test_a_second_page_in_strips_is_an_image_too(tmp_path: Path) -> None:
    other = page(OTHER)
    strips = Page({code: value for code, value in other.tags.items() if code not in (322, 323)}, other.tiles)
    check_refused(write_tiff(tmp_path / "s.tif", [page(SLIDE, **MPP), strips]), "several_images", "not page 2")


def _not_to_be_decoded(image: np.ndarray, **tags: Value) -> Page:
    found = page(image, **tags)
    found.tiles = [b"\xff\xd8 nobody looks here" for _ in found.tiles]
    return found


BESIDE: dict[str, Callable[[], list[Page]]] = {
    "a macro image by its page's name": lambda: [
        page(SLIDE, **MPP),
        _not_to_be_decoded(OTHER[:100], t285=(ASCII, b"Macro\0")),
    ],
    "a label by its description": lambda: [
        page(SLIDE, **MPP),
        _not_to_be_decoded(OTHER, t270=(ASCII, b"label 256x256\0")),
    ],
    "a macro image marked as reduced": lambda: [
        page(SLIDE, **MPP),
        replace(_not_to_be_decoded(OTHER[:100]), tags=page(OTHER[:100], reduced=True).tags),
    ],
    "an overview before the slide": lambda: [
        _not_to_be_decoded(OTHER[:100], t285=(ASCII, b"overview\0"), **resolution(8)),
        page(SLIDE, **MPP),
        page(shrunk(SLIDE), reduced=True),
    ],
    "OME: macro and label": lambda: [
        page(SLIDE, **ome(f'Name="a"|{HALF_UM}', 'Name="macro image"|', 'Name="Label"|')),
        _not_to_be_decoded(OTHER),
        _not_to_be_decoded(OTHER[:60]),
    ],
    "OME: an overview before the slide": lambda: [
        _not_to_be_decoded(OTHER[:200], **ome('Name="Overview"|', f'Name="a"|{HALF_UM}')),
        page(SLIDE),
    ],
    "OME: an overview by its pixels": lambda: [
        _not_to_be_decoded(OTHER[:200, :200], **ome(f'Name="1"|{TWO_UM}', f'Name="2"|{HALF_UM}')),
        page(SLIDE),
    ],
    "Aperio: a tiled label": lambda: [
        page(SLIDE, **APERIO),
        _not_to_be_decoded(OTHER[:100], t270=(ASCII, b"Aperio Image Library v12\r\nlabel 256x100\0")),
    ],
    "too small to be a slide": lambda: [page(SLIDE, **MPP), _not_to_be_decoded(OTHER[:20, :30])],
}


@pytest.mark.parametrize("case", BESIDE)
def test_the_slide_is_read_and_what_is_none_is_not_decoded(tmp_path: Path, case: str) -> None:
    with open_path(write_tiff(tmp_path / "s.tif", BESIDE[case]())) as slide:
        assert slide.mpp == pytest.approx(0.5)
        assert slide.level_sizes_px[0] == (256, 256)
        assert np.abs(level_pixels(slide).astype(int) - SLIDE).mean() < 8


def test_case_scenes(data_dir: Path) -> None:
    folder = data_dir / "cases" / "04_scenes"
    check_refused(folder / "two_scenes.ome.tif", "several_images", r"not page 2 \(1024 x 1024 px\)")
    with open_path(folder / "second_alone.ome.tif") as slide:
        assert len(plan_slide(slide, etag="", spec=SPEC).tiles) == 64
