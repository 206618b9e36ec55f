"""Tiles -> copies of them as other laboratories would have stained them, by the method of Macenko et al. (2009).

A lone tile hardly shows its slide's stains: one with lymphocytes alone has no eosin to fit. So tiles are told apart by
how blue their tissue is, into two clusters, one a scanner in PatchCamelyon, and each cluster is fitted as a slide is.
What is not one of the two stains is dropped, as in the paper. Nothing is random: same tiles, same copies.
"""

import math

import numpy as np
import numpy.typing as npt

from uadray.tiles.images import Pixels
from uadray.tiles.stain import Stain, Vector
from uadray.tiles.stain_fit import fit_macenko
from uadray.tiles.stain_normalize import normalizer

COLOURED = 20
"""Grey levels between the channels of a pixel above which it is taken for tissue."""


def _unit(red: float, green: float, blue: float) -> Vector:
    length = math.hypot(red, green, blue)
    return red / length, green / length, blue / length


FADED = Stain(
    haematoxylin=_unit(0.5626, 0.7201, 0.4062),
    eosin=_unit(0.2159, 0.8012, 0.5581),
    maxima=(1.9705, 1.0308),
    background=(240.0, 240.0, 240.0),
)
"""The reference that Macenko's authors published with their code: bluish nuclei and pale, yellowish eosin, unlike both
stains of PatchCamelyon."""


def shifted(tiles: Pixels) -> dict[str, Pixels]:
    """Copies of RGB tiles [n, h, w, 3] by name, in the same order.

    `swapped` has the stain of the other cluster, which is among those of the training; `faded` a third one.

    Raises:
        StainError: the stains of a cluster cannot be told.
    """
    is_blue = blue_tiles(tiles)
    fitted = {blue: fit_macenko(tiles[is_blue == blue]) for blue in (False, True)}
    copies = {"swapped": np.empty_like(tiles), "faded": np.empty_like(tiles)}
    for blue, stain in fitted.items():
        for name, reference in (("swapped", fitted[not blue]), ("faded", FADED)):
            copies[name][is_blue == blue] = normalizer(stain, reference, residual=0)(tiles[is_blue == blue])
    return copies


def blue_tiles(tiles: Pixels) -> npt.NDArray[np.bool_]:
    """[n], which tiles belong to the bluer of two clusters: the split that leaves least variance (Otsu 1979).

    Its measure is the mean of blue minus red over the coloured pixels.
    """
    blueness = np.array([_blueness(tile) for tile in tiles])
    ordered = np.sort(blueness)
    below = np.arange(1, len(ordered))
    above, sums = len(ordered) - below, ordered.cumsum()
    apart = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    return np.asarray(blueness > ordered[int((below * above * apart**2).argmax())])


def _blueness(tile: Pixels) -> float:
    """Mean of blue minus red over the coloured pixels of RGB [h, w, 3]; 0 where none is coloured."""
    levels = tile.reshape(-1, 3).astype(np.int16)
    coloured = levels[np.ptp(levels, axis=1) > COLOURED]
    return float((coloured[:, 2] - coloured[:, 0]).mean()) if len(coloured) else 0.0
