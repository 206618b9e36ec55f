"""A picture of one mosaic as a detector sees it: the slide with its tumour outlined, tile scores, residual maps.

For people: whether what a detector marks is tumour, vessels, glass or the borders of tiles is in no figure. Colours
begin at the median of a normal mosaic and end at its 99th percentile, of tile scores and of residuals each, so that
what is dark would be rare on normal tissue.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from uadray.bench.detector_data import CutSlide
from uadray.bench.detector_pictures import DetectorScore
from uadray.bench.detector_training import resampled
from uadray.evaluation.arrays import Floats
from uadray.evaluation.outlines import outline_uri, read_outlines
from uadray.reports.colours import tint
from uadray.reports.pictures import Image, pale_grey
from uadray.slides.manifest import has_label

GAP_PX = 24
"""Between two panels, before they are reduced."""

SHOWN = 2 / 3
"""Of the size of tiles: 64 pixels of 96, in which nuclei are still seen."""

OUTLINE = (20, 120, 20)
"""Green: neither a stain nor a colour of the scale."""

TOP = 99.0
"""Percentile of a normal mosaic at the dark end of the scale."""


def shown_pair(slides: Sequence[CutSlide]) -> tuple[CutSlide, CutSlide] | None:
    """The first slide with tumour and the first normal one; None where one is missing."""
    tumour = next((slide for slide in slides if has_label(slide.row.label, "tumor")), None)
    normal = next((slide for slide in slides if has_label(slide.row.label, "normal")), None)
    return None if tumour is None or normal is None else (tumour, normal)


def mosaic_picture(score: DetectorScore, slide: CutSlide, normal: CutSlide) -> Image:
    """Three panels of a slide side by side, reduced: RGB uint8 [h, 3 w + 2 gaps, 3].

    Args:
        score: of the row.
        slide: with its tiles.
        normal: another one, whose scores and residuals make the scale.
    """
    panels = [outlined(pasted(slide, slide.pixels), slide)]
    grey = pale_grey(pasted(slide, slide.pixels))
    for of_tiles in (tile_scores, tile_maps):
        values, usual = of_tiles(score, slide), of_tiles(score, normal)
        low, high = (float(np.nanpercentile(usual, q)) for q in (50.0, TOP))
        panels.append(outlined(tint(grey, pasted(slide, values, empty=np.nan), low=low, high=high), slide))
    gap = np.full((len(grey), GAP_PX, 3), 255, np.uint8)
    return reduced(np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1))


def reduced(picture: Image) -> Image:
    """A picture as a page shows it."""
    small: Image = cv2.resize(picture, None, fx=SHOWN, fy=SHOWN, interpolation=cv2.INTER_AREA)
    return small


def tile_scores(score: DetectorScore, slide: CutSlide) -> Floats:
    """The score of each tile at all of its pixels: [n, h, w]."""
    return np.broadcast_to(score(slide.pixels)[:, None, None], slide.pixels.shape[:3])


def tile_maps(score: DetectorScore, slide: CutSlide) -> Floats:
    """Residual maps at the pixels of tiles [n, h, w]; NaN outside the centre that a detector looks at."""
    tiles = resampled(slide.pixels, score.mpp)
    maps = score.detector.maps(tiles)
    side_px = slide.pixels.shape[1]
    seen_px = round(side_px * score.detector.input_px / tiles.shape[1])
    values = np.full((len(maps), side_px, side_px), np.nan)
    begin = (side_px - seen_px) // 2
    for whole, residual in zip(values, maps, strict=True):
        part = cv2.resize(residual.astype(np.float32), (seen_px, seen_px), interpolation=cv2.INTER_LINEAR)
        whole[begin : begin + seen_px, begin : begin + seen_px] = part
    return values


def pasted(slide: CutSlide, of_tiles: npt.NDArray[Any], *, empty: float = 255) -> npt.NDArray[Any]:
    """What there is of each good tile [n, h, w, ...] at its place, from the first of them: [rows, columns, ...]."""
    side_px, corners = of_tiles.shape[1], corners_px(slide)
    corners = corners - corners.min(0)
    canvas = np.full((*(corners.max(0) + side_px), *of_tiles.shape[3:]), empty, of_tiles.dtype)
    for (y, x), tile in zip(corners, of_tiles, strict=True):
        canvas[y : y + side_px, x : x + side_px] = tile
    return canvas


def corners_px(slide: CutSlide) -> npt.NDArray[np.int64]:
    """Where good tiles begin on the slide, in pixels of the tiles: [n, 2], y and x."""
    tiles = slide.table.filter(slide.good)
    places = np.stack([tiles[name].to_numpy() for name in ("y_level0_px", "x_level0_px")], axis=1)
    return np.rint(places * scale_of(slide)).astype(np.int64)


def scale_of(slide: CutSlide) -> float:
    """Pixels of a tile for one at level 0."""
    return float(slide.pixels.shape[1] / slide.table["width_level0_px"][0].as_py())


def outlined(picture: Image, slide: CutSlide) -> Image:
    """What was `pasted`, with the outlines of tumour drawn on it; as it is where the slide has none."""
    outline = read_outlines(outline_uri(slide.row.uri, slide.row.slide_id, None))
    if outline is None or outline.is_empty:
        return picture
    first, drawn = corners_px(slide).min(0)[::-1], np.ascontiguousarray(picture)
    for polygon in getattr(outline, "geoms", [outline]):
        for ring in (polygon.exterior, *polygon.interiors):
            points = np.rint(np.asarray(ring.coords)[:, :2] * scale_of(slide) - first).astype(np.int32)
            cv2.polylines(drawn, [points], isClosed=True, color=OUTLINE, thickness=3)
    return drawn
