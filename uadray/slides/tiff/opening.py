"""Opening a TIFF: what its index says is turned into a slide, or into the reason why the slide is refused."""

import cv2
import numpy as np

from uadray.errors import SlideError, UadrayError
from uadray.slides.levels import factors
from uadray.slides.tiff.byte_source import ByteSource, slide_error
from uadray.slides.tiff.header import BadTiffError, TiffLimitError
from uadray.slides.tiff.index import TiffIndex, read_index
from uadray.slides.tiff.level_tiles import TiffLevel
from uadray.slides.tiff.slide import TiffSlide

COMPARED_TILES, COMPARED_PX = 3, 2048
"""Of a level that the file does not mark as one, this many file tiles are compared with the next finer level, of which
at most this many pixels a side are read for each."""


def index_of(source: ByteSource, *, slide_id: str) -> TiffIndex | None:
    """What a TIFF holds, whoever decodes it; None where this is no TIFF, or only OpenSlide understands it.

    Raises:
        SlideError: `unreadable` (damaged), `too_large` (beyond what is read here), `several_images` (some would not be
            read), `colours` (OpenSlide would show others), or what `slide_error` makes of storage's errors.
    """
    try:
        index = read_index(source)
    except UadrayError as error:
        raise slide_error(slide_id, error) from error
    except TiffLimitError as error:
        raise SlideError(slide_id, "too_large", f"{source.name} is beyond what is read here: {error}") from error
    except (BadTiffError, ValueError) as error:
        raise _damaged_file(source, slide_id, error) from error
    if index is not None and index.others:
        images = ", ".join(index.others[:5]) + (f" and {len(index.others) - 5} more" if len(index.others) > 5 else "")
        raise SlideError(
            slide_id,
            "several_images",
            f"{source.name} holds several images of a slide's size; {index.levels[0].name} would be read, and not "
            f"{images}: save each as a file of its own, or, if one is a smaller level, mark it so (NewSubfileType 1)",
        )
    if index is not None and index.colours:
        raise SlideError(
            slide_id,
            "colours",
            f"{source.name}: {index.colours}. OpenSlide, which reads this format, goes by what it is called, and would "
            "show other colours; convert it, or mend the tag PhotometricInterpretation",
        )
    return index


def open_tiff(source: ByteSource, index: TiffIndex, *, slide_id: str, mpp: float) -> TiffSlide:
    """The slide that `index_of` found; closing it closes `source`.

    Raises:
        SlideError: `unreadable`; `several_images`: an image that has the size of a smaller level shows something else;
            or what `slide_error` makes of storage's errors.
    """
    try:
        slide = TiffSlide(source, index, slide_id=slide_id, mpp=mpp)
    except ValueError as error:
        raise _damaged_file(source, slide_id, error) from error
    for number, level in enumerate(index.levels):
        if level.unproven and not _shows_the_same(slide, index.levels, number):
            raise SlideError(
                slide_id,
                "several_images",
                f"{source.name}: {level.name} has the size of a smaller level and does not show what "
                f"{index.levels[0].name} shows, so it would not be read: save each image as a file of its own",
            )
    slide.rest()
    return slide


def _damaged_file(source: ByteSource, slide_id: str, error: Exception) -> SlideError:
    return SlideError(slide_id, "unreadable", f"{source.name} is damaged: {error}")


def _shows_the_same(slide: TiffSlide, levels: tuple[TiffLevel, ...], number: int) -> bool:
    """Whether a level shows what the next finer one shows, by the file tiles with most bytes, much reduced."""
    level, finer = levels[number], levels[number - 1]
    scale = factors(finer.size_px, level.size_px)
    for tile in np.argsort(-level.lengths, kind="stable")[:COMPARED_TILES].tolist():
        row, column = divmod(tile, level.columns)
        corner = (column * level.tile_px[0], row * level.tile_px[1])
        size = [
            min(level.tile_px[i], level.size_px[i] - corner[i], max(1, int(COMPARED_PX / scale[i]))) for i in range(2)
        ]
        box = [round(value * scale[i % 2]) for i, value in enumerate((*corner, *size))]
        coarse_pixels = slide.read_region(number, *corner, *size)
        fine_pixels = slide.read_region(number - 1, box[0], box[1], max(1, box[2]), max(1, box[3]))
        reduced = (max(1, size[0] // 8), max(1, size[1] // 8))
        coarse, fine = (
            cv2.resize(pixels, reduced, interpolation=cv2.INTER_AREA).astype(np.float64)
            for pixels in (coarse_pixels, fine_pixels)
        )
        # Another picture differs by more than the picture itself varies; the same picture by a fraction of that.
        if np.abs(coarse - fine).mean() > 3 + np.abs(fine - fine.mean((0, 1))).mean() / 2:
            return False
    return True
