"""TIFF file -> its pages: of each image in the file its size, its kind, and what its tags say. No pixel is decoded.

A page is a directory of the file that describes an image: the slide, a smaller level of it, a label, a macro image.
Which of them are the levels of the slide is decided in `index`. Sources: Aperio's and OpenSlide's descriptions of SVS;
the OME-TIFF specification; for the signs of vendors OpenSlide's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from uadray.slides.pixel_size import StatedSize, number
from uadray.slides.tiff import tags
from uadray.slides.tiff.header import MAX_DIRECTORIES, BadTiffError, Directory, Tag, TiffHeader, TiffLimitError
from uadray.slides.tiff.jpeg import says_rgb
from uadray.slides.tiff.lossless import COMPRESSIONS
from uadray.slides.tiff.ome_xml import OmeImage

Kind = Literal["aperio", "ome", "generic", "hamamatsu", "vendor"]

TAGS_OF_SLIDE = (
    tags.DESCRIPTION, tags.MAKE, tags.SOFTWARE, tags.XMP, tags.X_RESOLUTION, tags.Y_RESOLUTION,
)  # fmt: skip
"""Tags that are read of the first page alone: its texts and its resolution."""

TAGS_OF_LEVEL = (tags.BITS_PER_SAMPLE, tags.TILE_OFFSETS, tags.TILE_BYTE_COUNTS, tags.JPEG_TABLES)
"""Tags whose values are long, and are read of all tiled pages together: bits, where the tiles are, and JPEG tables."""

TILE_HEAD_BYTES = 2**16
"""Bytes of a tile that are read for what its JPEG header says of its colours."""


@dataclass(frozen=True)
class PageFacts:
    """What is known of a page.

    Attributes:
        number: of its directory in the file, counted from 1; that of the parent for a level in a sub-directory.
        tags: of the directory.
        size: width and height in pixels.
        tiled: it is stored in tiles, not in strips.
        reduced: the file marks it as a smaller copy of another page.
    """

    number: int
    tags: Directory
    size: tuple[int, int]
    tiled: bool
    reduced: bool

    @property
    def area(self) -> int:
        """In pixels."""
        return self.size[0] * self.size[1]

    def __str__(self) -> str:
        return f"page {self.number} ({self.size[0]} x {self.size[1]} px)"


def file_kind(file: TiffHeader, first: Directory) -> Kind:
    """Who wrote the file, by the first page; `hamamatsu` and `vendor` are files that only OpenSlide understands."""
    if tags.HAMAMATSU in first:
        return "hamamatsu"
    description = file.text(first, tags.DESCRIPTION)
    signs_of_vendors = (
        tags.ARGOS in first,
        b"iScan" in file.raw(first, tags.XMP),  # Ventana
        file.text(first, tags.SOFTWARE).startswith(("MedScan", "Philips")),  # Trestle, Philips
        file.text(first, tags.MAKE).startswith("Huron"),
        "leica-microsystems.com/scn" in description,
    )
    if any(signs_of_vendors):
        return "vendor"
    if description.startswith("Aperio"):
        return "aperio"
    return "ome" if re.search(r"<(?:\w{1,20}:)?OME\b", description[:4096]) else "generic"


def read_pages(file: TiffHeader, first: Directory, following: int) -> list[PageFacts]:
    """All pages of a file: its first directory, which has been read already, and those that follow it.

    Raises:
        BadTiffError: the directories run in a circle, or lie beyond the end of the file.
        TiffLimitError: there are more than `MAX_DIRECTORIES`.
    """
    pages = [page_facts(file, number, directory) for number, directory in enumerate(_chain(file, first, following), 1)]
    return [page for page in pages if page is not None]


def _chain(file: TiffHeader, first: Directory, following: int) -> list[Directory]:
    seen, chain, at = {file.first}, [first], following
    while at:
        if at in seen:
            raise BadTiffError("its directories run in a circle")
        if len(seen) >= MAX_DIRECTORIES:
            raise TiffLimitError(f"it has more than {MAX_DIRECTORIES} directories")
        seen.add(at)
        directory, at = file.directory(at)
        is_tiled = tags.TILE_WIDTH in directory
        file.fetch([directory[code] for code in TAGS_OF_LEVEL if code in directory and is_tiled], at)
        chain.append(directory)
    return chain


def page_facts(file: TiffHeader, number: int, directory: Directory) -> PageFacts | None:
    """The page that a directory describes; None for a directory that is no image, or that is a mask."""
    if tags.IMAGE_WIDTH not in directory or tags.IMAGE_LENGTH not in directory:
        return None
    flags = file.integer(directory, tags.NEW_SUBFILE_TYPE, 0)
    is_mask, is_reduced = flags & 4, flags & 1
    if is_mask:
        return None
    size = (file.integer(directory, tags.IMAGE_WIDTH), file.integer(directory, tags.IMAGE_LENGTH))
    reduced = bool(is_reduced) or file.integer(directory, tags.SUBFILE_TYPE, 1) == 2
    return PageFacts(number, directory, size, tags.TILE_WIDTH in directory and tags.TILE_LENGTH in directory, reduced)


def pages_below(file: TiffHeader, page: PageFacts) -> list[PageFacts]:
    """The pages in the sub-directories of a page."""
    if tags.SUB_IFDS not in page.tags:
        return []
    places = file.integers(page.tags[tags.SUB_IFDS], MAX_DIRECTORIES)
    below = [page_facts(file, page.number, file.directory(at)[0]) for at in places]
    return [each for each in below if each is not None]


def image_of(page: PageFacts, images: Sequence[OmeImage]) -> OmeImage | None:
    """What the OME-XML says of a page; None where it does not name it."""
    return next((image for image in images if page.number - 1 in image.directories), None)


def is_associated(file: TiffHeader, page: PageFacts, images: Sequence[OmeImage], kind: Kind) -> bool:
    """Whether the file calls a page a label, a macro image or the like."""
    image = image_of(page, images)
    name = file.text(page.tags, tags.PAGE_NAME) if image is None else image.name
    if kind != "ome":
        name += " " + file.text(page.tags, tags.DESCRIPTION)[:200]
    return bool(re.search(r"\b(label|macro|thumb|thumbnail|overview|preview|barcode)\b", name, re.IGNORECASE))


def is_decodable(file: TiffHeader, directory: Directory) -> bool:
    """Whether `TiffSlide` decodes the tiles: JPEG or lossless, of three interleaved components of 8 bits."""
    needed = (tags.BITS_PER_SAMPLE, tags.TILE_WIDTH, tags.TILE_LENGTH, tags.TILE_OFFSETS, tags.TILE_BYTE_COUNTS)
    if not all(code in directory for code in needed):
        return False
    compression, colours = file.integer(directory, tags.COMPRESSION, 1), file.integer(directory, tags.PHOTOMETRIC, 0)
    if compression == tags.JPEG:
        is_known = colours in (tags.RGB, tags.YCBCR)
    else:
        predictor, fill_order = file.integer(directory, tags.PREDICTOR, 1), file.integer(directory, tags.FILL_ORDER, 1)
        is_known = compression in COMPRESSIONS and colours == tags.RGB and predictor in (1, 2) and fill_order == 1
    return (
        is_known
        and file.integer(directory, tags.SAMPLES_PER_PIXEL, 1) == 3
        and file.integer(directory, tags.PLANAR_CONFIGURATION, tags.INTERLEAVED) == tags.INTERLEAVED
        and file.integer(directory, tags.SAMPLE_FORMAT, 1) == 1
        and set(file.integers(directory[tags.BITS_PER_SAMPLE], 16)) == {8}
    )


def stated_size(file: TiffHeader, slide: PageFacts, images: Sequence[OmeImage], kind: Kind) -> StatedSize | None:
    """The size of a pixel as the file states it, in the way of its kind; None where it does not state it."""
    if kind == "aperio":
        pairs = [field.partition("=") for field in file.text(slide.tags, tags.DESCRIPTION).split("|")[1:]]
        values = {name.strip(): value.strip() for name, equals, value in pairs if equals}
        mpp = number(values["MPP"]) if "MPP" in values else None
        return None if mpp is None else StatedSize(mpp, mpp, "MPP in its Aperio description")
    image = image_of(slide, images) or next((each for each in images if each.size_px == slide.size), None)
    if image is not None and image.size is not None:
        return image.size
    units_um = {tags.INCH: ("inch", 25_400.0), tags.CENTIMETRE: ("centimetre", 10_000.0)}
    unit = units_um.get(file.integer(slide.tags, tags.RESOLUTION_UNIT, tags.INCH))
    x, y = file.ratio(slide.tags, tags.X_RESOLUTION), file.ratio(slide.tags, tags.Y_RESOLUTION)
    if unit is None or x is None or y is None:
        return None
    return StatedSize(unit[1] / x, unit[1] / y, f"its resolution tag ({x:g} pixels per {unit[0]})")


def wrong_colours(file: TiffHeader, pages: Sequence[PageFacts]) -> str | None:
    """The first page whose tag names another colour space than its JPEG tiles do, in words; None where they agree."""
    for page in pages:
        called = {tags.RGB: True, tags.YCBCR: False}.get(file.integer(page.tags, tags.PHOTOMETRIC, 0))
        is_jpeg = file.integer(page.tags, tags.COMPRESSION, 1) == tags.JPEG
        needed = (tags.TILE_WIDTH, tags.TILE_OFFSETS, tags.TILE_BYTE_COUNTS)
        if called is None or not is_jpeg or not all(code in page.tags for code in needed):
            continue
        head = _head_of_a_tile(file, page)
        try:
            says = says_rgb(head, file.raw(page.tags, tags.JPEG_TABLES)) if head else None
        except ValueError:
            continue  # whoever decodes the tile reports it
        if says is not None and says != called:
            names = ("RGB", "YCbCr") if called else ("YCbCr", "RGB")
            return f"page {page.number} is called {names[0]}, and its JPEG tiles say that they are {names[1]}"
    return None


def _head_of_a_tile(file: TiffHeader, page: PageFacts) -> bytes:
    """The first bytes of the first tile that is there, among the first thousand; empty where there is none."""
    offsets, lengths = (file.array(_shortened(page.tags[code])) for code in (tags.TILE_OFFSETS, tags.TILE_BYTE_COUNTS))
    there = np.flatnonzero(lengths[: len(offsets)])
    if not len(there):
        return b""
    return file.bytes_at(int(offsets[there[0]]), min(int(lengths[there[0]]), TILE_HEAD_BYTES))


def _shortened(tag: Tag) -> Tag:
    """A tag with its first 1,024 values."""
    return Tag(tag.kind, min(tag.count, 1024), tag.at)
