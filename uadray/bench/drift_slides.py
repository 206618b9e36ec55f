"""Small slides of real tiles, as one scanner sees them and as they are after a change: their measures.

A slide is 30 tiles of PatchCamelyon of one of its two stains (one scanner's). Tiles do not tell from which slide they
came, so what makes slides differ is added: each has amounts of stain of its own, by the light augmentation of Tellez et
al. (2018). Measures are those of a decision: medians over tiles of saturation, green and sharpness. There is no score
and no tissue share, since there is no detector and no grid.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np

from uadray.bench.detector_data import data_folder, read_label
from uadray.bench.stain_shift import FADED, blue_tiles
from uadray.tiles.focus import focus
from uadray.tiles.images import Pixels
from uadray.tiles.stain import Stain, Vector
from uadray.tiles.stain_augment import augment
from uadray.tiles.stain_fit import fit_macenko
from uadray.tiles.stain_normalize import normalizer
from uadray.tiles.trivial_scores import trivial_scores

Measures = dict[str, float]

MPP = 0.972
SLIDES, TILES = 320, 30
BETWEEN_SLIDES = 0.05
"""Both sigmas of Tellez's light augmentation."""

STRENGTHS = {"full": 1.0, "half": 0.5, "quarter": 0.25}
BLURS_UM = (0.5, 0.75, 1.0)
"""Sigmas of a blur. By 1.5 um a tile is flagged as out of focus, and its slide is not assessable."""

SEED = 12


def measured_slides(folder: Path | None = None) -> dict[str, list[Measures]]:
    """The same slides unchanged (`normal`) and after each change, each with its measures.

    Raises:
        InputError: the development data are not there.
        StainError: the stains of the tiles cannot be told.
    """
    tiles = read_label(str((folder or data_folder()) / "pcam" / "train.zip"), "normal")
    is_blue = blue_tiles(tiles)
    own, other = tiles[~is_blue], tiles[is_blue]
    changes = _changes(fit_macenko(own), fit_macenko(other))
    slides: dict[str, list[Measures]] = {name: [] for name in changes}
    for slide in _slides(own):
        for name, changed in changes.items():
            slides[name].append(measures_of(changed(slide)))
    return slides


def measures_of(tiles: Pixels) -> Measures:
    """Saturation, green and focus of a slide of RGB tiles [n, h, w, 3]: medians, as a decision has them."""
    saturation, green = trivial_scores(tiles)
    return {
        "saturation": float(np.median(saturation)),
        "green": float(np.median(green)),
        "focus": float(np.median(focus(tiles, MPP))),
    }


def between(own: Stain, other: Stain, strength: float) -> Stain:
    """The stain on the way from one to another; 0 is the first and 1 the second."""

    def mixed(first: Vector, second: Vector) -> Vector:
        red, green, blue = ((1 - strength) * a + strength * b for a, b in zip(first, second, strict=True))
        return red, green, blue

    def unit(vector: Vector) -> Vector:
        length = math.hypot(*vector)
        return vector[0] / length, vector[1] / length, vector[2] / length

    (h_own, e_own), (h_other, e_other) = own.maxima, other.maxima
    return Stain(
        haematoxylin=unit(mixed(own.haematoxylin, other.haematoxylin)),
        eosin=unit(mixed(own.eosin, other.eosin)),
        maxima=((1 - strength) * h_own + strength * h_other, (1 - strength) * e_own + strength * e_other),
        background=mixed(own.background, other.background),
    )


def _changes(own: Stain, other: Stain) -> Mapping[str, Callable[[Pixels], Pixels]]:
    """Name -> what becomes of a slide's tiles: a third laboratory's stain, the other scanner's, or blur."""
    changes: dict[str, Callable[[Pixels], Pixels]] = {"normal": lambda tiles: tiles}
    for name, reference in (("faded", FADED), ("other", other)):
        for how, strength in STRENGTHS.items():
            changes[f"{name}_{how}"] = normalizer(own, between(own, reference, strength))
    for sigma_um in BLURS_UM:
        changes[f"blur_{sigma_um:g}_um"] = _Blur(sigma_um / MPP)
    return changes


class _Blur:
    """A Gaussian blur of each tile."""

    def __init__(self, sigma_px: float) -> None:
        self.sigma_px = sigma_px

    def __call__(self, tiles: Pixels) -> Pixels:
        return np.stack([cv2.GaussianBlur(tile, (0, 0), self.sigma_px) for tile in tiles]).astype(np.uint8)


def _slides(tiles: Pixels) -> Iterator[Pixels]:
    """RGB tiles [n, h, w, 3] of each slide; all tiles are used as often, none twice in a slide."""
    rng = np.random.default_rng(SEED)
    order = np.concatenate([rng.permutation(len(tiles)) for _ in range(1 + SLIDES * TILES // len(tiles))])
    for first in range(0, SLIDES * TILES, TILES):
        drawn = tiles[np.unique(order[first : first + TILES])]
        tall = drawn.reshape(1, -1, *drawn.shape[2:])  # one image, so that all tiles of the slide vary alike
        yield augment(tall, rng, sigma_alpha=BETWEEN_SLIDES, sigma_beta=BETWEEN_SLIDES).reshape(drawn.shape)
