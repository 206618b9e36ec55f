"""Thumbnail -> the stains of a slide: the colours of haematoxylin and eosin, and how much there is of each.

Light through a stained slide follows the law of Beer and Lambert: optical density = amounts of stain x the stains'
colours. `fit_stain` finds the two colours and the amounts on a thumbnail, once a slide; `stain_normalize` uses them.

- Macenko et al. (2009), "A method for normalizing histology slides for quantitative analysis".
- Vahadane et al. (2016), "Structure-preserving color normalization and sparse stain separation".

Differences from these papers: the colour of glass is measured instead of assumed. The maxima are 95th percentiles
instead of 99th, and of stained pixels alone: otherwise they would depend on how much glass lies around the tissue.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from uadray.config import Config
from uadray.errors import UadrayError
from uadray.tiles.tissue import DARK

Rgb = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Vector = tuple[float, float, float]
Method = Literal["macenko", "vahadane"]

STAINED = 0.15
"""Optical density (natural) that a pixel must have in each channel to count as stained. Macenko's beta."""

EXTREME = 1.0
"""Percentile of the angles that is taken for a pure stain. Macenko's alpha."""

PERCENTILE = 95.0
"""Percentile of the amounts of a stain that is brought to the reference's. Macenko has 99, on fewer pixels. The mean
colour of a slide lay on average 18.6 grey levels from that of all 40 training mosaics of `../shared/data`; after
normalisation with 99 it lay 7.5 from it, with 95 6.3. For the 46 other mosaics it was 19.4, then 10.2 and 6.1. With 75
it was 4.8 and 5.1, but the lower the percentile, the more the mixture of tissues decides how dark a slide becomes; 50
is worse (9.7 and 10.7)."""

SPARSITY = 0.1
"""Weight of the L1 term. Vahadane's lambda."""

LEAST_PIXELS = 1000
"""Fewer stained pixels are not fitted. With 1,000 random pixels of a mosaic nine of ten fits lie within 4 degrees of
the fit to all pixels; with 300 within 6."""

LEAST_ANGLE = 6.0
"""Degrees that two stains are apart at least. A single stain with noise of 2 grey levels is fitted as two stains that
are up to 5 degrees apart; 86 mosaics of real tiles gave at least 13.9 by Macenko, and 7.9 by Vahadane."""

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

GLASS = 239.0
"""Grey level of glass in Macenko's paper: 240, less the 1 that is added to pixels before the logarithm."""


class StainError(UadrayError):
    """The stains of an image cannot be told.

    Attributes:
        reason: `little_stain` or `one_stain`, for the slide's state.
    """

    def __init__(self, reason: str, message: str) -> None:
        """Set the reason and the message."""
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type["StainError"], tuple[str, str]]:
        """Keep both arguments when the error is pickled, as Ray does."""
        return (StainError, (self.reason, self.message))


class Stain(Config):
    """The colours of one slide, or of the reference.

    Attributes:
        haematoxylin: optical density of one unit of it in red, green and blue; a vector of length 1.
        eosin: likewise.
        maxima: the greatest amounts of haematoxylin and of eosin in stained pixels, as a percentile.
        percentile: which percentile the maxima are.
        background: grey levels of unstained glass in red, green and blue.
    """

    haematoxylin: Vector
    eosin: Vector
    maxima: tuple[float, float]
    percentile: float = Field(default=PERCENTILE, gt=0, le=100)
    background: Vector = (GLASS, GLASS, GLASS)

    @model_validator(mode="after")
    def _makes_sense(self) -> "Stain":
        for name in ("haematoxylin", "eosin"):
            if not math.isclose(math.hypot(*getattr(self, name)), 1, abs_tol=1e-3):
                raise ValueError(f"{name} must have length 1")
        if not _angle(self.matrix) >= LEAST_ANGLE:
            raise ValueError(f"haematoxylin and eosin must be {LEAST_ANGLE:g} degrees apart or more")
        if not all(0 < amount < math.inf for amount in self.maxima):
            raise ValueError("maxima must be above 0")
        if not all(0 < light <= 255 for light in self.background):
            raise ValueError("background must lie in (0, 255]")
        return self

    @property
    def matrix(self) -> Floats:
        """[3, 2]: densities of red, green, blue by haematoxylin, eosin."""
        return np.array([self.haematoxylin, self.eosin], np.float64).T


class StainConfig(Config):
    """How the colours of slides are normalised.

    Attributes:
        method: how the stains of a slide are found.
        reference: the stains that slides are brought to; None fits them to the training slides (`median_stain`).
        percentile: of the amounts of a stain, the one that is brought to the reference's; 99 in Macenko's paper.
        residual: share that is kept of what lies outside both stains (ink, pigment, blood); 0 in Macenko's paper.
    """

    method: Method = "macenko"
    reference: Stain | None = None
    percentile: float = Field(default=PERCENTILE, gt=0, le=100)
    residual: float = Field(default=1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _same_percentile(self) -> "StainConfig":
        if self.reference is not None and self.reference.percentile != self.percentile:
            raise ValueError(f"percentile must be that of the reference's maxima, {self.reference.percentile:g}")
        return self


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
    if _angle(start) < LEAST_ANGLE:
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
    if not _angle(matrix) >= LEAST_ANGLE or not (maxima >= STAINED).all():
        raise _one_stain()
    haematoxylin, eosin = matrix.T.tolist()
    return Stain(
        haematoxylin=haematoxylin, eosin=eosin, maxima=maxima.tolist(), percentile=percentile, background=background
    )


def _one_stain() -> StainError:
    return StainError(
        "one_stain", f"no two stains that are {LEAST_ANGLE:g} degrees apart: expected haematoxylin and eosin"
    )


def _angle(matrix: Floats) -> float:
    """Degrees between the unit columns of [3, 2]."""
    return math.degrees(math.atan2(float(np.linalg.norm(np.cross(*matrix.T))), float(matrix[:, 0] @ matrix[:, 1])))
