"""Heatmaps as pyramidal OME-TIFF: the scores as 32-bit numbers, and their colours, each a picture over the slide.

One pixel is a whole number of level-0 pixels, a power of two, so that the picture coincides with a level of the slide's
pyramid; its size is stated as PhysicalSizeX and Y. The upper left corner is that of level 0, or that of the slide's
bounds in the coordinates that QuPath shows; PositionX and Y say where it is, in micrometres from the corner of level 0.
The last column and row may reach over the slide's edge, by less than a pixel. Coarser levels, each half as large, lie
in SubIFDs (https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html). The same slide gives the same
bytes.

Among scores, tiles without a score and places without a tile are NaN. The colours are those of the heatmaps on pages,
on white.
"""

import io
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from uadray import __version__
from uadray.errors import SlideError
from uadray.exports.exported_slide import ExportedSlide, ExportOptions, Scale
from uadray.exports.raster import Raster, colour_scale, pyramid, raster, rgb

SCORES, COLOURS = ".scores.ome.tif", ".colours.ome.tif"

TILE_PX = 256
"""Side of the file's tiles; the coarsest level is one."""

NAMESPACE = "uadray/heatmap"
"""Of the annotation that says the same in level-0 pixels."""

_CONTROL = re.compile(r"[^\t -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot have

_UUIDS = uuid.UUID("8f0f6e0b-0c39-4f0e-9a53-6f1f1b4f5b52")  # a namespace of our own, for names that repeat


def exported(slide: ExportedSlide, options: ExportOptions) -> dict[str, bytes]:
    """Two files by their suffixes, `SCORES` and `COLOURS`.

    Raises:
        SlideError: `no_mpp`: nothing says how large its pixels are.
        InputError: no calibration says which colours scores have.
    """
    scale = colour_scale(slide)
    levels = list(pyramid(raster(slide, options), smallest_px=TILE_PX))
    facts = _facts(slide, levels[0], scale)
    return {
        SCORES: _tiff(levels, lambda level: level.scores, facts | {"axes": "YX"}, background=np.nan),
        COLOURS: _tiff(levels, lambda level: rgb(level, scale), facts | {"axes": "YXS"}, background=255),
    }


def _facts(slide: ExportedSlide, picture: Raster, scale: Scale) -> dict[str, Any]:
    """What the OME-XML says: names of the keys are those of `tifffile.OmeXml`."""
    mpp = slide.mpp_level0
    if mpp is None:
        raise SlideError(slide.slide_id, "no_mpp", "nothing says how large its pixels are; give --bundle")
    x, y, width, height = picture.region
    places = {
        "x_level0_px": x, "y_level0_px": y, "width_level0_px": width, "height_level0_px": height,
        "level0_px_per_pixel": picture.downsample, "mpp_level0": mpp,
    }  # fmt: skip
    meaning: dict[str, object] = {"low": scale.low, "high": scale.high, "tile_threshold": scale.tile_threshold}
    meaning |= {"bundle": _CONTROL.sub("?", slide.name), "fingerprint": slide.decision["fingerprint"]}
    return {
        "Creator": f"uadray {__version__}",
        "Name": _CONTROL.sub("?", slide.slide_id),
        "Description": "Scores of tiles: how unlike normal tissue they look. For research use only.",
        "PhysicalSizeX": picture.downsample * mpp, "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": picture.downsample * mpp, "PhysicalSizeYUnit": "µm",
        "Plane": {
            "PositionX": [x * mpp], "PositionXUnit": ["µm"], "PositionY": [y * mpp], "PositionYUnit": ["µm"],
        },
        "MapAnnotation": {"Namespace": NAMESPACE} | {name: str(value) for name, value in (places | meaning).items()},
    }  # fmt: skip


def _tiff(
    levels: Sequence[Raster], pixels: Callable[[Raster], NDArray[Any]], facts: dict[str, Any], *, background: float
) -> bytes:
    """The bytes of a file; the pixels of one level at a time are in memory."""
    sink = io.BytesIO()
    name = uuid.uuid5(_UUIDS, repr(sorted(facts.items(), key=lambda item: item[0])))
    smallest = pixels(levels[-1])
    kind: dict[str, Any] = {
        "dtype": smallest.dtype, "tile": (TILE_PX, TILE_PX), "compression": "zlib", "maxworkers": 1, "software": False,
        "photometric": "rgb" if smallest.ndim == 3 else "minisblack", "resolutionunit": "CENTIMETER",
    }  # fmt: skip
    with tifffile.TiffWriter(sink, ome=True) as tiff:
        for number, level in enumerate(levels):
            cm = facts["PhysicalSizeX"] * 2**number * 1e-4
            whole = pixels(level)
            tiff.write(
                _file_tiles(whole, background), shape=whole.shape, resolution=(1 / cm, 1 / cm), **kind,
                **({"metadata": facts | {"UUID": str(name)}, "subifds": len(levels) - 1} if number == 0 else {}),
                **({"metadata": None, "subfiletype": 1} if number else {}),
            )  # fmt: skip
    return sink.getvalue()


def _file_tiles(pixels: NDArray[Any], background: float) -> Iterator[NDArray[Any]]:
    """The tiles of a level row by row, each whole: [TILE_PX, TILE_PX] or [TILE_PX, TILE_PX, 3]."""
    for y in range(0, pixels.shape[0], TILE_PX):
        for x in range(0, pixels.shape[1], TILE_PX):
            part = pixels[y : y + TILE_PX, x : x + TILE_PX]
            tile = np.full((TILE_PX, TILE_PX, *pixels.shape[2:]), background, pixels.dtype)
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile
