"""Thumbnail -> the stains of a slide: the colours of haematoxylin and eosin, and how much there is of each.

Both are found on the optical densities of the thumbnail, once a slide, by one of two methods:
methods:

- Macenko et al. (2009), "A method for normalizing histology slides for quantitative analysis".
- Vahadane et al. (2016), "Structure-preserving color normalization and sparse stain separation".

Differences from these papers: the colour of glass is measured instead of assumed. The maxima are 95th percentiles
instead of 99th, and of stained pixels alone: otherwise they would depend on how much glass lies around the tissue.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from uadray.tiles.stain import (
    GLASS,
    LEAST_ANGLE,
    PERCENTILE,
    STAINED,
    Floats,
    Rgb,
    Stain,
    StainConfig,
    StainError,
    Vector,
    angle_degrees,
)
from uadray.tiles.tissue import DARK

Mask = npt.NDArray[np.bool_]

EXTREME = 1.0
"""Percentile of the angles that is taken for a pure stain. Macenko's alpha."""

SPARSITY = 0.1
"""Weight of the L1 term. Vahadane's lambda."""

LEAST_PIXELS = 1000
"""Fewer stained pixels are not fitted. With 1,000 random pixels of a mosaic nine of ten fits lie within 4 degrees of
the fit to all pixels; with 300 within 6."""

MACENKO_PIXELS, VAHADANE_PIXELS = 100_000, 3_000
"""A fit uses at most this many stained pixels, evenly spaced. Sparse coding takes 0.1 ms a pixel; with 3,000 pixels the
colours of four mosaics lie within 1 degree of those with 20,000."""

SEARCHED_PIXELS = 1_000_000
"""Stain and glass are searched for among at most this many pixels, evenly spaced; a thumbnail may have 16 times as
many."""

GLASS_DARKEST, GLASS_CHROMA = 180, 12
"""Unstained glass is brighter than this in every channel, and its channels differ by less."""

GLASS_SHARE = 0.01
"""Share of an image. Where there is less glass than this, `GLASS` is assumed."""


def fit_stain(image: Rgb, config: StainConfig, *, mask: Mask | None = None) -> Stain:
    """The stains of a slide, by `fit_macenko` or `fit_vahadane` as configured. Errors are theirs."""
    method = {"macenko": fit_macenko, "vahadane": fit_vahadane}[config.method]
    return method(image, mask=mask, percentile=config.percentile)


def fit_macenko(image: Rgb, *, mask: Mask | None = None, percentile: float = PERCENTILE) -> Stain:
    """The stains of a slide: the two outermost directions in the plane that most of its optical densities lie in.

    Args:
        image: RGB [..., 3], the thumbnail of a slide; of about the resolution that the reference was fitted at.
        mask: [...], True where to look: tissue without pen marks. None looks at all stained pixels.
        percentile: of the amounts of stain, for the maxima.

    Raises:
        StainError: `little_stain`: fewer than `LEAST_PIXELS` stained pixels; `one_stain`: the directions are less
            than `LEAST_ANGLE` degrees apart, or there is hardly any of one of the stains.
    """
    background = background_light(image)
    density = _stained(image, mask, background, MACENKO_PIXELS)
    return _stain(_extremes(density), density, background, percentile)


def fit_vahadane(image: Rgb, *, mask: Mask | None = None, percentile: float = PERCENTILE) -> Stain:
    """The stains of a slide: two non-negative colours, such that most pixels consist of one of them.

    Dictionary learning with a sparse code, which starts from Macenko's stains and is deterministic. Arguments and
    errors are those of `fit_macenko`. Amounts of stain, here and in `normalizer`, are by least squares instead of the
    sparse codes of the paper, so that normalisation is the same for both methods.
    """
    from sklearn.decomposition import MiniBatchDictionaryLearning
    from sklearn.exceptions import ConvergenceWarning

    background = background_light(image)
    density = _stained(image, mask, background, VAHADANE_PIXELS)
    start = _unit(_extremes(density).clip(0))
    if angle_degrees(start) < LEAST_ANGLE:
        raise _one_stain()
    learner = MiniBatchDictionaryLearning(
        2, alpha=SPARSITY, fit_algorithm="cd", transform_algorithm="lasso_cd", positive_code=True, positive_dict=True,
        dict_init=start.T, max_iter=20, random_state=0,
    )  # fmt: skip
    with warnings.catch_warnings():  # it warns of colours that are alike; whether they are too alike is judged below
        warnings.simplefilter("ignore", ConvergenceWarning)
        atoms = learner.fit(density).components_
    return _stain(np.asarray(atoms, np.float64).T, density, background, percentile)


def background_light(image: Rgb) -> Vector:
    """The colour of glass: the median of the bright and colourless pixels of RGB [..., 3].

    Pure white counts as glass only where there is no other glass: scanners fill with it what they have not scanned.
    """
    pixels = image.reshape(-1, 3)
    red, green, blue = pixels[_spaced(len(pixels), SEARCHED_PIXELS)].T
    darkest, brightest = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    glass = (darkest > GLASS_DARKEST) & (brightest - darkest < GLASS_CHROMA)
    scanned = glass & (darkest < 255)
    enough = max(1, GLASS_SHARE * glass.size)
    for pixels_of_glass in (scanned, glass):
        if np.count_nonzero(pixels_of_glass) >= enough:
            light = [float(np.median(channel[pixels_of_glass])) for channel in (red, green, blue)]
            return light[0], light[1], light[2]
    return GLASS, GLASS, GLASS


def median_stain(stains: Sequence[Stain]) -> Stain:
    """The reference of several slides: the median of each number, with colours brought back to length 1.

    Raises:
        StainError: `little_stain`: there are no slides; `one_stain`: they disagree so much that the medians of both
            colours coincide.
        ValueError: the maxima of the slides are different percentiles.
    """
    if not stains:
        raise StainError("little_stain", "a stain reference needs one slide or more whose stains can be told")
    if any(stain.percentile != stains[0].percentile for stain in stains):
        raise ValueError("the maxima of these stains are different percentiles")
    matrix = np.median([stain.matrix for stain in stains], axis=0)
    maxima = np.median([stain.maxima for stain in stains], axis=0)
    background = np.median([stain.background for stain in stains], axis=0)
    return _checked(matrix, maxima, tuple(background.tolist()), stains[0].percentile)


def _stained(image: Rgb, mask: Mask | None, background: Vector, most: int) -> Floats:
    """Optical densities [n, 3] of at most `most` stained pixels, evenly spaced."""
    pixels = image.reshape(-1, 3)
    if mask is not None:
        pixels = pixels[mask.reshape(-1)]
    pixels = pixels[_spaced(len(pixels), SEARCHED_PIXELS)]
    darkest_glass = (np.array(background) + 1) * math.exp(-STAINED) - 1
    stained = pixels[(pixels <= darkest_glass).all(1) & (pixels > DARK).any(1)]
    if len(stained) < LEAST_PIXELS:
        raise StainError(
            "little_stain",
            f"{len(stained)} stained pixels on the thumbnail, its stains can be told from {LEAST_PIXELS}",
        )
    stained = stained[_spaced(len(stained), most)]
    return np.asarray(np.log(np.array(background) + 1) - np.log(stained + 1.0))


def _spaced(count: int, most: int) -> npt.NDArray[np.intp] | slice:
    """At most `most` indices of `count`, evenly spaced."""
    return slice(None) if count <= most else np.linspace(0, count - 1, most).astype(np.intp)


def _extremes(density: Floats) -> Floats:
    """[3, 2]: the two outermost directions of densities [n, 3] in the plane through zero that most of them lie in."""
    _, axes = np.linalg.eigh(density.T @ density)  # not centred: glass, which is zero, lies in the plane
    main = axes[:, 2] if axes[:, 2].sum() > 0 else -axes[:, 2]
    plane = np.column_stack([main, axes[:, 1]])  # [3, 2]
    angles = np.arctan2(density @ plane[:, 1], density @ plane[:, 0])
    low, high = np.percentile(angles, [EXTREME, 100 - EXTREME])
    return np.asarray(plane @ [[np.cos(low), np.cos(high)], [np.sin(low), np.sin(high)]])


def _unit(colours: Floats) -> Floats:
    """[3, 2] with columns of length 1; a column of zeros is refused as no second stain."""
    norms = np.linalg.norm(colours, axis=0)
    if not norms.all():
        raise _one_stain()
    return np.asarray(colours / norms)


def _stain(colours: Floats, density: Floats, background: Vector, percentile: float) -> Stain:
    """The stain of two colours [3, 2] in any order, with its maxima measured in densities [n, 3]."""
    matrix = _unit(colours)
    matrix = matrix[:, np.argsort(-matrix[0], kind="stable")]  # haematoxylin absorbs more red
    amounts = density @ np.linalg.pinv(matrix).T
    return _checked(matrix, np.percentile(amounts, percentile, axis=0), background, percentile)


def _checked(matrix: Floats, maxima: Floats, background: Vector, percentile: float) -> Stain:
    """The stain of these numbers, refused where they are no two stains."""
    matrix = _unit(matrix)
    if not angle_degrees(matrix) >= LEAST_ANGLE or not (maxima >= STAINED).all():
        raise _one_stain()
    haematoxylin, eosin = matrix.T.tolist()
    return Stain(
        haematoxylin=haematoxylin, eosin=eosin, maxima=maxima.tolist(), percentile=percentile, background=background
    )


def _one_stain() -> StainError:
    return StainError(
        "one_stain", f"no two stains that are {LEAST_ANGLE:g} degrees apart: expected haematoxylin and eosin"
    )
