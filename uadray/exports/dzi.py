"""Heatmaps as Deep Zoom images, which OpenSeadragon lays over the slide: PNG tiles with transparency.

A pixel is a power of two of level-0 pixels, so that the levels coincide with those of a Deep Zoom image of the slide
(`openslide.deepzoom`), and the finest is only as fine as tiles are: there are some 100 files a slide at the most. The
last column and row may reach over the slide's edge by less than a pixel, so that the picture is a little larger than
the slide; `.placement.json` says how it lies on it, in widths of the slide:

    const slide = {tileSource: "slide.dzi", x: 0, y: 0, width: 1}
    const heatmap = {tileSource: "a.dzi", ...placement}  // x, y and width
    OpenSeadragon({id: "viewer", tileSources: [slide, heatmap]})
"""

import json
import math
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from uadray.exports.exported_slide import ExportedSlide, ExportOptions
from uadray.exports.raster import Raster, colour_scale, pyramid, raster, rgba

DESCRIPTION, PLACEMENT = ".dzi", ".placement.json"

TILE_PX = 512


def exported(slide: ExportedSlide, options: ExportOptions) -> dict[str, bytes]:
    """The files by what follows the slide's id in their paths: `.dzi`, `_files/<level>/<column>_<row>.png`, and so on.

    Raises:
        InputError: no calibration says which colours scores have.
    """
    scale = colour_scale(slide)
    finest = raster(slide, options)
    files = {DESCRIPTION: _description(finest), PLACEMENT: json.dumps(placement(finest), indent=1).encode()}
    top = math.ceil(math.log2(max(*finest.size_px, 1)))
    for number, level in enumerate(pyramid(finest, smallest_px=1)):
        for (column, row), tile in _tiles(rgba(level, scale)):
            files[f"_files/{top - number}/{column}_{row}.png"] = _png(tile)
    return files


def placement(picture: Raster) -> dict[str, float]:
    """Where the picture lies, in widths of what is shown: of the slide, or of its bounds.

    >>> from uadray.exports.raster import Raster
    >>> nothing = np.zeros((376, 501), np.float32)
    >>> placement(Raster(nothing, nothing > 0, (0, 0, 4000, 3000), 8))
    {'x': 0.0, 'y': 0.0, 'width': 1.002}
    """
    return {"x": 0.0, "y": 0.0, "width": picture.size_px[0] * picture.downsample / picture.region[2]}


def _description(picture: Raster) -> bytes:
    width, height = picture.size_px
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="png" Overlap="0" TileSize="{TILE_PX}">'
        f'<Size Width="{width}" Height="{height}"/></Image>\n'
    ).encode()


def _tiles(pixels: NDArray[np.uint8]) -> Iterator[tuple[tuple[int, int], NDArray[np.uint8]]]:
    """The tiles of a level with their column and row; those at the edge are smaller."""
    for row in range(0, pixels.shape[0], TILE_PX):
        for column in range(0, pixels.shape[1], TILE_PX):
            place = (column // TILE_PX, row // TILE_PX)
            yield place, np.ascontiguousarray(pixels[row : row + TILE_PX, column : column + TILE_PX])


def _png(pixels: NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA))
    if not done:
        raise ValueError(f"tile of {list(pixels.shape)} could not be encoded as PNG")
    return bytes(data)
