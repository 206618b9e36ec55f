"""The index of a TIFF: which of its images is the slide, its levels, its pixel size, and which bytes are which tile.

Nothing here decodes a pixel, and nothing is believed. Read once when a slide is opened: the header, the chain of
directories, and then the arrays of all levels in one go, so that a slide in S3 costs one round trip a level and a few
more. (tifffile, the peer the tests compare with, asks for each tag by itself, and has a tuple of Python integers for
each array.) Sources: JPEG in TIFF: Technical Note 2; Aperio's and OpenSlide's descriptions of SVS; the OME-TIFF
specification, sub-resolutions in SubIFDs.

What is said here of a file holds whoever decodes its tiles, `tiff.TiffSlide` or OpenSlide.

A file that claims the impossible (10^9 tiles, tiles beyond its end, directories in a circle) is refused with
`BadTiffError`, one that is larger than what is read here with `TiffLimitError`, before anything of the claimed size is
allocated.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from uadray.slides.levels import reduction
from uadray.slides.pixel_size import StatedSize, number
from uadray.slides.tiff.byte_source import ByteSource
from uadray.slides.tiff.header import MAX_DIRECTORIES, BadTiffError, Directory, Tag, TiffHeader, TiffLimitError
from uadray.slides.tiff.jpeg import says_rgb
from uadray.slides.tiff.lossless import COMPRESSIONS
from uadray.slides.tiff.ome_xml import OmeImage, ome_images

MAX_FILE_TILES = 4_000_000
"""Of a level: a slide of 500,000 x 500,000 px in tiles of 256 px."""

MAX_TILE_PX, MAX_TILE_AREA_PX = 65_535, 80_000_000
"""Side of a file tile, which is JPEG's, and its area: 240 MB decoded. Scanners write sides of 240 to 1024."""

ASPECT_LIMIT = 0.02
"""A level has the slide's shape; what differs by more (and by more than a pixel) is a macro or label image."""

SLIDE_SHARE, SLIDE_SHARE_STRIPS = 0.01, 0.25
"""Least area of an image, of the slide's, that is taken for one more piece of glass and not for a label or macro image.
These are nearly always marked or named, and mostly kept in strips."""

OVERVIEW_RATIO = 4
"""An image whose pixels are so many times as large as the slide's is an overview of it."""

JPEG = 7
_RGB, _YCBCR, _CHUNKY = 2, 6, 1
_OF_THE_SLIDE = (270, 271, 305, 700, 282, 283)  # tags of its texts, and of its resolution
_OF_A_LEVEL = (258, 324, 325, 347)  # tags of its bits, of where its tiles are, and of their tables
_HEAD_OF_A_TILE = 2**16


@dataclass(frozen=True)
class TiffLevel:
    """A level's tiles in the file.

    Attributes:
        size_px: width and height of the level.
        tile_px: width and height of a file tile.
        columns: tiles a row.
        compression: tag 259.
        predictor: tag 317, of lossless tiles.
        rgb: the tag says that components are red, green, blue; otherwise YCbCr.
        tables: JPEG stream with the tables that the tiles share; may be empty.
        offsets: of each tile in the file, row by row.
        lengths: in bytes; 0 for a tile that is not there.
        page: what people call it: the directories of the file, counted from 1.
        unproven: the file does not mark it as a reduction of the slide: that is still to be seen from its pixels.
    """

    size_px: tuple[int, int]
    tile_px: tuple[int, int]
    columns: int
    compression: int
    predictor: int
    rgb: bool
    tables: bytes
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    page: int
    unproven: bool

    @property
    def name(self) -> str:
        """For errors."""
        return f"page {self.page} ({self.size_px[0]} x {self.size_px[1]} px)"


@dataclass(frozen=True)
class TiffIndex:
    """What the file holds.

    Attributes:
        levels: of the slide, from the finest to the coarsest.
        size: of a pixel of the finest, as the file states it.
        decoded: `TiffSlide` decodes all levels; otherwise OpenSlide may.
        others: further images as large as slides, in words.
        left_out: levels that lack tiles which finer ones have, and are not among `levels`, in words.
        colours: what only OpenSlide decodes, and would show in other colours than the file has, in words.
    """

    levels: tuple[TiffLevel, ...]
    size: StatedSize | None
    decoded: bool
    others: tuple[str, ...]
    left_out: tuple[str, ...]
    colours: str | None


@dataclass(frozen=True)
class _Page:
    number: int
    tags: Directory
    size: tuple[int, int]
    tiled: bool
    reduced: bool

    @property
    def area(self) -> int:
        return self.size[0] * self.size[1]

    def __str__(self) -> str:
        return f"page {self.number} ({self.size[0]} x {self.size[1]} px)"


def read_index(source: ByteSource) -> TiffIndex | None:
    """Read the index; None where this is no TIFF, or one that only OpenSlide understands.

    Raises:
        BadTiffError: it is broken, or made to do harm.
        TiffLimitError: it is larger than what is read here.
        UadrayError: its bytes cannot be read.
    """
    file = TiffHeader(source)
    if not file.start():
        return None
    try:
        first, following = file.directory(file.first)
        file.fetch([first[code] for code in (*_OF_THE_SLIDE, *_OF_A_LEVEL) if code in first], following)
        kind, ours = _kind(file, first), _decoded(file, first)
    except (BadTiffError, TiffLimitError):
        if file.first >= source.size:
            raise
        return None  # not ours to judge: there are TIFFs, NDPI above all, that only OpenSlide understands
    if kind == "hamamatsu":
        return None
    try:
        pages = [_page(file, number, tags) for number, tags in enumerate([first, *_chain(file, following)], 1)]
        found = [page for page in pages if page is not None]
        return _vendors(file, found) if kind == "vendor" else _index(file, found, kind)
    except (BadTiffError, TiffLimitError):
        if ours and kind not in ("hamamatsu", "vendor"):
            raise
        return None


def _kind(file: TiffHeader, tags: Directory) -> str:
    """`aperio`, `ome`, `generic`; `hamamatsu` or `vendor`: only OpenSlide understands it. By OpenSlide's own signs."""
    if 65420 in tags:
        return "hamamatsu"
    description = file.text(tags, 270)
    others = (
        65000 in tags,  # Argos
        b"iScan" in file.raw(tags, 700),  # Ventana
        file.text(tags, 305).startswith(("MedScan", "Philips")),  # Trestle, Philips
        file.text(tags, 271).startswith("Huron"),
        "leica-microsystems.com/scn" in description,
    )
    if any(others):
        return "vendor"
    if description.startswith("Aperio"):
        return "aperio"
    return "ome" if re.search(r"<(?:\w{1,20}:)?OME\b", description[:4096]) else "generic"


def _chain(file: TiffHeader, at: int) -> list[Directory]:
    seen, found = {file.first}, []
    while at:
        if at in seen:
            raise BadTiffError("its directories run in a circle")
        if len(seen) >= MAX_DIRECTORIES:
            raise TiffLimitError(f"it has more than {MAX_DIRECTORIES} directories")
        seen.add(at)
        tags, at = file.directory(at)
        file.fetch([tags[code] for code in _OF_A_LEVEL if code in tags and 322 in tags], at)
        found.append(tags)
    return found


def _page(file: TiffHeader, number: int, tags: Directory) -> _Page | None:
    """A directory that is an image; None for any other."""
    if 256 not in tags or 257 not in tags:
        return None
    if file.integer(tags, 254, 0) & 4:  # a mask
        return None
    size = (file.integer(tags, 256), file.integer(tags, 257))
    reduced = bool(file.integer(tags, 254, 0) & 1) or file.integer(tags, 255, 1) == 2
    return _Page(number, tags, size, 322 in tags and 323 in tags, reduced)


def _index(file: TiffHeader, pages: Sequence[_Page], kind: str) -> TiffIndex | None:
    images = ome_images(file.text(pages[0].tags, 270)) if kind == "ome" and pages else []
    whole = [page for page in pages if page.tiled and not page.reduced]
    whole = [page for page in whole if not _is_associated(file, page, images, kind)] or whole
    if not whole:
        return None
    slide = whole[0] if kind == "aperio" else max(whole, key=lambda page: page.area)
    below = _below(file, slide)
    marked = [page for page in pages if page.tiled and page.reduced and _is_level(slide, page)]
    unmarked = [page for page in whole if (_is_level if kind == "aperio" else _is_reduction)(slide, page)]
    taken = {page.number for page in (slide, *marked, *unmarked)}
    others = [page for page in pages if page.number not in taken]
    has_rivals = any(page in whole for page in others)
    levels = {page.size: page for page in (*unmarked, *marked, *below)}  # of two of one size, the better known
    chosen = [slide, *sorted(levels.values(), key=lambda page: -page.area)]
    unproven = {page.number for page in (*unmarked, *(marked if has_rivals else ())) if kind != "aperio"}
    decoded = all(_decoded(file, page.tags) for page in chosen)
    if not decoded:  # nobody compares their pixels
        others += [page for page in chosen if page.number in unproven]
        chosen = [page for page in chosen if page.number not in unproven]
    found = _levels(file, chosen, unproven, decoded=decoded)
    kept = _without_gaps(found)
    return TiffIndex(
        levels=kept,
        size=_stated_size(file, slide, images, kind),
        decoded=decoded,
        others=tuple(str(page) for page in others if _is_slide_sized(file, page, slide, images, kind)),
        left_out=tuple(level.name for level in found if level.size_px not in {each.size_px for each in kept}),
        colours=None if decoded else _disagreement(file, chosen),
    )


def _vendors(file: TiffHeader, pages: Sequence[_Page]) -> TiffIndex | None:
    """Of a vendor's TIFF, which OpenSlide decodes by its tags, nothing is said but that they are wrong."""
    wrong = _disagreement(file, pages)
    return TiffIndex((), None, decoded=False, others=(), left_out=(), colours=wrong) if wrong else None


def _below(file: TiffHeader, slide: _Page) -> list[_Page]:
    """Levels in sub-directories (tag 330)."""
    if 330 not in slide.tags:
        return []
    found = [_page(file, slide.number, file.directory(at)[0]) for at in file.integers(slide.tags[330], MAX_DIRECTORIES)]
    return [page for page in found if page is not None and page.tiled and _is_level(slide, page)]


def _image_of(page: _Page, images: Sequence[OmeImage]) -> OmeImage | None:
    """What the OME-XML says of a page."""
    return next((image for image in images if page.number - 1 in image.directories), None)


def _is_associated(file: TiffHeader, page: _Page, images: Sequence[OmeImage], kind: str) -> bool:
    """Whether it is called a label, a macro image or the like."""
    image = _image_of(page, images)
    name = file.text(page.tags, 285) if image is None else image.name
    if kind != "ome":
        name += " " + file.text(page.tags, 270)[:200]
    return bool(re.search(r"\b(label|macro|thumb|thumbnail|overview|preview|barcode)\b", name, re.IGNORECASE))


def _is_slide_sized(file: TiffHeader, page: _Page, slide: _Page, images: Sequence[OmeImage], kind: str) -> bool:
    """Whether an image that is not read may show tissue that the slide does not."""
    if page.reduced and page.size != slide.size:
        return False
    if (kind == "aperio" and not page.tiled) or _is_associated(file, page, images, kind):
        return False
    sizes = [image.size.x for image in (_image_of(page, images), _image_of(slide, images)) if image and image.size]
    if len(sizes) == 2 and all(isinstance(size, float) for size in sizes):
        own, other = (float(size) for size in sizes)
        if own >= OVERVIEW_RATIO * other:
            return False
    return page.area >= (SLIDE_SHARE if page.tiled else SLIDE_SHARE_STRIPS) * slide.area


def _is_level(slide: _Page, page: _Page) -> bool:
    return 0 < page.area < slide.area and page.size[0] <= slide.size[0] and _same_shape(slide.size, page.size)


def _is_reduction(slide: _Page, page: _Page) -> bool:
    n = reduction(slide.size, page.size)
    return n is not None and 2 <= n <= 1024


def _same_shape(whole: tuple[int, int], part: tuple[int, int]) -> bool:
    """Whether one is the other, made smaller.

    >>> [_same_shape((46000, 32914), part) for part in ((11500, 8228), (46, 33), (1280, 431))]
    [True, True, False]
    """
    expected = part[0] * whole[1] / max(1, whole[0])
    return abs(expected - part[1]) <= max(ASPECT_LIMIT * expected, 1 + whole[1] / max(1, whole[0]))


def _decoded(file: TiffHeader, tags: Directory) -> bool:
    """Whether `TiffSlide` decodes the tiles: JPEG or lossless, of three interleaved components of 8 bits."""
    if not all(code in tags for code in (258, 322, 323, 324, 325)):
        return False
    compression, colours = file.integer(tags, 259, 1), file.integer(tags, 262, 0)
    if compression == JPEG:
        known = colours in (_RGB, _YCBCR)
    else:
        plain = file.integer(tags, 317, 1) in (1, 2) and file.integer(tags, 266, 1) == 1
        known = compression in COMPRESSIONS and colours == _RGB and plain
    return (
        known
        and file.integer(tags, 277, 1) == 3
        and file.integer(tags, 284, _CHUNKY) == _CHUNKY
        and file.integer(tags, 339, 1) == 1
        and set(file.integers(tags[258], 16)) == {8}
    )


def _levels(file: TiffHeader, pages: Sequence[_Page], unproven: set[int], *, decoded: bool) -> tuple[TiffLevel, ...]:
    plans = [_plan(file, page, decoded=decoded) for page in pages]
    if sum(columns * rows for _, columns, rows in plans) > 2 * MAX_FILE_TILES:
        raise TiffLimitError(f"its levels have more than {2 * MAX_FILE_TILES:,} tiles together")
    file.fetch([page.tags[code] for page in pages for code in _OF_A_LEVEL if code in page.tags], limit=2**62)
    levels = []
    for page, (tile, columns, rows) in zip(pages, plans, strict=True):
        tags = page.tags
        levels.append(
            TiffLevel(
                size_px=page.size,
                tile_px=tile,
                columns=columns,
                compression=file.integer(tags, 259, 1),
                predictor=file.integer(tags, 317, 1),
                rgb=file.integer(tags, 262, 0) == _RGB,
                tables=file.raw(tags, 347),
                offsets=file.array(tags[324])[: columns * rows],
                lengths=file.array(tags[325])[: columns * rows],
                page=page.number,
                unproven=page.number in unproven,
            )
        )
        if decoded:
            _check_spans(levels[-1], file.size)
    return tuple(levels)


def _plan(file: TiffHeader, page: _Page, *, decoded: bool) -> tuple[tuple[int, int], int, int]:
    """Tile, columns and rows of a level whose numbers agree with each other."""
    tags, size = page.tags, page.size
    tile = (file.integer(tags, 322), file.integer(tags, 323))
    if min(size) < 1 or min(tile) < 1 or max(tile) > MAX_TILE_PX:
        raise BadTiffError(f"a level of {size[0]} x {size[1]} px in tiles of {tile[0]} x {tile[1]} px cannot be")
    if decoded and tile[0] * tile[1] > MAX_TILE_AREA_PX:
        raise TiffLimitError(
            f"its tiles are {tile[0]} x {tile[1]} px, and those of up to {MAX_TILE_AREA_PX:,} px are decoded; "
            "save it with smaller ones, of 256 or 512 px"
        )
    columns, rows = -(-size[0] // tile[0]), -(-size[1] // tile[1])
    planes = file.integer(tags, 277, 1) if file.integer(tags, 284, _CHUNKY) != _CHUNKY else 1
    if {columns * rows * planes} != {tags[code].count if code in tags else 0 for code in (324, 325)}:
        listed = [tags[code].count if code in tags else 0 for code in (324, 325)]
        raise BadTiffError(f"a level of {columns} x {rows} tiles lists {listed[0]:,} offsets and {listed[1]:,} lengths")
    for code in (324, 325):
        file.check_inside(tags[code].at, tags[code].length)
    if columns * rows * planes > MAX_FILE_TILES:
        raise TiffLimitError(f"a level has {columns * rows:,} tiles; {MAX_FILE_TILES:,} are read at most")
    if 347 in tags and tags[347].length > 2**16:
        raise TiffLimitError("its JPEG tables are longer than 64 KiB")
    return tile, columns, rows


def _check_spans(level: TiffLevel, file_bytes: int) -> None:
    longest = 2 * 3 * level.tile_px[0] * level.tile_px[1] + 2**16  # JPEG of noise at quality 100 is no longer
    there = level.lengths != 0
    stops = level.offsets[there] + level.lengths[there]
    if (level.offsets[there] < 0).any() or (level.lengths < 0).any() or (stops > file_bytes).any() or (stops < 0).any():
        raise BadTiffError(
            f"a level of {level.size_px[0]} x {level.size_px[1]} px has tiles beyond the end of the file "
            f"({file_bytes:,} bytes); was it copied whole?"
        )
    if level.lengths.max(initial=0) > longest:
        raise TiffLimitError(f"a tile has {level.lengths.max():,} bytes; {longest:,} are read at most")


def _without_gaps(levels: Sequence[TiffLevel]) -> tuple[TiffLevel, ...]:
    """The levels that lack no tile of which a finer level has some. What the finest lacks was not scanned: glass."""
    kept = [levels[0]]
    kept += [level for level in levels[1:] if not _lacks(level, kept[-1])]
    return tuple(kept)


def _lacks(level: TiffLevel, finer: TiffLevel) -> bool:
    absent = np.flatnonzero(level.lengths == 0)
    if not len(absent):
        return False
    there = (finer.lengths != 0).reshape(-1, finer.columns)
    sums = np.zeros((there.shape[0] + 1, there.shape[1] + 1), np.int64)
    sums[1:, 1:] = there.cumsum(0).cumsum(1)
    spans = []
    for axis, at in enumerate(divmod(absent, level.columns)[::-1]):
        scale = finer.size_px[axis] / level.size_px[axis] / finer.tile_px[axis]  # file tiles of `finer` a pixel
        first, stop = at * level.tile_px[axis], np.minimum((at + 1) * level.tile_px[axis], level.size_px[axis])
        low = np.floor((first + 1) * scale).astype(np.int64)  # a pixel less a side: sizes of levels are rounded
        high = np.clip(np.ceil((stop - 1) * scale).astype(np.int64), low, there.shape[1 - axis])
        spans.append((np.minimum(low, high), high))
    (x0, x1), (y0, y1) = spans
    return bool((sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0] > 0).any())


def _disagreement(file: TiffHeader, pages: Sequence[_Page]) -> str | None:
    """The first page whose tag says another colour space than its JPEG does, in words."""
    for page in pages:
        tags = page.tags
        called = {_RGB: True, _YCBCR: False}.get(file.integer(tags, 262, 0))
        if called is None or file.integer(tags, 259, 1) != JPEG or not all(code in tags for code in (322, 324, 325)):
            continue
        offsets, lengths = (file.array(_shortened(tags[code])) for code in (324, 325))
        there = np.flatnonzero(lengths[: len(offsets)])
        if not len(there):
            continue
        at, length = int(offsets[there[0]]), min(int(lengths[there[0]]), _HEAD_OF_A_TILE)
        try:
            says = says_rgb(file.bytes_at(at, length), file.raw(tags, 347))
        except ValueError:
            continue  # whoever decodes it will say so
        if says is not None and says != called:
            names = ("RGB", "YCbCr") if called else ("YCbCr", "RGB")
            return f"page {page.number} is called {names[0]}, and its JPEG tiles say that they are {names[1]}"
    return None


def _shortened(tag: Tag) -> Tag:
    return Tag(tag.kind, min(tag.count, 1024), tag.at)


def _stated_size(file: TiffHeader, slide: _Page, images: Sequence[OmeImage], kind: str) -> StatedSize | None:
    """The pixel size, by whichever of the file's statements its kind has; None where the file has none."""
    if kind == "aperio":
        pairs = [part.partition("=") for part in file.text(slide.tags, 270).split("|")[1:]]
        values = {name.strip(): value.strip() for name, equals, value in pairs if equals}
        found = number(values["MPP"]) if "MPP" in values else None
        return None if found is None else StatedSize(found, found, "MPP in its Aperio description")
    own = _image_of(slide, images) or next((image for image in images if image.size_px == slide.size), None)
    if own is not None and own.size is not None:
        return own.size
    unit = {2: ("inch", 25_400.0), 3: ("centimetre", 10_000.0)}.get(file.integer(slide.tags, 296, 2))
    x, y = file.ratio(slide.tags, 282), file.ratio(slide.tags, 283)
    if unit is None or x is None or y is None:
        return None
    return StatedSize(unit[1] / x, unit[1] / y, f"its resolution tag ({x:g} pixels per {unit[0]})")
