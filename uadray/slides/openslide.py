"""Slides of all formats that OpenSlide knows, as `Slide`s."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import openslide

from uadray.errors import AccessError, ChangedError, InputError, NotFoundError, SlideError, UnreachableError
from uadray.slides.file_names import check_file_names
from uadray.slides.levels import factors
from uadray.slides.pixel_size import level0_mpp, openslide_size
from uadray.slides.slide import Boxes, Rgb
from uadray.slides.tiff.byte_source import slide_error
from uadray.slides.tiff.index import TiffIndex
from uadray.stage_seconds import timed
from uadray.storage.local_copies import local_copy
from uadray.storage.objects import name


class OpenSlideSlide:
    """A slide that OpenSlide reads. Safe to read from several threads."""

    def __init__(
        self, handle: Any, path: Path, copy: ExitStack, *, slide_id: str, mpp: float, index: TiffIndex | None = None
    ) -> None:
        self.slide_id = slide_id
        self.mpp = mpp
        sizes = [(int(w), int(h)) for w, h in handle.level_dimensions]
        known = {level.size_px for level in index.levels} if index is not None else set(sizes)
        self._numbers = [number for number, size in enumerate(sizes) if size in known]
        self._factors = [float(handle.level_downsamples[number]) for number in self._numbers]
        self.level_sizes_px = tuple(sizes[number] for number in self._numbers)
        self.downsamples = tuple(
            _both(factor, sizes[0], size) for factor, size in zip(self._factors, self.level_sizes_px, strict=True)
        )
        self.tile_sizes_px = tuple(_tile_px(handle.properties, number) for number in self._numbers)
        self.unused_levels = _unused(index, self.level_sizes_px)
        self.bounds_px = bounds_of(handle.properties, sizes[0])
        self._handle, self._path, self._copy = handle, path, copy

    @classmethod
    def open(
        cls, uri: str, *, slide_id: str, mpp: float | None, etag: str | None = None, index: TiffIndex | None = None
    ) -> Self:
        """Open a slide, see `opening.open_slide`. The local copy of an object in S3 is held until `close`.

        Args:
            uri: the slide.
            slide_id: names it in errors.
            mpp: see there.
            etag: see there.
            index: what a TIFF holds; levels and pixel size are then taken from it and not from OpenSlide.
        """
        with ExitStack() as copy:
            try:
                with timed("stage"):
                    path = copy.enter_context(local_copy(uri, slide_id=slide_id, etag=etag))
            except (ChangedError, NotFoundError, AccessError, UnreachableError) as error:
                raise slide_error(slide_id, error) from error
            try:
                check_file_names(path)
                handle = openslide.OpenSlide(str(path))
            except (openslide.OpenSlideError, OSError, InputError) as error:
                raise SlideError(slide_id, "unreadable", f"OpenSlide cannot open {name(uri)}: {error}") from error
            try:
                stated = openslide_size(handle.properties) if index is None else index.size
                size = level0_mpp(stated, given=mpp, slide_id=slide_id)
                if index is not None and tuple(handle.level_dimensions[0]) != index.levels[0].size_px:
                    raise SlideError(
                        slide_id,
                        "several_images",
                        f"OpenSlide, which reads this format, would read an image of {handle.level_dimensions[0][0]} x "
                        f"{handle.level_dimensions[0][1]} px of {name(uri)}, and not {index.levels[0].name}",
                    )
                return cls(handle, path, copy.pop_all(), slide_id=slide_id, mpp=size, index=index)
            except BaseException:
                handle.close()
                raise

    def missing_share(self, level: int, boxes: Boxes) -> npt.NDArray[np.float64]:
        """Zeros: OpenSlide does not tell what is missing."""
        return np.zeros(len(boxes))

    def will_read(self, level: int, boxes: Boxes) -> None:
        """Nothing to prepare: OpenSlide reads when asked."""

    def read_region(self, level: int, x: int, y: int, width: int, height: int, out: Rgb | None = None) -> Rgb:
        """See `Slide.read_region`."""
        factor = self._factors[level]  # OpenSlide has one factor for both sides, and divides by it again
        corner = (round(x * factor), round(y * factor))
        try:
            with timed("decode"):  # OpenSlide does not tell what of it was reading
                rgba = np.asarray(self._handle.read_region(corner, self._numbers[level], (width, height)))
        except (openslide.OpenSlideError, OSError, ValueError) as error:
            self._reopen()
            raise SlideError(self.slide_id, "unreadable", f"pixels at {corner} cannot be read: {error}") from error
        pixels = _on_white(rgba)
        if out is None:
            return pixels
        out[:] = pixels
        return out

    def _reopen(self) -> None:
        """Open the file anew: after an error a handle repeats it for all tiles, though others may be readable."""
        with suppress(openslide.OpenSlideError, OSError):
            self._handle = openslide.OpenSlide(str(self._path))  # the old handle is freed when no thread uses it

    def close(self) -> None:
        """Free the handle, and the copy."""
        self._handle.close()
        self._copy.close()

    def __enter__(self) -> Self:
        """Use in a `with` statement."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the handle."""
        self.close()


def bounds_of(properties: Mapping[str, str], size_px: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """OpenSlide's bounds of a slide, x, y, width and height in level-0 pixels; None where they are all of it, or none.

    >>> properties = {"openslide.bounds-x": "10", "openslide.bounds-y": "0", "openslide.bounds-width": "50"}
    >>> bounds_of(properties | {"openslide.bounds-height": "60"}, (100, 40))
    (10, 0, 50, 40)

    Args:
        properties: of the slide, untrusted.
        size_px: of level 0.
    """
    try:
        x, y, width, height = (int(properties[f"openslide.bounds-{s}"]) for s in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return None
    if not (0 <= x < size_px[0] and 0 <= y < size_px[1] and width > 0 and height > 0):
        return None
    bounds = (x, y, min(width, size_px[0] - x), min(height, size_px[1] - y))
    return None if bounds == (0, 0, *size_px) else bounds


def _tile_px(properties: Any, level: int) -> tuple[int, int]:
    """Width and height of the file tiles of a level; 256 where OpenSlide does not say."""
    width, height = (int(properties.get(f"openslide.level[{level}].tile-{side}", 256)) for side in ("width", "height"))
    return width, height


def _both(factor: float, whole: tuple[int, int], smaller: tuple[int, int]) -> tuple[float, float]:
    """The factors of a level along x and y, given OpenSlide's one factor.

    OpenSlide takes the mean of both sides, and this is undone. For some formats it takes the factor that the file
    states, because their sizes are rounded to whole tiles; that factor is kept.
    """
    mean = (whole[0] / smaller[0] + whole[1] / smaller[1]) / 2
    return factors(whole, smaller) if abs(mean - factor) < 1e-6 * factor else (factor, factor)


def _unused(index: TiffIndex | None, sizes: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """Levels that OpenSlide does not see, or that have gaps, in words."""
    if index is None:
        return ()
    return (*(level.name for level in index.levels if level.size_px not in sizes), *index.left_out)


def _on_white(rgba: Rgb) -> Rgb:
    """RGBA pixels laid on white: RGB [h, w, 3]."""
    alpha = rgba[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    mixed = rgba[..., :3] * (alpha / 255.0) + (255 - alpha)
    return np.rint(mixed).astype(np.uint8)
