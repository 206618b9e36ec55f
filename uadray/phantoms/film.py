"""Amounts of stain -> the picture that a scanner takes: law of Beer and Lambert, glass, optics, sensor noise."""

import cv2
import numpy as np

from uadray.phantoms.brushes import Bytes, Floats, smooth
from uadray.phantoms.layout import PhantomSpec

STAINS: tuple[Floats, ...] = (
    # [haematoxylin, eosin] x [R, G, B], unit vectors. Ruifrok & Johnston 2001, the values of ImageJ's "H&E".
    np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]], np.float32),
    # Macenko et al. 2009, the reference of the published code (HERef).
    np.array([[0.563, 0.720, 0.406], [0.216, 0.801, 0.558]], np.float32),
)
GLASS_RGB = (244.0, 243.0, 245.0)  # scanners leave glass a little below white
NOISE_LEVELS = 1.6  # standard deviation of sensor noise, 8-bit levels
OPTICS_UM = 0.3  # blur of a 20x/0.75 objective: about lambda / (2 NA)


def light(stained: Floats, stain: int) -> Floats:
    """The light that passes amounts of stain [2, H, W], by the law of Beer and Lambert: [H, W, 3], 0 to 1."""
    density = stained.transpose(1, 2, 0) @ STAINS[stain]
    return np.asarray(cv2.exp(-density), np.float32)


def develop(spec: PhantomSpec, stained: Floats, rng: np.random.Generator) -> Bytes:
    """The picture of amounts of stain [2, H, W], with glass, optics and sensor noise: RGB uint8 [H, W, 3]."""
    rgb = light(stained, spec.stain) * np.array(GLASS_RGB, np.float32)
    rgb *= (1 + 0.004 * smooth(rng, spec, 400.0))[..., None]
    rgb = cv2.GaussianBlur(rgb, (0, 0), max(0.3, OPTICS_UM / spec.mpp))
    noise = rng.standard_normal(spec.shape, np.float32) * np.float32(NOISE_LEVELS)
    developed: Bytes = np.clip(rgb + noise[..., None] + 0.5, 0, 255).astype(np.uint8)
    return developed
