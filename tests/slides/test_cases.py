"""Files that went wrong elsewhere, and others of their kinds: colours, scenes, pixel sizes, levels, gaps, thin, large.

The files of `cases/` end as its README says; painted ones show the kind: other codecs, tag orders, markers, and S3.
"""

import io
import tomllib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from packaging.requirements import Requirement
from PIL import Image
from seaweed import SeaweedServer
from slides.tiff_files import ASCII, LONG, SHORT, Page, Value, build, page, picture, resolution

from uadray.errors import SlideError
from uadray.phantoms.slides import write_pyramid
from uadray.slides.opening import open_slide
from uadray.slides.openslide import OpenSlideSlide
from uadray.slides.slide import Slide
from uadray.slides.thumbnail import thumbnail
from uadray.slides.tiff.slide import TiffSlide
from uadray.slides.tile_reading import read_tile, tile_places
from uadray.storage import objects
from uadray.tiles.chunks import read_chunks
from uadray.tiles.plan import plan_slide
from uadray.tiles.spec import TileSpec

MPP = resolution(0.5)
SPEC = TileSpec(mpp=1.0, tile_px=64)


def _write(path: Path, pages: Sequence[Page], **options: object) -> Path:
    path.write_bytes(build(pages, **options))  # type: ignore[arg-type]
    return path


def _open(path: Path, **options: object) -> Slide:
    return open_slide(path, slide_id="s", **options)  # type: ignore[arg-type]


def _level(slide: Slide, level: int = 0) -> np.ndarray:
    return slide.read_region(level, 0, 0, *slide.level_sizes_px[level])


def _refused(path: Path, reason: str, message: str) -> None:
    with pytest.raises(SlideError, match=message) as caught, _open(path) as slide:
        plan_slide(slide, etag="", spec=SPEC)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def _half(image: np.ndarray, n: int = 2) -> np.ndarray:
    width, height = image.shape[1] // n, image.shape[0] // n
    used = image[: n * height, : n * width]
    return np.asarray(cv2.resize(used, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


# What the components of a JPEG are


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


def _tiles(image: np.ndarray, encode: Callable[[np.ndarray], bytes], tile_px: int = 64) -> list[bytes]:
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % tile_px), (0, -width % tile_px), (0, 0)), mode="edge")
    return [
        encode(np.ascontiguousarray(padded[y : y + tile_px, x : x + tile_px]))
        for y in range(0, height, tile_px)
        for x in range(0, width, tile_px)
    ]


@pytest.mark.parametrize("case", COLOURS)
def test_what_the_jpeg_says_of_its_colours_wins(tmp_path: Path, case: str) -> None:
    tag, encode = COLOURS[case]
    image = picture(128, 192)
    levels = [page(image, t262=(SHORT, [tag]), **MPP), page(_half(image), reduced=True, t262=(SHORT, [tag]))]
    for each, pixels in zip(levels, (image, _half(image)), strict=True):
        each.tiles = _tiles(pixels, encode)
    for big in (False, True):
        with _open(_write(tmp_path / "s.tif", levels, big=big)) as slide:
            assert np.abs(_level(slide).astype(int) - image).mean() < 8
            assert np.abs(_level(slide, 1).astype(int) - _half(image)).mean() < 8


def test_the_shared_tables_may_say_it(tmp_path: Path) -> None:
    image = picture(64, 64)
    whole = page(image, t262=(SHORT, [TAG_RGB]), t347=(7, _adobe(b"\xff\xd8\xff\xd9", 1)), **MPP)
    whole.tiles = _tiles(image, _bare)
    with _open(_write(tmp_path / "s.tif", [whole])) as slide:
        assert np.abs(_level(slide).astype(int) - image).mean() < 8


@pytest.mark.parametrize(("tag", "refused"), [(TAG_RGB, True), (TAG_YCBCR, False)])
def test_openslide_is_not_given_what_it_would_show_in_other_colours(tmp_path: Path, tag: int, refused: bool) -> None:
    """A vendor's format, which OpenSlide decodes by the tag."""
    path = _write(tmp_path / "s.tif", [page(picture(64, 64), t262=(SHORT, [tag]), t305=(ASCII, b"Philips DP\0"))])
    if refused:
        _refused(path, "colours", r"page 1 is called RGB, and its JPEG tiles say that they are YCbCr\. OpenSlide")
    else:
        with _open(path, mpp=0.5) as slide:
            assert isinstance(slide, OpenSlideSlide)


def test_case_colours(data_dir: Path) -> None:
    folder = data_dir / "cases" / "01_colour_declared"
    with _open(folder / "right_420.tif") as right, _open(folder / "saysrgb_420.tif") as other:
        for level in range(2):
            difference = np.abs(_level(right, level).astype(int) - _level(other, level))
            assert difference.mean() < 1


# Which image is the slide, and whether others would not be read


def _ome(*images: str) -> dict[str, Value]:
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
        lambda: [page(SLIDE, **MPP), page(_half(OTHER))],
    ),
    "each with levels that are marked": (
        r"not page 3 \(256 x 256 px\)",
        lambda: [page(SLIDE, **MPP), page(_half(SLIDE), reduced=True), page(OTHER), page(_half(OTHER), reduced=True)],
    ),
    "OME": (
        r"not page 2 \(256 x 256 px\)",
        lambda: [page(SLIDE, **_ome(f'Name="a"|{HALF_UM}', f'Name="b"|{HALF_UM}')), page(OTHER)],
    ),
    "OME, without names and sizes": (r"not page 2", lambda: [page(SLIDE, **_ome("|", "|"), **MPP), page(OTHER)]),
    "Aperio": (r"not page 2 \(192 x 256 px\)", lambda: [page(SLIDE, **APERIO), page(OTHER[:, :192], **APERIO)]),
    "marked as reduced, and as large": (r"not page 2", lambda: [page(SLIDE, **MPP), page(OTHER, reduced=True)]),
    "what OpenSlide reads": (r"not page 2", lambda: [page(SLIDE, **MPP, **BITS_16), page(OTHER, **BITS_16)]),
    "levels that only OpenSlide decodes, and does not see": (
        r"not page 2 \(128 x 128 px\): .* mark it so \(NewSubfileType 1\)",
        lambda: [page(SLIDE, **MPP, **BITS_16), page(_half(SLIDE), **BITS_16)],
    ),
}


@pytest.mark.parametrize("case", SEVERAL)
@pytest.mark.parametrize("big", [False, True], ids=["classic", "big"])
def test_images_that_would_not_be_read_are_named(tmp_path: Path, case: str, big: bool) -> None:
    message, pages = SEVERAL[case]
    _refused(_write(tmp_path / "s.tif", pages(), big=big), "several_images", message)


def test_a_second_page_in_strips_is_an_image_too(tmp_path: Path) -> None:
    other = page(OTHER)
    strips = Page({code: value for code, value in other.tags.items() if code not in (322, 323)}, other.tiles)
    _refused(_write(tmp_path / "s.tif", [page(SLIDE, **MPP), strips]), "several_images", "not page 2")


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
        page(_half(SLIDE), reduced=True),
    ],
    "OME: macro and label": lambda: [
        page(SLIDE, **_ome(f'Name="a"|{HALF_UM}', 'Name="macro image"|', 'Name="Label"|')),
        _not_to_be_decoded(OTHER),
        _not_to_be_decoded(OTHER[:60]),
    ],
    "OME: an overview before the slide": lambda: [
        _not_to_be_decoded(OTHER[:200], **_ome('Name="Overview"|', f'Name="a"|{HALF_UM}')),
        page(SLIDE),
    ],
    "OME: an overview by its pixels": lambda: [
        _not_to_be_decoded(OTHER[:200, :200], **_ome(f'Name="1"|{TWO_UM}', f'Name="2"|{HALF_UM}')),
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
    with _open(_write(tmp_path / "s.tif", BESIDE[case]())) as slide:
        assert slide.mpp == pytest.approx(0.5)
        assert slide.level_sizes_px[0] == (256, 256)
        assert np.abs(_level(slide).astype(int) - SLIDE).mean() < 8


def test_case_scenes(data_dir: Path) -> None:
    folder = data_dir / "cases" / "04_scenes"
    _refused(folder / "two_scenes.ome.tif", "several_images", r"not page 2 \(1024 x 1024 px\)")
    with _open(folder / "second_alone.ome.tif") as slide:
        assert len(plan_slide(slide, etag="", spec=SPEC).tiles) == 64


# The pixel size, and levels, whatever the codec


def _lzw(tile: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(tile).save(sink, "TIFF", compression="tiff_lzw", strip_size=2**30)
    with Image.open(io.BytesIO(sink.getvalue())) as image:
        (start,), (length,) = image.tag_v2[273], image.tag_v2[279]
    return sink.getvalue()[start : start + length]


def _differences(tile: np.ndarray) -> bytes:
    first = tile[:, :1]
    return zlib.compress(np.concatenate([first, np.diff(tile, axis=1)], axis=1).tobytes())


LOSSLESS: dict[str, tuple[int, int, Callable[[np.ndarray], bytes]]] = {
    "none": (1, 1, lambda tile: tile.tobytes()),
    "LZW": (5, 1, _lzw),
    "deflate": (8, 1, lambda tile: zlib.compress(tile.tobytes())),
    "old deflate": (32946, 1, lambda tile: zlib.compress(tile.tobytes())),
    "deflate of differences": (8, 2, _differences),
}


def _page_of(image: np.ndarray, codec: str, *, reduced: bool = False, **tags: Value) -> Page:
    if codec == "JPEG":
        return page(image, reduced=reduced, **tags)
    compression, predictor, encode = LOSSLESS[codec]
    found = page(
        image, reduced=reduced, t259=(SHORT, [compression]), t262=(SHORT, [2]), t317=(SHORT, [predictor]), **tags
    )
    found.tiles = _tiles(image, encode)
    return found


def _with_levels_below(codec: str, **tags: Value) -> Page:
    whole = _page_of(SLIDE, codec, **tags)
    whole.below = [_page_of(_half(SLIDE, n), codec, reduced=True) for n in (2, 4)]
    return whole


@pytest.mark.parametrize("codec", ["JPEG", *LOSSLESS])
@pytest.mark.parametrize("tags", [{}, resolution(2.0)], ids=["XML alone", "and other tags"])
def test_an_ome_tiff_says_the_same_in_every_codec(tmp_path: Path, codec: str, tags: dict[str, Value]) -> None:
    whole = _with_levels_below(codec, **_ome(f'Name="a"|{HALF_UM}'), **tags)
    with _open(_write(tmp_path / "s.ome.tif", [whole], big=True)) as slide:
        assert slide.mpp == 0.5
        assert slide.level_sizes_px == ((256, 256), (128, 128), (64, 64))
        for level, n in enumerate((1, 2, 4)):
            difference = np.abs(_level(slide, level).astype(int) - _half(SLIDE, n))
            assert difference.mean() < 12 if codec == "JPEG" else difference.max() == 0


@pytest.mark.parametrize("codec", LOSSLESS)
def test_lossless_pixels_are_openslides_and_damage_costs_one_tile(tmp_path: Path, codec: str) -> None:
    whole = _page_of(SLIDE[:200], codec, **MPP)
    path = _write(tmp_path / "s.tif", [whole, _page_of(_half(SLIDE[:200]), codec, reduced=True)])
    with _open(path) as fast, OpenSlideSlide.open(str(path), slide_id="s", mpp=None) as slow:
        assert isinstance(fast, TiffSlide)
        assert fast.mpp == pytest.approx(slow.mpp)
        for level in range(2):
            np.testing.assert_array_equal(_level(fast, level), _level(slow, level))
        assert fast.encoded_tile(0, 0, 0, 64, 64) is None
    damaged = bytearray(whole.tiles[1])
    damaged[len(damaged) // 2] ^= 1  # deflate has a check sum
    half = bytes(damaged[: len(damaged) // 2])
    whole.tiles[1] = bytes(damaged) if "deflate" in codec else half
    with _open(_write(path, [whole])) as slide:
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
    path = _write(tmp_path / "s.tif", [_page_of(SLIDE, codec, **_ome(f"|{pixels}"), **resolution(0.25))])
    if isinstance(expected, str):
        _refused(path, "no_mpp", expected)
    else:
        with _open(path) as slide:
            assert slide.mpp == pytest.approx(expected)


def test_openslide_is_told_the_pixel_size_of_what_it_decodes(tmp_path: Path) -> None:
    """RGB and an alpha channel are OpenSlide's; it goes by the tags, and would say 2."""
    rgba = np.dstack([SLIDE, np.full((256, 256), 255, np.uint8)])
    whole = page(
        SLIDE, t258=(SHORT, [8] * 4), t259=(SHORT, [8]), t262=(SHORT, [2]), t277=(SHORT, [4]), t338=(SHORT, [2]),
        **_ome(f"|{HALF_UM}"), **resolution(2.0),
    )  # fmt: skip
    whole.tiles = _tiles(rgba, lambda tile: zlib.compress(tile.tobytes()))
    with _open(_write(tmp_path / "s.tif", [whole])) as slide:
        assert isinstance(slide, OpenSlideSlide)
        assert slide.mpp == 0.5
        np.testing.assert_array_equal(_level(slide), SLIDE)


@pytest.mark.parametrize("name", ["deflate_xmlonly", "jpeg_xmlonly"])
def test_case_ome_pixel_size(data_dir: Path, name: str) -> None:
    with _open(data_dir / "cases" / "06_ome_pixel_size" / f"{name}.ome.tif") as slide:
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
    path = _write(tmp_path / "s.svs", [page(SLIDE, t270=(ASCII, description))])
    expected = APERIO_SIZES[text]
    if isinstance(expected, str):
        _refused(path, "no_mpp", expected)
        with _open(path, mpp=0.25) as slide:
            assert slide.mpp == 0.25
    else:
        with _open(path) as slide:
            assert slide.mpp == expected


def test_case_pixel_size(data_dir: Path) -> None:
    folder = data_dir / "cases" / "11_pixel_size"
    _refused(folder / "dpi300.tif", "no_mpp", r"resolution tag \(300 pixels per inch\) gives 84\.6667 um/px, .*print")
    _refused(folder / "ten_times_too_fine.tif", "no_mpp", r"gives 0\.05 um/px, which cannot be: no light microscope")


# Levels that are not marked, and levels with gaps


@pytest.mark.parametrize("codec", ["JPEG", "deflate"])
@pytest.mark.parametrize("order", [(2, 4, 8), (8, 2, 4)])
def test_levels_that_are_not_marked_are_known_by_their_pixels(
    tmp_path: Path, codec: str, order: tuple[int, ...]
) -> None:
    image = picture(520, 771)
    pages = [_page_of(image, codec, **MPP), *(_page_of(_half(image, n), codec) for n in order)]
    with _open(_write(tmp_path / "s.tif", pages)) as slide:
        assert slide.level_sizes_px == ((771, 520), (385, 260), (192, 130), (96, 65))
        assert np.abs(_level(slide, 2).astype(int) - _half(image, 4)).mean() < 8


def test_case_unmarked_levels(data_dir: Path) -> None:
    folder = data_dir / "cases" / "07_unmarked_levels"
    with _open(folder / "large_marked.tif") as marked, _open(folder / "large_unmarked.tif") as unmarked:
        assert unmarked.level_sizes_px == marked.level_sizes_px
        np.testing.assert_array_equal(*(thumbnail(slide)[0] for slide in (marked, unmarked)))


def _pyramid_with_gaps(codec: str, gaps: dict[int, list[int]], **tags: Value) -> list[Page]:
    """Four levels of 512 px; of each, tiles that are not there."""
    image = picture(512, 512)
    pages = [_page_of(_half(image, 2**i), codec, reduced=i > 0, **(tags if i == 0 else {})) for i in range(4)]
    for level, absent in gaps.items():
        for number in absent:
            pages[level].tiles[number] = b""
    return pages


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
    with _open(_write(tmp_path / "s.tif", _pyramid_with_gaps(codec, gaps, **MPP), big=True)) as slide:
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
    with _open(_write(tmp_path / "s.svs", levels)) as slide:
        assert slide.level_sizes_px == ((128, 128),)
        assert thumbnail(slide)[0].mean() < 250


def test_a_slide_that_has_no_other_overview_says_which_level_has_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uadray.slides.thumbnail.OVERVIEW_MAX_PX", 200 * 200)
    gaps = {1: [0], 2: [0], 3: [0]}
    path = _write(tmp_path / "s.tif", _pyramid_with_gaps("JPEG", gaps, **MPP))
    _refused(path, "no_overview", r"512 x 512 px; add pyramid levels \(not usable: page 2 \(256 x 256 px\), page 3")


@pytest.mark.parametrize(
    ("name", "tiles"), [("whole", 256), ("coarse_half", 256), ("jpeg_coarse", 64), ("jpeg_glass", 64)]
)
def test_case_missing_tiles(data_dir: Path, name: str, tiles: int) -> None:
    with _open(data_dir / "cases" / "09_missing_tiles" / f"{name}.tif") as slide:
        plan = plan_slide(slide, etag="", spec=SPEC)
        assert len(plan.tiles) == tiles
        for chunk in read_chunks(slide, plan.tiles, spec=SPEC):
            assert not any(chunk.errors)
            assert chunk.pixels.mean((1, 2, 3)).max() < 250


def test_tissue_that_is_not_in_the_file_is_an_error_and_glass_is_white(tmp_path: Path) -> None:
    """Level 0 lacks a quarter of the slide's tissue, and all of its glass (the right half)."""
    image = np.full((512, 1024, 3), 255, np.uint8)
    image[:, :512] = (180, 90, 150)
    pages = [page(image, **MPP), page(_half(image), reduced=True), page(_half(image, 4), reduced=True)]
    for row in range(8):
        for column in (*range(8, 16), *((0, 1, 2, 3) if row < 4 else ())):
            pages[0].tiles[16 * row + column] = b""
    spec = TileSpec(mpp=0.5, tile_px=64, quality=None)
    with _open(_write(tmp_path / "s.tif", pages)) as slide:
        plan = plan_slide(slide, etag="", spec=spec)
        assert (len(plan.tiles), plan.n_grid) == (64, 128)
        chunks = list(read_chunks(slide, plan.tiles, spec=spec))
        every = tile_places(slide, [0, 224, 256, 1000], [0, 0, 300, 500], mpp=0.5, tile_px=64)
        assert slide.missing_share(0, every.boxes).tolist() == [1, 0.5, 0, 24 * 12 / 64**2]
    errors = [error for chunk in chunks for error in chunk.errors]
    lost = (plan.tiles["x_level0_px"].to_numpy() < 256) & (plan.tiles["y_level0_px"].to_numpy() < 256)
    assert [error is not None for error in errors] == lost.tolist()
    assert {error for error in errors if error} == {"the overview shows tissue, and the file no pixels"}


# One factor a side


def _shift(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Pixels by which `found` lies beside `expected`, along x and y."""
    grey = [image.astype(np.float64).mean(2) for image in (expected, found)]
    return cv2.phaseCorrelate(*grey, cv2.createHanningWindow(grey[0].shape[::-1], cv2.CV_64F))[0]


def _assert_in_place(slide: Slide, n: int) -> None:
    """The end of the slide, at n times level 0's pixels, is where level 0 has it."""
    width, height = slide.level_sizes_px[0]
    side = min(height, width) // n
    x, y = (n * (whole // n - side) for whole in (width, height))
    fine = slide.read_region(0, x, y, n * side, n * side)
    found = read_tile(slide, x_level0_px=x, y_level0_px=y, mpp=n * slide.mpp, tile_px=side)
    assert tile_places(slide, [x], [y], mpp=n * slide.mpp, tile_px=side).level > 0
    shift = _shift(found, _half(fine, n))
    assert np.abs(shift).max() < 0.6, shift  # a pixel of the level, which may have rounded an edge away


@pytest.mark.parametrize("size", [(8000, 151), (151, 8000), (5003, 77)], ids=str)
def test_the_far_end_of_a_thin_slide_is_where_it_is(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    rng = np.random.default_rng(0)
    grain = cv2.resize(rng.integers(0, 255, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8), (width, height))
    path = write_pyramid(tmp_path / "s.tif", grain, mpp=0.25, tile_px=128, downsamples=(2, 4))
    with _open(path) as slide:
        for n in (3, 5):
            _assert_in_place(slide, n)


def test_a_scale_that_is_no_whole_number_is_taken_along_each_side(tmp_path: Path) -> None:
    """Two thirds of a slide's width, and of 100 rows 67."""
    image = picture(100, 1500)
    size = (1000, 67)
    pages = [page(image, **MPP), page(np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA)), reduced=True)]
    with _open(_write(tmp_path / "s.tif", pages)) as slide:
        assert slide.downsamples == ((1.0, 1.0), (1.5, 100 / 67))
        places = tile_places(slide, [750], [0], mpp=0.75, tile_px=64)
    assert (places.level, places.boxes.tolist()) == (1, [[500, 0, 64, 65]])
    assert places.steps == pytest.approx((1, 1.005))


def test_case_thin_slide(data_dir: Path) -> None:
    """Red rises along x, by 0.016 a pixel of level 0, blue along y by 0.84."""
    with _open(data_dir / "cases" / "16_thin_slide" / "thin_16000.tif") as slide:
        for n in (2, 3, 4, 5, 8):
            tile = read_tile(slide, x_level0_px=15_700, y_level0_px=20, mpp=0.25 * n, tile_px=32)
            fine = slide.read_region(0, 15_700, 20, 32 * n, 32 * n)
            beside_px = (tile.mean((0, 1)) - fine.mean((0, 1)))[[0, 2]] / (255 / 16_000, 255 / 303)
            assert np.abs(beside_px[0]) < 6 + n, "colours of JPEG are as good as 0.1 grey levels"
            assert np.abs(beside_px[1]) < 1
        plan = plan_slide(slide, etag="", spec=SPEC.model_copy(update={"quality": None}))
        assert plan.tiles["x_level0_px"].to_numpy().max() > 15_000


# Large tiles of the file


@pytest.mark.parametrize("codec", ["JPEG", "deflate", "none"])
def test_large_file_tiles_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    """5,120 px: 75 MiB decoded, which is kept all the same, so that each tile is decoded once."""
    image = np.kron(picture(32, 32), np.ones((160, 160, 1), np.uint8))
    if codec == "JPEG":
        whole = page(image, tile_px=5120, subsampling="444", **MPP)
    else:
        compression, _, encode = LOSSLESS[codec]
        whole = page(image[:16, :16], tile_px=16, t259=(SHORT, [compression]), t262=(SHORT, [2]), **MPP)
        whole.tags |= {code: (LONG, [5120]) for code in (256, 257, 322, 323)}
        whole.tiles = [encode(image)]
    counts = []
    for kind in ("tiff.jpeg.TileDecoder", "tiff.lossless.LosslessDecoder"):
        name = f"uadray.slides.{kind}.decode"
        module, _, decoder = kind.rpartition(".")
        own = getattr(__import__(f"uadray.slides.{module}", fromlist=[decoder]), decoder).decode
        monkeypatch.setattr(name, lambda self, data, out=None, own=own: counts.append(1) or own(self, data, out))
    with _open(_write(tmp_path / "s.tif", [whole])) as slide:
        for corner in (0, 1600, 4480):
            found = slide.read_region(0, corner, corner, 640, 640)
            assert np.abs(found.astype(int) - image[corner : corner + 640, corner : corner + 640]).mean() < 6
    assert len(counts) == 1


def test_case_large_tile(data_dir: Path) -> None:
    with _open(data_dir / "cases" / "17_large_tile" / "jpeg.tif") as slide:
        plan = plan_slide(slide, etag="", spec=SPEC)
        chunks = list(read_chunks(slide, plan.tiles.slice(0, 8), spec=SPEC))
    assert len(plan.tiles) > 0
    assert not any(error for chunk in chunks for error in chunk.errors)


def test_a_tile_of_too_many_pixels_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "s.tif", picture(64, 64), mpp=0.5, tile_px=64, downsamples=())
    with (
        _open(path) as slide,
        pytest.raises(SlideError, match="covers 32768 x 32768 px of its level 0, expected 8,192 a side") as caught,
    ):
        read_tile(slide, x_level0_px=0, y_level0_px=0, mpp=4.0, tile_px=4096)
    assert caught.value.reason == "too_large"


# The same from S3, where opening reads by ranges


@pytest.mark.s3
def test_the_same_from_s3(tmp_path: Path, s3: SeaweedServer) -> None:
    ome = [_with_levels_below("LZW", **_ome(f'Name="a"|{HALF_UM}'))]
    unmarked = [page(SLIDE, **MPP), page(_half(SLIDE)), page(_half(SLIDE, 4))]
    gaps = _pyramid_with_gaps("deflate", {3: [0]}, **MPP)
    for name, pages in {"ome": ome, "unmarked": unmarked, "gaps": gaps}.items():
        path, uri = _write(tmp_path / f"{name}.tif", pages), f"s3://{s3.bucket}/cases/{name}.tif"
        objects.write_bytes(uri, path.read_bytes())
        with _open(path) as local, open_slide(uri, slide_id="s") as remote:
            assert (local.mpp, local.level_sizes_px) == (remote.mpp, remote.level_sizes_px)
            assert len(local.level_sizes_px) == 3
            for level in range(3):
                np.testing.assert_array_equal(_level(local, level), _level(remote, level))
    uri = f"s3://{s3.bucket}/cases/two.tif"
    objects.write_bytes(uri, build([page(SLIDE, **MPP), page(OTHER)]))
    with pytest.raises(SlideError, match="not page 2") as caught:
        open_slide(uri, slide_id="s")
    assert caught.value.reason == "several_images"


def test_openslides_that_corrupt_lower_edges_are_not_installed() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    wanted = next(r for r in map(Requirement, project["dependencies"]) if r.name == "openslide-bin")
    assert [v for v in ("4.0.0.8", "4.0.0.9", "4.0.0.10", "4.0.0.11", "4.0.1.2") if v in wanted.specifier] == [
        "4.0.0.8",
        "4.0.1.2",
    ]
