"""Files of the kinds that went wrong elsewhere: other codecs, levels, descriptions, gaps."""

import io
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from slides.tiff_files import ASCII, SHORT, Page, Value, build, page, picture, resolution

from uadray.errors import SlideError
from uadray.slides.opening import open_slide
from uadray.slides.slide import Slide
from uadray.tiles.plan import plan_slide
from uadray.tiles.spec import TileSpec

MPP = resolution(0.5)

SPEC = TileSpec(mpp=1.0, tile_px=64)


def write_tiff(path: Path, pages: Sequence[Page], **options: object) -> Path:
    """Write pages as a TIFF."""
    path.write_bytes(build(pages, **options))  # type: ignore[arg-type]
    return path


def open_path(path: Path, **options: object) -> Slide:
    """Open a slide called `s`."""
    return open_slide(path, slide_id="s", **options)  # type: ignore[arg-type]


def level_pixels(slide: Slide, level: int = 0) -> np.ndarray:
    """All pixels of a level."""
    return slide.read_region(level, 0, 0, *slide.level_sizes_px[level])


def check_refused(path: Path, reason: str, message: str) -> None:
    """The slide cannot be opened or planned, for this reason and with this message, on one line."""
    with pytest.raises(SlideError, match=message) as caught, open_path(path) as slide:
        plan_slide(slide, etag="", spec=SPEC)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def shrunk(image: np.ndarray, n: int = 2) -> np.ndarray:
    """An image divided by a whole number."""
    width, height = image.shape[1] // n, image.shape[0] // n
    used = image[: n * height, : n * width]
    return np.asarray(cv2.resize(used, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def encoded_tiles(image: np.ndarray, encode: Callable[[np.ndarray], bytes], tile_px: int = 64) -> list[bytes]:
    """The file tiles of an image, padded at its edges."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % tile_px), (0, -width % tile_px), (0, 0)), mode="edge")
    return [
        encode(np.ascontiguousarray(padded[y : y + tile_px, x : x + tile_px]))
        for y in range(0, height, tile_px)
        for x in range(0, width, tile_px)
    ]


def ome(*images: str) -> dict[str, Value]:
    """A description of images: `Name="a"` and what else their Pixels have."""
    text = "".join(
        f'<Image ID="Image:{i}" {image.partition("|")[0]}><Pixels ID="Pixels:{i}" {image.partition("|")[2]}>'
        f'<Channel ID="Channel:{i}:0" SamplesPerPixel="3"/><TiffData IFD="{i}" PlaneCount="1"/></Pixels></Image>'
        for i, image in enumerate(images)
    )
    return {"t270": (ASCII, f'<?xml version="1.0" encoding="UTF-8"?><OME>{text}</OME>'.encode() + b"\0")}


HALF_UM = 'PhysicalSizeX="0.5" PhysicalSizeY="0.5" PhysicalSizeXUnit="\u00b5m" PhysicalSizeYUnit="\u00b5m"'

TWO_UM = 'PhysicalSizeX="2" PhysicalSizeY="2"'

SLIDE, OTHER = picture(256, 256), picture(256, 256, seed=1)

APERIO = {"t270": (ASCII, b"Aperio Image Library v12\r\n256x256|MPP = 0.5\0")}


def lzw(tile: np.ndarray) -> bytes:
    """A tile as TIFF's LZW."""
    sink = io.BytesIO()
    Image.fromarray(tile).save(sink, "TIFF", compression="tiff_lzw", strip_size=2**30)
    with Image.open(io.BytesIO(sink.getvalue())) as image:
        (start,), (length,) = image.tag_v2[273], image.tag_v2[279]
    return sink.getvalue()[start : start + length]


def differences(tile: np.ndarray) -> bytes:
    """A tile as deflate of differences along each row."""
    first = tile[:, :1]
    return zlib.compress(np.concatenate([first, np.diff(tile, axis=1)], axis=1).tobytes())


LOSSLESS: dict[str, tuple[int, int, Callable[[np.ndarray], bytes]]] = {
    "none": (1, 1, lambda tile: tile.tobytes()),
    "LZW": (5, 1, lzw),
    "deflate": (8, 1, lambda tile: zlib.compress(tile.tobytes())),
    "old deflate": (32946, 1, lambda tile: zlib.compress(tile.tobytes())),
    "deflate of differences": (8, 2, differences),
}


def page_of(image: np.ndarray, codec: str, *, reduced: bool = False, **tags: Value) -> Page:
    """A page of an image in any codec."""
    if codec == "JPEG":
        return page(image, reduced=reduced, **tags)
    compression, predictor, encode = LOSSLESS[codec]
    found = page(
        image, reduced=reduced, t259=(SHORT, [compression]), t262=(SHORT, [2]), t317=(SHORT, [predictor]), **tags
    )
    found.tiles = encoded_tiles(image, encode)
    return found


def with_levels_below(codec: str, **tags: Value) -> Page:
    """A page with two smaller levels in sub-directories."""
    whole = page_of(SLIDE, codec, **tags)
    whole.below = [page_of(shrunk(SLIDE, n), codec, reduced=True) for n in (2, 4)]
    return whole


def pyramid_with_gaps(codec: str, gaps: dict[int, list[int]], **tags: Value) -> list[Page]:
    """Four levels of 512 px; of each, tiles that are not there."""
    image = picture(512, 512)
    pages = [page_of(shrunk(image, 2**i), codec, reduced=i > 0, **(tags if i == 0 else {})) for i in range(4)]
    for level, absent in gaps.items():
        for number in absent:
            pages[level].tiles[number] = b""
    return pages
