"""The same TIFF, opened by this package and by OpenSlide."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from slides.tiff_files import ASCII, SHORT, Page, build, page, picture, resolution

from uadray.slides.opening import open_slide
from uadray.slides.openslide import OpenSlideSlide
from uadray.slides.slide import Slide
from uadray.slides.tiff.slide import TiffSlide
from uadray.tiles.grid import grid
from uadray.tiles.spec import TileSpec

MPP = resolution(0.5)


def open_fast(path: Path, **options: float) -> TiffSlide:
    slide = open_slide(path, slide_id=path.name, **options)
    assert isinstance(slide, TiffSlide)
    return slide


def open_by_openslide(path: Path, mpp: float | None = None) -> OpenSlideSlide:
    return OpenSlideSlide.open(str(path), slide_id=path.name, mpp=mpp)


def write_tiff(path: Path, pages: list[Page], **options: object) -> Path:
    path.write_bytes(build(pages, **options))  # type: ignore[arg-type]
    return path


KINDS: dict[str, Callable[[], dict[str, object]]] = {
    "BigTIFF": lambda: {"pages": [page(picture(100, 140), **MPP)], "big": True},
    "big-endian BigTIFF": lambda: {"pages": [page(picture(100, 140), **MPP)], "big": True, "order": ">"},
    "4:2:2": lambda: {"pages": [page(picture(100, 140), subsampling="422", **MPP)]},
    "4:4:4": lambda: {"pages": [page(picture(100, 140), subsampling="444", **MPP)]},
    "inches": lambda: {"pages": [page(picture(64, 64), **MPP | {"t296": (SHORT, [2])})]},
    "no unit": lambda: {"pages": [page(picture(64, 64), **{k: v for k, v in MPP.items() if k != "t296"})]},
    "levels out of order": lambda: {
        "pages": [
            page(picture(200, 260), **MPP),
            page(picture(50, 65), reduced=True),
            page(picture(100, 130), reduced=True),
        ]
    },
    "a page that is no level": lambda: {
        "pages": [
            page(picture(100, 140), **MPP),
            page(picture(60, 60), t285=(ASCII, b"Macro\0")),
            page(cv2.resize(picture(100, 140), (70, 50), interpolation=cv2.INTER_AREA), reduced=True),
        ]
    },
    "Aperio": lambda: {
        "pages": [
            page(picture(100, 140), t270=(ASCII, b"Aperio Image Library v12\r\n140x100|AppMag = 20|MPP = 0.4980\0")),
            page(picture(50, 70), t270=(ASCII, b"Aperio Image Library v12\r\n\0")),
        ]
    },
}


def whole_grid(slide: Slide, spec: TileSpec) -> object:
    return grid(
        "s", slide.level_sizes_px[0], slide.mpp, np.ones((4, 4), np.bool_), spec.model_copy(update={"min_tissue": 0.0})
    )
