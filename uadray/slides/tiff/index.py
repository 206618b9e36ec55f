"""TIFF file -> which of its pages is the slide, which are its levels, its pixel size, and what would not be read.

Nothing here decodes a pixel, and nothing that the file claims is believed. The index is read once, when a slide is
opened: the header, the chain of directories, and then the arrays of all levels together, so that a slide in S3 costs
one round trip a level and a few more. (tifffile, with which the tests compare, asks for each tag by itself, and builds
a tuple of Python integers for each array.)

What is said here of a file holds whoever decodes its tiles, `tiff.slide.TiffSlide` or OpenSlide.

A file that claims the impossible (10^9 tiles, tiles beyond its end, directories in a circle) is refused with
`BadTiffError`, one that is larger than what is read here with `TiffLimitError`, before anything of the claimed size is
allocated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from uadray.slides.levels import reduction
from uadray.slides.pixel_size import StatedSize
from uadray.slides.tiff import tags
from uadray.slides.tiff.byte_source import ByteSource
from uadray.slides.tiff.header import BadTiffError, TiffHeader, TiffLimitError
from uadray.slides.tiff.level_tiles import TiffLevel, read_levels, without_gaps
from uadray.slides.tiff.ome_xml import OmeImage, ome_images
from uadray.slides.tiff.pages import (
    TAGS_OF_LEVEL,
    TAGS_OF_SLIDE,
    Kind,
    PageFacts,
    file_kind,
    image_of,
    is_associated,
    is_decodable,
    pages_below,
    read_pages,
    stated_size,
    wrong_colours,
)

ASPECT_LIMIT = 0.02
"""A level has the slide's shape; an image that differs by more (and by more than a pixel) is a macro or label image."""

SLIDE_SHARE, SLIDE_SHARE_STRIPS = 0.01, 0.25
"""Least area, as a share of the slide's, of an image in tiles and of one in strips that is taken for one more piece of
glass and not for a label or macro image. Those are nearly always marked or named, and mostly stored in strips."""

OVERVIEW_RATIO = 4
"""An image whose pixels are at least this many times as large as the slide's is an overview of it."""


@dataclass(frozen=True)
class TiffIndex:
    """What the file holds.

    Attributes:
        levels: of the slide, from the finest to the coarsest.
        size: of a pixel of the finest level, as the file states it.
        decoded: `TiffSlide` decodes all levels; otherwise OpenSlide may.
        others: further images as large as slides, in words.
        left_out: levels that lack tiles which finer levels have, and are not among `levels`, in words.
        colours: what only OpenSlide decodes, and would show in other colours than the file has, in words.
    """

    levels: tuple[TiffLevel, ...]
    size: StatedSize | None
    decoded: bool
    others: tuple[str, ...]
    left_out: tuple[str, ...]
    colours: str | None


def read_index(source: ByteSource) -> TiffIndex | None:
    """The index of a file; None where this is no TIFF, or one that only OpenSlide understands.

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
        file.fetch([first[code] for code in (*TAGS_OF_SLIDE, *TAGS_OF_LEVEL) if code in first], following)
        kind, is_ours = file_kind(file, first), is_decodable(file, first)
    except (BadTiffError, TiffLimitError):
        if file.first >= source.size:
            raise
        return None  # there are TIFFs, above all NDPI, that only OpenSlide understands: it may open this one
    if kind == "hamamatsu":
        return None
    try:
        pages = read_pages(file, first, following)
        return _index_of_vendor(file, pages) if kind == "vendor" else _index(file, pages, kind)
    except (BadTiffError, TiffLimitError):
        if is_ours and kind != "vendor":
            raise
        return None


def _index_of_vendor(file: TiffHeader, pages: Sequence[PageFacts]) -> TiffIndex | None:
    """The index of a vendor's TIFF, which OpenSlide decodes by its tags; None unless it would show wrong colours."""
    wrong = wrong_colours(file, pages)
    return TiffIndex((), None, decoded=False, others=(), left_out=(), colours=wrong) if wrong else None


def _index(file: TiffHeader, pages: Sequence[PageFacts], kind: Kind) -> TiffIndex | None:
    images = ome_images(file.text(pages[0].tags, tags.DESCRIPTION)) if kind == "ome" and pages else []
    choice = _choose(file, pages, images, kind)
    if choice is None:
        return None
    levels = read_levels(file, choice.levels, choice.unproven, decoded=choice.decoded)
    kept = without_gaps(levels)
    kept_sizes = {level.size_px for level in kept}
    slide = choice.levels[0]
    return TiffIndex(
        levels=kept,
        size=stated_size(file, slide, images, kind),
        decoded=choice.decoded,
        others=tuple(str(page) for page in choice.others if _is_slide_sized(file, page, slide, images, kind)),
        left_out=tuple(level.name for level in levels if level.size_px not in kept_sizes),
        colours=None if choice.decoded else wrong_colours(file, choice.levels),
    )


@dataclass(frozen=True)
class _Choice:
    """Which pages are the slide.

    Attributes:
        levels: the slide itself, then its smaller levels, from the finest to the coarsest.
        others: all other pages.
        unproven: numbers of levels that the file does not mark clearly as smaller copies of this slide.
        decoded: `TiffSlide` decodes all levels.
    """

    levels: list[PageFacts]
    others: list[PageFacts]
    unproven: set[int]
    decoded: bool


def _choose(file: TiffHeader, pages: Sequence[PageFacts], images: Sequence[OmeImage], kind: Kind) -> _Choice | None:
    """Choose the slide and its levels; None where no page is in tiles."""
    whole = [page for page in pages if page.tiled and not page.reduced]
    whole = [page for page in whole if not is_associated(file, page, images, kind)] or whole
    if not whole:
        return None
    slide = whole[0] if kind == "aperio" else max(whole, key=lambda page: page.area)
    below = [page for page in pages_below(file, slide) if page.tiled and _is_level(slide, page)]
    marked = [page for page in pages if page.tiled and page.reduced and _is_level(slide, page)]
    unmarked = [page for page in whole if (_is_level if kind == "aperio" else _is_reduction)(slide, page)]
    taken = {page.number for page in (slide, *marked, *unmarked)}
    others = [page for page in pages if page.number not in taken]
    has_rivals = any(page in whole for page in others)
    by_size = {page.size: page for page in (*unmarked, *marked, *below)}  # of two of one size, the more certain one
    levels = [slide, *sorted(by_size.values(), key=lambda page: -page.area)]
    unproven = {page.number for page in (*unmarked, *(marked if has_rivals else ())) if kind != "aperio"}
    decoded = all(is_decodable(file, page.tags) for page in levels)
    if not decoded:  # the pixels of unproven levels cannot be compared here, so they are not used
        others += [page for page in levels if page.number in unproven]
        levels = [page for page in levels if page.number not in unproven]
    return _Choice(levels, others, unproven, decoded)


def _is_slide_sized(
    file: TiffHeader, page: PageFacts, slide: PageFacts, images: Sequence[OmeImage], kind: Kind
) -> bool:
    """Whether an image that is not read may show tissue that the slide does not."""
    if page.reduced and page.size != slide.size:
        return False
    if (kind == "aperio" and not page.tiled) or is_associated(file, page, images, kind):
        return False
    sizes = [image.size.x for image in (image_of(page, images), image_of(slide, images)) if image and image.size]
    if len(sizes) == 2 and all(isinstance(size, float) for size in sizes):
        size_um, slide_size_um = (float(size) for size in sizes)
        if size_um >= OVERVIEW_RATIO * slide_size_um:
            return False
    return page.area >= (SLIDE_SHARE if page.tiled else SLIDE_SHARE_STRIPS) * slide.area


def _is_level(slide: PageFacts, page: PageFacts) -> bool:
    """Whether a page that is marked as smaller has the slide's shape, and is smaller."""
    return 0 < page.area < slide.area and page.size[0] <= slide.size[0] and _same_shape(slide.size, page.size)


def _is_reduction(slide: PageFacts, page: PageFacts) -> bool:
    """Whether a page that is not marked has the size of the slide divided by a whole number of 2 to 1024."""
    n = reduction(slide.size, page.size)
    return n is not None and 2 <= n <= 1024


def _same_shape(whole: tuple[int, int], smaller: tuple[int, int]) -> bool:
    """Whether one size is the other, made smaller.

    >>> [_same_shape((46000, 32914), smaller) for smaller in ((11500, 8228), (46, 33), (1280, 431))]
    [True, True, False]
    """
    expected = smaller[0] * whole[1] / max(1, whole[0])
    return abs(expected - smaller[1]) <= max(ASPECT_LIMIT * expected, 1 + whole[1] / max(1, whole[0]))
