"""Stain: what colours a slide has, every slide in the colours of one, and colours varied for training.

Light through a stained slide follows Beer and Lambert: optical density = amounts of stain x the stains' colours. `fit`
finds the two colours and how much there is of each on a thumbnail, once a slide; `normalizer` maps densities to
those of a reference by one 3 x 3 matrix, between a table of logarithms and an exponential.

- Macenko et al. (2009), "A method for normalizing histology slides for quantitative analysis".
- Vahadane et al. (2016), "Structure-preserving color normalization and sparse stain separation".
- Tellez et al. (2018), "Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference": `augment`.

Where this departs from them: amounts are never clipped at zero (the map stays linear, a slide normalised to itself is
unchanged); what lies outside both stains is kept unless `residual` says otherwise; glass is measured, not assumed; the
maxima are the 95th percentiles, not the 99th, and of stained pixels alone: otherwise they depend on how much glass
there is around.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
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
"""Of the amounts, that stands for the most. Macenko has 99, on fewer pixels. A slide's mean colour lay on average
18.6 grey levels from that of all 40 training mosaics of `../shared/data`, after normalising 7.5 with 99 and 6.3 with
95; over the 46 other mosaics 19.4, then 10.2 and 6.1. 75 gives 4.8 and 5.1, but the lower, the more the mixture of
tissues decides how dark a slide is painted; 50 is worse (9.7, 10.7)."""

SPARSITY = 0.1
"""Weight of the L1 term. Vahadane's lambda."""

LEAST_PIXELS = 1000
"""With 1,000 random pixels of a mosaic nine fits of ten lie within 4 degrees of the fit to all; with 300 within 6."""

LEAST_ANGLE = 6.0
"""Degrees between two stains. One stain with noise of 2 grey levels is fitted as two at up to 5; 86 mosaics of real
tiles gave 13.9 and more by Macenko, 7.9 and more by Vahadane."""

MACENKO_PIXELS, VAHADANE_PIXELS = 100_000, 3_000
"""Stained pixels that are looked at: at most so many, evenly spaced. Sparse coding takes 0.1 ms a pixel; with 3,000
four mosaics' colours lie within 1 degree of those with 20,000."""

LOOKED_AT = 1_000_000
"""Pixels of an image that are looked at for stain or glass: a thumbnail may have 16 times as many."""

GLASS_DARKEST, GLASS_CHROMA = 180, 12
"""Unstained glass is brighter than this in every channel, and its channels differ by less."""

GLASS_SHARE = 0.01
"""Of an image; with less glass than this `GLASS` is assumed."""

GLASS = 239.0
"""Macenko's transmitted light of 240, less the one that is added to pixels before the logarithm."""

HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Haematoxylin, eosin and DAB, rows: Ruifrok and Johnston (2001), "Quantification of histochemical staining"."""

BLOCK_PX = 16_384
"""Pixels at a time, in two buffers of 0.2 MB that are used again: with fresh arrays of 65,536 pixels a tile took 2.8
times as long, in the kernel, unless glibc was told to keep its memory."""


class StainError(UadrayError):
    """The stains of an image cannot be told.

    Attributes:
        reason: `little_stain` or `one_stain`, for the slide's state.
    """

    def __init__(self, reason: str, message: str) -> None:
        """Name the reason, and what was expected."""
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type["StainError"], tuple[str, str]]:
        """Cross process borders whole (Ray pickles errors)."""
        return (StainError, (self.reason, self.message))


class Stain(Config):
    """The colours of one slide, or of the reference.

    Attributes:
        haematoxylin: optical density of a unit of it in red, green, blue; length 1.
        eosin: likewise.
        maxima: of the amounts of both in stained pixels.
        percentile: which one the maxima are.
        background: unstained glass in grey levels: red, green, blue.
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
    """How slides are brought to one colour.

    Attributes:
        method: how a slide's stains are found.
        reference: what they are brought to; None is fitted to the training slides (`median_stain`).
        percentile: of the amounts of a stain, that is brought to the reference's; 99 is Macenko's.
        residual: the share that is kept of what lies outside both stains (ink, pigment, blood); 0 is Macenko's.
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


# --- what colours a slide has ----------------------------------------------------------------------------------------


def fit(image: Rgb, config: StainConfig, *, mask: Mask | None = None) -> Stain:
    """`fit_macenko` or `fit_vahadane`, as configured. See there."""
    by = {"macenko": fit_macenko, "vahadane": fit_vahadane}[config.method]
    return by(image, mask=mask, percentile=config.percentile)


def fit_macenko(image: Rgb, *, mask: Mask | None = None, percentile: float = PERCENTILE) -> Stain:
    """The extreme directions, seen from glass, in the plane that most of the densities lie in.

    Args:
        image: RGB [..., 3], the thumbnail of a slide; of about the resolution that the reference was fitted at.
        mask: [...], True where to look: tissue without pen marks. None looks at all that is stained.
        percentile: of the amounts of stained pixels, for the maxima.

    Raises:
        StainError: `little_stain`: fewer than `LEAST_PIXELS` stained pixels; `one_stain`: the directions are less
            than `LEAST_ANGLE` degrees apart, or there is hardly any of one.
    """
    background = background_light(image)
    density = _stained(image, mask, background, MACENKO_PIXELS)
    return _stain(_extremes(density), density, background, percentile)


def fit_vahadane(image: Rgb, *, mask: Mask | None = None, percentile: float = PERCENTILE) -> Stain:
    """The two non-negative atoms of which each pixel takes few. Starts from Macenko's; deterministic.

    Args and errors are those of `fit_macenko`. Amounts, here and in `normalizer`, are by least squares, not the sparse
    codes of the paper: one application serves both methods.
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
    with warnings.catch_warnings():  # colours that are alike; whether they are too much so is judged below
        warnings.simplefilter("ignore", ConvergenceWarning)
        atoms = learner.fit(density).components_
    return _stain(np.asarray(atoms, np.float64).T, density, background, percentile)


def background_light(image: Rgb) -> Vector:
    """Median of the bright and colourless pixels of RGB [..., 3]; pure white is not glass where there is other glass.

    Scanners fill what they have not scanned with 255.
    """
    pixels = image.reshape(-1, 3)
    red, green, blue = pixels[_spaced(len(pixels), LOOKED_AT)].T
    darkest, brightest = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    glass = (darkest > GLASS_DARKEST) & (brightest - darkest < GLASS_CHROMA)
    scanned = glass & (darkest < 255)
    enough = max(1, GLASS_SHARE * glass.size)
    for where in (scanned, glass):
        if np.count_nonzero(where) >= enough:
            light = [float(np.median(channel[where])) for channel in (red, green, blue)]
            return light[0], light[1], light[2]
    return GLASS, GLASS, GLASS


def median_stain(stains: Sequence[Stain]) -> Stain:
    """The reference of several slides: the median of each number, colours brought back to length 1.

    Raises:
        StainError: `little_stain`: there are none; `one_stain`: they disagree so much that their medians coincide.
        ValueError: their maxima are different percentiles.
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
    pixels = pixels[_spaced(len(pixels), LOOKED_AT)]
    darkest_glass = (np.array(background) + 1) * math.exp(-STAINED) - 1
    found = pixels[(pixels <= darkest_glass).all(1) & (pixels > DARK).any(1)]
    if len(found) < LEAST_PIXELS:
        raise StainError(
            "little_stain", f"{len(found)} stained pixels on the thumbnail, its stains can be told from {LEAST_PIXELS}"
        )
    found = found[_spaced(len(found), most)]
    return np.asarray(np.log(np.array(background) + 1) - np.log(found + 1.0))


def _spaced(count: int, most: int) -> npt.NDArray[np.intp] | slice:
    """At most `most` indices of `count`, evenly spaced."""
    return slice(None) if count <= most else np.linspace(0, count - 1, most).astype(np.intp)


def _extremes(density: Floats) -> Floats:
    """[3, 2]: the outermost directions of density [n, 3] in the plane through zero that most of it lies in."""
    _, axes = np.linalg.eigh(density.T @ density)  # not centred: glass lies in the plane
    main = axes[:, 2] if axes[:, 2].sum() > 0 else -axes[:, 2]
    plane = np.column_stack([main, axes[:, 1]])  # [3, 2]
    angles = np.arctan2(density @ plane[:, 1], density @ plane[:, 0])
    low, high = np.percentile(angles, [EXTREME, 100 - EXTREME])
    return np.asarray(plane @ [[np.cos(low), np.cos(high)], [np.sin(low), np.sin(high)]])


def _unit(colours: Floats) -> Floats:
    """Columns [3, 2] brought to length 1; one that is zero is no second stain."""
    norms = np.linalg.norm(colours, axis=0)
    if not norms.all():
        raise _one_stain()
    return np.asarray(colours / norms)


def _stain(colours: Floats, density: Floats, background: Vector, percentile: float) -> Stain:
    """Order the two colours [3, 2], measure the maxima in density [n, 3]."""
    matrix = _unit(colours)
    matrix = matrix[:, np.argsort(-matrix[0], kind="stable")]  # haematoxylin absorbs more red
    amounts = density @ np.linalg.pinv(matrix).T
    return _checked(matrix, np.percentile(amounts, percentile, axis=0), background, percentile)


def _checked(matrix: Floats, maxima: Floats, background: Vector, percentile: float) -> Stain:
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


# --- every slide in the colours of one -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Normalizer:
    """Maps the pixels of one slide; see `normalizer`. Small, and crosses process borders.

    Attributes:
        table: float32 [1, 256, 3], optical density of each grey level.
        mixing: float32 [3, 4], densities and 1 -> logarithm of the light that goes out, plus one grey level.
    """

    table: npt.NDArray[np.float32]
    mixing: npt.NDArray[np.float32]

    def __call__(self, images: Rgb) -> Rgb:
        """RGB [..., 3] -> the same shape. Beside the result it takes 0.4 MB."""
        return _blockwise(images, self.table, self.mixing)


def normalizer(source: Stain, reference: Stain, *, residual: float = 1.0) -> Normalizer:
    """What gives a slide with the stains `source` those of `reference`.

    Amounts are scaled so that the maxima agree. Negative amounts are kept, they are as often noise as not: results
    are clipped only where pixels are (0 and 255). Glass becomes the reference's glass.

    Args:
        source: the slide's.
        reference: the bundle's.
        residual: share that is kept of the density outside the plane of both stains. With 1 a slide normalised to
            itself is unchanged; with 0 this is Macenko's, in which ink and pigment take on the colours of tissue.

    Raises:
        ValueError: their maxima are different percentiles.
    """
    if source.percentile != reference.percentile:
        raise ValueError(
            f"the slide's maxima are {source.percentile:g}th percentiles, the reference's {reference.percentile:g}th"
        )
    scale = np.diag(np.divide(reference.maxima, source.maxima))
    across, out = _normal(source.matrix), _normal(reference.matrix)
    out = out if across @ out >= 0 else -out  # where the fits disagree on which stain comes first
    matrix = reference.matrix @ scale @ np.linalg.pinv(source.matrix) + residual * np.outer(out, across)
    mixing = np.column_stack([-matrix, np.log(np.array(reference.background) + 1)])
    return Normalizer(_table(source.background), mixing.astype(np.float32))


def _normal(matrix: Floats) -> Floats:
    normal = np.cross(*matrix.T)
    return np.asarray(normal / np.linalg.norm(normal))


def _table(background: Vector) -> npt.NDArray[np.float32]:
    density = np.log(np.array(background) + 1) - np.log(np.arange(256)[:, None] + 1)
    return np.asarray(density[None], np.float32)  # [1, 256, 3]


def _blockwise(images: Rgb, table: npt.NDArray[np.float32], mixing: npt.NDArray[np.float32]) -> Rgb:
    pixels = np.ascontiguousarray(images).reshape(1, -1, 3)
    out = np.empty_like(pixels)
    buffers = np.empty((2, 1, min(BLOCK_PX, pixels.shape[1]), 3), np.float32)
    for start in range(0, pixels.shape[1], BLOCK_PX):
        block = pixels[:, start : start + BLOCK_PX]
        density, light = buffers[:, :, : block.shape[1]]
        cv2.LUT(block, table, density)
        cv2.transform(density, mixing, light)
        _develop(light, out[:, start : start + BLOCK_PX])
    return out.reshape(images.shape)


def _develop(log_light: npt.NDArray[np.float32], out: Rgb) -> None:
    """Write exp(log_light) - 1, rounded and clipped, into `out`. Overwrites `log_light`."""
    np.clip(log_light, 0, 6, out=log_light)  # exp(6) is beyond 255, and finite
    cv2.exp(log_light, log_light)
    cv2.convertScaleAbs(log_light, out, beta=-1)


# --- colours varied for training -------------------------------------------------------------------------------------


def augment(images: Rgb, rng: np.random.Generator, *, sigma_alpha: float, sigma_beta: float) -> Rgb:
    """Scale and shift the amounts of haematoxylin, eosin and the rest, each image by its own draw.

    Tellez et al. use 0.05 for both (light) and 0.2 (strong; 2019, "Quantifying the effects of data augmentation and
    stain color normalization"). Here the shift spares glass: it fades in where the density of green is `STAINED`
    and is whole at twice that, so that white stays white.

    Args:
        images: RGB [n, h, w, 3].
        rng: draws six numbers an image.
        sigma_alpha: factors are uniform in 1 -+ this.
        sigma_beta: shifts are uniform in -+ this, in natural optical density.

    Returns:
        RGB [n, h, w, 3].
    """
    alphas = rng.uniform(1 - sigma_alpha, 1 + sigma_alpha, (len(images), 3))
    betas = rng.uniform(-sigma_beta, sigma_beta, (len(images), 3))
    colours = (HED / np.linalg.norm(HED, axis=1, keepdims=True)).T  # [3 channels, 3 stains]
    scalings = np.einsum("cs,ns,sd->ncd", colours, alphas, np.linalg.inv(colours))
    shifts = betas @ colours.T
    white = np.full((len(images), 3), math.log(256))
    mixings = np.concatenate([-scalings, -shifts[..., None], white[..., None]], axis=2).astype(np.float32)  # [n, 3, 5]
    table = _table_with_shift()
    out = np.empty_like(images, order="C")
    for image, mixing, result in zip(images, mixings, out, strict=True):
        doubled = np.empty((*image.shape[:2], 4), np.uint8)  # red, green, blue, and green for the shift
        cv2.mixChannels([np.ascontiguousarray(image)], [doubled], [0, 0, 1, 1, 2, 2, 1, 3])
        _develop(cv2.transform(cv2.LUT(doubled, table), mixing), result)
    return out


def _table_with_shift() -> npt.NDArray[np.float32]:
    """[1, 256, 4]: densities of red, green, blue, and how much of the shift a green level takes."""
    density = _table((255.0, 255.0, 255.0))
    share = np.clip(density[..., 1:2] / STAINED - 1, 0, 1)
    return np.asarray(np.concatenate([density, share], axis=2), np.float32)
