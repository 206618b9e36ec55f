"""The largest connected region of squares above a threshold."""

import numpy as np
from scipy import ndimage

from uadray.decisions.neighbourhoods import Places, Squares

TOUCHING = np.ones((3, 3), bool)
"""Squares that share a side or a corner belong together."""


def largest_region(squares: Squares, threshold: float) -> Places:
    """Which squares [k] lie in the largest connected region above the threshold; none where no square does.

    Of regions of the same area it is the one with the highest mean score.
    """
    above = np.flatnonzero(squares.score > threshold)
    if not len(above):
        return above
    picture = np.zeros((squares.row.max() + 1, squares.column.max() + 1), bool)
    picture[squares.row[above], squares.column[above]] = True
    region = ndimage.label(picture, TOUCHING)[0][squares.row[above], squares.column[above]] - 1
    area, total = np.bincount(region), np.bincount(region, weights=squares.score[above])
    best = np.lexsort((total / area, area))[-1]
    return np.asarray(above[region == best])
