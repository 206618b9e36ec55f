"""What the colours of a slide are (`Stain`), and how they are to be normalised (`StainConfig`).

Light through a stained slide follows the law of Beer and Lambert: optical density = amounts of stain x the stains'
colours. `stain_fit` finds the colours of a slide, `stain_normalize` brings them to those of a reference, and
`stain_augment` varies them for training.
"""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from uadray.config import Config
from uadray.errors import UadrayError

Rgb = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Vector = tuple[float, float, float]
Method = Literal["macenko", "vahadane"]

STAINED = 0.15
"""Optical density (natural) that a pixel must have in each channel to count as stained. Macenko's beta."""

PERCENTILE = 95.0
"""Percentile of the amounts of a stain that is brought to the reference's. Macenko has 99, on fewer pixels. The mean
colour of a slide lay on average 18.6 grey levels from that of all 40 training mosaics of `../shared/data`; after
normalisation with 99 it lay 7.5 from it, with 95 6.3. For the 46 other mosaics it was 19.4, then 10.2 and 6.1. With 75
it was 4.8 and 5.1, but the lower the percentile, the more the mixture of tissues decides how dark a slide becomes; 50
is worse (9.7 and 10.7)."""

LEAST_ANGLE = 6.0
"""Degrees that two stains are apart at least. A single stain with noise of 2 grey levels is fitted as two stains that
are up to 5 degrees apart; 86 mosaics of real tiles gave at least 13.9 by Macenko, and 7.9 by Vahadane."""

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
        if not angle_degrees(self.matrix) >= LEAST_ANGLE:
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


def angle_degrees(matrix: Floats) -> float:
    """Degrees between the unit columns of [3, 2]."""
    return math.degrees(math.atan2(float(np.linalg.norm(np.cross(*matrix.T))), float(matrix[:, 0] @ matrix[:, 1])))
