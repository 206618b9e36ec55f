"""The stains of a slide and of a reference -> a map of the slide's colours: one 3 x 3 matrix on optical densities.

The matrix stands between a table of logarithms (pixel -> density) and an exponential (density -> pixel). Both stains
come from `stain_fit`.

Differences from Macenko et al. (2009) and Vahadane et al. (2016): amounts of stain are never clipped at zero, so that
the map stays linear and a slide that is normalised to its own stains is unchanged; what lies outside both stains is
kept unless `residual` says otherwise.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from uadray.tiles.stain import Floats, Rgb, Stain, Vector

PIXELS_AT_ONCE = 16_384
"""Pixels that are mapped at a time, in two buffers of 0.2 MB that are used again. With fresh arrays of 65,536 pixels a
tile took 2.8 times as long, because the kernel had to provide new memory each time."""


@dataclass(frozen=True)
class Normalizer:
    """Maps the pixels of one slide to the reference. It is made by `normalizer`, small, and can be pickled.

    Attributes:
        table: float32 [1, 256, 3], optical density of each grey level.
        mixing: float32 [3, 4], densities and a constant 1 -> logarithm of (resulting grey level + 1).
    """

    table: npt.NDArray[np.float32]
    mixing: npt.NDArray[np.float32]

    def __call__(self, images: Rgb) -> Rgb:
        """RGB [..., 3] -> RGB of the same shape. It takes 0.4 MB of memory beside the result."""
        return _mapped(images, self.table, self.mixing)


def normalizer(source: Stain, reference: Stain, *, residual: float = 1.0) -> Normalizer:
    """The map from the colours of a slide to those of the reference.

    Amounts of stain are scaled so that the maxima agree. Negative amounts, which noise makes, are kept; only the
    resulting pixels are clipped to 0 and 255. Glass becomes the reference's glass.

    Args:
        source: the slide's stains.
        reference: the bundle's stains.
        residual: share that is kept of the density outside the plane of both stains. With 1 a slide normalised to
            itself is unchanged; with 0 this is Macenko's method, in which ink and pigment take on colours of tissue.

    Raises:
        ValueError: the maxima of the two are different percentiles.
    """
    if source.percentile != reference.percentile:
        raise ValueError(
            f"the slide's maxima are {source.percentile:g}th percentiles, the reference's {reference.percentile:g}th"
        )
    scale = np.diag(np.divide(reference.maxima, source.maxima))
    across, out = _normal(source.matrix), _normal(reference.matrix)
    out = out if across @ out >= 0 else -out  # the fits may disagree on which stain comes first
    matrix = reference.matrix @ scale @ np.linalg.pinv(source.matrix) + residual * np.outer(out, across)
    mixing = np.column_stack([-matrix, np.log(np.array(reference.background) + 1)])
    return Normalizer(density_table(source.background), mixing.astype(np.float32))


def _normal(matrix: Floats) -> Floats:
    """[3] The direction, of length 1, at right angles to both stains of [3, 2]."""
    normal = np.cross(*matrix.T)
    return np.asarray(normal / np.linalg.norm(normal))


def density_table(background: Vector) -> npt.NDArray[np.float32]:
    """[1, 256, 3]: the optical density of each grey level of red, green and blue, against glass of these levels."""
    density = np.log(np.array(background) + 1) - np.log(np.arange(256)[:, None] + 1)
    return np.asarray(density[None], np.float32)


def _mapped(images: Rgb, table: npt.NDArray[np.float32], mixing: npt.NDArray[np.float32]) -> Rgb:
    """RGB [..., 3] -> RGB of the same shape, `PIXELS_AT_ONCE` pixels at a time."""
    pixels = np.ascontiguousarray(images).reshape(1, -1, 3)
    out = np.empty_like(pixels)
    buffers = np.empty((2, 1, min(PIXELS_AT_ONCE, pixels.shape[1]), 3), np.float32)
    for start in range(0, pixels.shape[1], PIXELS_AT_ONCE):
        group = pixels[:, start : start + PIXELS_AT_ONCE]
        density, light = buffers[:, :, : group.shape[1]]
        cv2.LUT(group, table, density)
        cv2.transform(density, mixing, light)
        write_light(light, out[:, start : start + PIXELS_AT_ONCE])
    return out.reshape(images.shape)


def write_light(log_light: npt.NDArray[np.float32], out: Rgb) -> None:
    """Write exp(log_light) - 1, rounded and clipped, into `out`. Overwrites `log_light`."""
    np.clip(log_light, 0, 6, out=log_light)  # exp(6) is beyond 255, and finite
    cv2.exp(log_light, log_light)
    cv2.convertScaleAbs(log_light, out, beta=-1)
