"""Every format OpenSlide knows, behind the `Slide` protocol."""

from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import openslide

from uadray.cache import local_copy
from uadray.errors import SlideError
from uadray.slides.byte_source import slide_error
from uadray.slides.reader import Boxes, Rgb
from uadray.storage import AccessError, ChangedError, NotFoundError, UnreachableError, name

ANISOTROPY_LIMIT = 0.02
"""mpp-x and mpp-y of one scanner differ in the fourth digit; by 2 % or more, one of them is wrong."""


class OpenSlideSlide:
    """An OpenSlide handle. Safe to read from several threads."""

    def __init__(self, handle: Any, path: Path, copy: ExitStack, *, slide_id: str, mpp: float) -> None:
        self.slide_id = slide_id
        self.mpp = mpp
        self.level_sizes_px = tuple((int(w), int(h)) for w, h in handle.level_dimensions)
        self.downsamples = tuple(float(d) for d in handle.level_downsamples)
        self.tile_sizes_px = tuple(_tile_px(handle.properties, level) for level in range(len(self.downsamples)))
        self._handle, self._path, self._copy = handle, path, copy

    @classmethod
    def open(cls, uri: str, *, slide_id: str, mpp: float | None, etag: str | None = None) -> Self:
        """See `uadray.slides.reader.open_slide`. Of an object in S3 the copy is held until `close`."""
        with ExitStack() as copy:
            try:
                staged = nullcontext(Path(uri)) if Path(uri).is_dir() else local_copy(uri, slide_id=slide_id, etag=etag)
                path = copy.enter_context(staged)
            except (ChangedError, NotFoundError, AccessError, UnreachableError) as error:
                raise slide_error(slide_id, error) from error
            try:
                handle = openslide.OpenSlide(str(path))
            except (openslide.OpenSlideError, OSError) as error:
                raise SlideError(slide_id, "unreadable", f"OpenSlide cannot open {name(uri)}: {error}") from error
            try:
                found = mpp or own_mpp(handle.properties, slide_id)
                return cls(handle, path, copy.pop_all(), slide_id=slide_id, mpp=found)
            except BaseException:
                handle.close()
                raise

    def will_read(self, level: int, boxes: Boxes) -> None:
        """Nothing to prepare: OpenSlide reads when asked."""

    def read_region(self, level: int, x: int, y: int, width: int, height: int, out: Rgb | None = None) -> Rgb:
        """See `Slide.read_region`."""
        downsample = self.downsamples[level]
        corner = (round(x * downsample), round(y * downsample))
        try:
            rgba = np.asarray(self._handle.read_region(corner, level, (width, height)))
        except (openslide.OpenSlideError, OSError, ValueError) as error:
            self._reopen()
            raise SlideError(self.slide_id, "unreadable", f"pixels at {corner} cannot be read: {error}") from error
        pixels = _on_white(rgba)
        if out is None:
            return pixels
        out[:] = pixels
        return out

    def _reopen(self) -> None:
        """After one error an OpenSlide handle answers nothing but that error; other tiles may still be readable."""
        with suppress(openslide.OpenSlideError, OSError):
            self._handle = openslide.OpenSlide(str(self._path))  # the old one is freed when no thread uses it

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


def _tile_px(properties: Any, level: int) -> tuple[int, int]:
    """Of what the file stores; 256 where it does not say."""
    width, height = (int(properties.get(f"openslide.level[{level}].tile-{side}", 256)) for side in ("width", "height"))
    return width, height


def own_mpp(properties: Any, slide_id: str) -> float:
    """The pixel size that the file itself gives.

    Raises:
        SlideError: reason `no_mpp`.
    """
    try:
        x, y = (float(properties[f"openslide.mpp-{axis}"]) for axis in "xy")
    except (KeyError, ValueError):
        raise SlideError(
            slide_id,
            "no_mpp",
            "the file does not say its micrometres per pixel; give them in the manifest's mpp column",
        ) from None
    if not (0.01 < x < 100 and abs(x - y) <= ANISOTROPY_LIMIT * max(x, y)):
        raise SlideError(
            slide_id, "no_mpp", f"the file says {x:g} x {y:g} um/px, which cannot be; correct it in the manifest's mpp"
        )
    return (x + y) / 2


def _on_white(rgba: Rgb) -> Rgb:
    alpha = rgba[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    mixed = rgba[..., :3] * (alpha / 255.0) + (255 - alpha)
    return np.rint(mixed).astype(np.uint8)
