"""Painted slides, and slides with damaged bytes."""

from pathlib import Path

import numpy as np
import tifffile

from uadray.phantoms.pyramid import write_pyramid


def painted_slide(path: Path, *, size_px: int = 1024) -> Path:
    """Pink tissue of two shades in the left half, glass in the right."""
    image = np.full((size_px, size_px, 3), 245, np.uint8)
    y, x = np.mgrid[:size_px, : size_px // 2]
    image[:, : size_px // 2] = np.stack([200 - x % 40, 120 + y % 40, 180 + (x + y) % 20], axis=-1)
    return write_pyramid(path, image, mpp=1.0, tile_px=128)


def damage(path: Path, *, level: int, tile: int) -> None:
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[level].dataoffsets[tile], file.pages[level].databytecounts[tile]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
