"""Outlines of lesions -> the mask that Camelyon16 judges detections by.

After the evaluation script that is published with the data set (https://registry.opendata.aws/camelyon, in CAMELYON16;
Ehteshami Bejnordi et al. 2017, https://doi.org/10.1001/jama.2017.14585): lesions are drawn at level 5 of slides of
0.243 um/px, widened by half of 75 um to each side, holes are filled, and what touches, corners included, is one lesion.
A lesion whose longest axis is shorter than 200 um and these 75 um are isolated tumour cells: neither to be found nor a
false alarm where something is found in them. Slides of another resolution are judged at the power of two of their
pixels that is closest to level 5 in micrometres, so that for Camelyon16's it is level 5.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from scipy import ndimage

from uadray.errors import InputError
from uadray.tiles.polygon_fill import Budget, Mask, filled

LEVEL_UM = 0.243 * 2**5
"""Pixel of the script's level 5, 7.8 um."""

WIDENED_UM = 75.0
"""About five tumour cells; half of it on each side of a lesion."""

ISOLATED_UM = 200.0
"""Metastases begin at 0.2 mm (AJCC Cancer Staging Manual, 8th ed., breast); what is smaller are isolated cells."""

MAX_PIXELS = 2**27
"""Of the box around a slide's lesions: 8,000 mm2, four whole slides, about 2 GB while it is made."""

MAX_CROSSINGS = 2**28

FAR_PX = 1e7
"""Level-0 pixels beyond which points of an outline are moved to here: a slide has some 200,000."""

TOUCHING = np.ones((3, 3), np.bool_)
"""Pixels that meet at a corner are of one lesion."""


@dataclass(frozen=True, eq=False)
class LesionMask:
    """The lesions of a slide as the script sees them.

    Attributes:
        labels: [h, w], number of the lesion from 1, 0 elsewhere; of the box around all of them.
        left: column of the box's first pixel in the slide.
        top: its row.
        downsample: level-0 pixels of a pixel.
        is_isolated: [n + 1], by number, whether these are isolated tumour cells; the first is no lesion.
    """

    labels: npt.NDArray[np.int32]
    left: int
    top: int
    downsample: int
    is_isolated: npt.NDArray[np.bool_]

    @property
    def n_lesions(self) -> int:
        """How many lesions are to be found."""
        return int((~self.is_isolated[1:]).sum())

    @property
    def n_isolated(self) -> int:
        """How many lesions are isolated tumour cells."""
        return int(self.is_isolated[1:].sum())

    def at(self, x_level0_px: npt.NDArray[np.float64], y_level0_px: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
        """The number of the lesion at points [n], 0 where there is none.

        The script rounds coordinates to the nearest pixel number, and so does this, halves to even numbers.
        """
        column = np.rint(np.asarray(x_level0_px) / self.downsample).astype(np.int64) - self.left
        row = np.rint(np.asarray(y_level0_px) / self.downsample).astype(np.int64) - self.top
        height, width = self.labels.shape
        is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        found = np.zeros(len(column), np.int32)
        found[is_inside] = self.labels[row[is_inside], column[is_inside]]
        return found


def downsample_of(mpp_level0: float) -> int:
    """Level-0 pixels of a pixel of the mask, a power of two.

    >>> downsample_of(0.243), downsample_of(0.226), downsample_of(0.5), downsample_of(0.972)
    (32, 32, 16, 8)
    """
    return int(2 ** max(0, round(math.log2(LEVEL_UM / mpp_level0))))


def lesion_mask(
    outline: Any, *, mpp_level0: float, size_level0_px: tuple[int, int] | None = None, name: str = "its outlines"
) -> LesionMask:
    """The mask of a slide's lesions.

    Args:
        outline: polygons in level-0 pixels (see `evaluation.outlines`).
        mpp_level0: um of a level-0 pixel.
        size_level0_px: width and height of the slide; what lies beyond is cut off.
        name: of the outlines, for errors.

    Raises:
        InputError: the lesions lie further apart than on any slide.
    """
    downsample = downsample_of(mpp_level0)
    um = mpp_level0 * downsample
    within = WIDENED_UM / (um * 2)
    mask, left, top = _drawn(outline, downsample, size_level0_px, margin=math.ceil(within) + 1, name=name)
    near = ndimage.distance_transform_edt(~mask) < within if mask.any() else mask
    labels, n = ndimage.label(ndimage.binary_fill_holes(near), structure=TOUCHING, output=np.int32)
    shortest = (ISOLATED_UM + WIDENED_UM) / um
    is_isolated = np.concatenate([[False], longest_axes(labels, n) < shortest])
    return LesionMask(labels, left, top, downsample, is_isolated)


def rasterised(
    outline: Any, shape: tuple[int, int], *, downsample: float, left: int = 0, top: int = 0, name: str = "its outlines"
) -> Mask:
    """The pixels whose centres lie in polygons, bool [h, w].

    The area differs from that of the polygons by what its edges cut: of a region of several hundred pixels by a
    thousandth (measured on Camelyon16's outlines at level 5, see tests).

    Args:
        outline: in level-0 pixels.
        shape: height and width.
        downsample: level-0 pixels of a pixel.
        left: column of the first pixel.
        top: row of the first pixel.
        name: of the outlines, for errors.

    Raises:
        InputError: there is too much to draw.
    """
    mask = np.zeros(shape, np.bool_)
    budget = Budget(filled=16 * MAX_PIXELS, crossings=MAX_CROSSINGS)
    try:
        for polygon in _polygons(outline):
            rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
            points = [np.clip(ring, -FAR_PX, FAR_PX) / downsample - (left, top) for ring in rings]
            box, inside = filled(shape, points, budget)
            mask[box] |= inside
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    return mask


def longest_axes(labels: npt.NDArray[np.int32], n: int) -> npt.NDArray[np.float64]:
    """The longest axis [n] of each labelled region, in pixels: of the ellipse with the same second moments.

    As scikit-image's `regionprops` has it, which the script takes: four times the root of the larger eigenvalue of the
    covariance of a region's pixels.
    """
    axes = np.zeros(n)
    for number, box in enumerate(ndimage.find_objects(labels, max_label=n), 1):
        rows, columns = np.nonzero(labels[box] == number)
        row, column = rows - rows.mean(), columns - columns.mean()
        a, b, c = (row * row).mean(), (row * column).mean(), (column * column).mean()
        axes[number - 1] = 4 * math.sqrt(max(0.0, (a + c) / 2 + math.hypot((a - c) / 2, b)))
    return axes


def _polygons(outline: Any) -> list[Any]:
    """The polygons of a geometry; lines and points have no area."""
    pieces = (
        [] if outline is None else [piece for part in shapely.get_parts(outline) for piece in shapely.get_parts(part)]
    )
    return [piece for piece in pieces if piece.geom_type == "Polygon" and not piece.is_empty]


def _drawn(
    outline: Any, downsample: int, size_level0_px: tuple[int, int] | None, *, margin: int, name: str
) -> tuple[Mask, int, int]:
    """The lesions in the box around them, with pixels of the slide around that; and the box's left and top."""
    polygons = _polygons(outline)
    if not polygons:
        return np.zeros((1, 1), np.bool_), 0, 0
    bounds = np.clip(shapely.total_bounds(polygons), -FAR_PX, FAR_PX) / downsample
    low, high = np.floor(bounds[:2]) - margin, np.ceil(bounds[2:]) + margin
    ends = np.ceil(np.array(size_level0_px or (np.inf, np.inf)) / downsample)
    left, top = np.clip(low, 0, ends)
    right, bottom = np.clip(high, 0, ends)
    width, height = int(max(right - left, 1)), int(max(bottom - top, 1))
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name}: lesions span {width * downsample:,} x {height * downsample:,} level-0 pixels, more than any "
            "slide; are the coordinates level-0 pixels?"
        )
    left, top = int(left), int(top)
    drawn = rasterised(outline, (height, width), downsample=downsample, left=left, top=top, name=name)
    return drawn, left, top
