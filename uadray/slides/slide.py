"""What an open slide can do: the protocol `Slide`, which the readers of all formats follow.

Coordinates are integer level-0 pixels, origin top left, x then y. What lies outside the slide, or is transparent, is
white. Label and macro images are never decoded, because they show names of patients.
"""

from types import TracebackType
from typing import NewType, Protocol, Self

import numpy as np
import numpy.typing as npt

Mpp = NewType("Mpp", float)
"""Micrometres per pixel, the same in x and y."""

Rgb = npt.NDArray[np.uint8]

Boxes = npt.NDArray[np.int64]
"""[n, 4]: x, y, width and height in pixels of one level."""

DECODED_BYTES = 32 * 2**20
"""Bytes of decoded file tiles that a slide keeps: two rows of 85 tiles of 256 px. See `tile_reading.reading_order`."""


class Slide(Protocol):
    """An open slide. Levels are counted from the finest (0) to the coarsest.

    Attributes:
        slide_id: names it in errors and tile ids.
        mpp: micrometres per pixel of level 0.
        level_sizes_px: width and height of each level.
        downsamples: by how much each level is smaller than level 0, along x and along y; rounding makes them differ.
        tile_sizes_px: width and height of the tiles that the file stores at each level.
        unused_levels: levels that the file has and that cannot be used, in words.
        bounds_px: x, y, width and height of what was scanned, where level 0 is larger and the file says so; else None.
    """

    slide_id: str
    mpp: float
    level_sizes_px: tuple[tuple[int, int], ...]
    downsamples: tuple[tuple[float, float], ...]
    tile_sizes_px: tuple[tuple[int, int], ...]
    unused_levels: tuple[str, ...]
    bounds_px: tuple[int, int, int, int] | None

    def read_region(self, level: int, x: int, y: int, width: int, height: int, out: Rgb | None = None) -> Rgb:
        """RGB [height, width, 3] at `level`, with x and y in pixels of that level; white outside.

        The array must not be written to. Pixels are written to `out` where it is given, of this shape and contiguous,
        which saves a copy.

        Raises:
            SlideError: `unreadable`: these pixels are damaged, others may be readable. All other reasons are about the
                whole slide: `changed` (replaced while it was read), `unreachable`, `missing`, `no_access`.
        """
        ...

    def missing_share(self, level: int, boxes: Boxes) -> npt.NDArray[np.float64]:
        """[n] Share of each box (0 to 1) that lies on file tiles that are not in the file, and is read as white."""
        ...

    def will_read(self, level: int, boxes: Boxes) -> None:
        """Announce what `read_region` will be asked for next, in this order and by one thread.

        Bytes of a slide in S3 are then fetched ahead. Other regions may be read in between; a new announcement replaces
        the previous one.
        """
        ...

    def close(self) -> None:
        """Free the file."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def unusable_levels(slide: Slide) -> str:
    """For errors about a missing level: which levels the file has that cannot be used; empty where there are none."""
    if not slide.unused_levels:
        return ""
    return f" (not usable: {', '.join(slide.unused_levels[:8])}: in parts missing, not marked, or not OpenSlide's)"
