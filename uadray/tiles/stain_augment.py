"""Varies the colours of training tiles: amounts of stain are scaled and shifted at random, image by image.

Tellez et al. (2018), "Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference".
"""

import math

import cv2
import numpy as np
import numpy.typing as npt

from uadray.tiles.stain import STAINED, Rgb
from uadray.tiles.stain_normalize import density_table, write_light

HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical densities of haematoxylin, eosin and DAB (rows) in red, green and blue: Ruifrok and Johnston (2001),
"Quantification of histochemical staining"."""


def augment(images: Rgb, rng: np.random.Generator, *, sigma_alpha: float, sigma_beta: float) -> Rgb:
    """Scale and shift the amounts of haematoxylin, eosin and what is neither, by new random numbers for each image.

    Tellez et al. use 0.05 for both sigmas (light) and 0.2 (strong; 2019, "Quantifying the effects of data augmentation
    and stain color normalization"). Here glass is not shifted, so that white stays white: the shift begins where the
    density of green is `STAINED` and is whole at twice that density.

    Args:
        images: RGB [n, h, w, 3].
        rng: gives six numbers an image.
        sigma_alpha: factors are uniform in 1 -+ this.
        sigma_beta: shifts are uniform in -+ this, in natural optical density.

    Returns:
        RGB [n, h, w, 3].
    """
    mixings = draw_mixings(len(images), rng, sigma_alpha=sigma_alpha, sigma_beta=sigma_beta)
    table = density_and_shift()
    out = np.empty_like(images, order="C")
    for image, mixing, result in zip(images, mixings, out, strict=True):
        doubled = np.empty((*image.shape[:2], 4), np.uint8)  # red, green, blue, and green for the shift
        cv2.mixChannels([np.ascontiguousarray(image)], [doubled], [0, 0, 1, 1, 2, 2, 1, 3])
        write_light(cv2.transform(cv2.LUT(doubled, table), mixing), result)
    return out


def draw_mixings(
    n: int, rng: np.random.Generator, *, sigma_alpha: float, sigma_beta: float
) -> npt.NDArray[np.float32]:  # fmt: skip
    """[n, 3, 5]: log light of red, green and blue from what `density_and_shift` gives of a pixel, and from 1."""
    alphas = rng.uniform(1 - sigma_alpha, 1 + sigma_alpha, (n, 3))
    betas = rng.uniform(-sigma_beta, sigma_beta, (n, 3))
    colours = (HED / np.linalg.norm(HED, axis=1, keepdims=True)).T  # [3 channels, 3 stains]
    scalings = np.einsum("cs,ns,sd->ncd", colours, alphas, np.linalg.inv(colours))
    shifts = betas @ colours.T
    white = np.full((n, 3), math.log(256))
    return np.concatenate([-scalings, -shifts[..., None], white[..., None]], axis=2).astype(np.float32)


def density_and_shift() -> npt.NDArray[np.float32]:
    """[1, 256, 4]: densities of red, green, blue, and the share of the shift that a level of green takes."""
    density = density_table((255.0, 255.0, 255.0))
    share = np.clip(density[..., 1:2] / STAINED - 1, 0, 1)
    return np.asarray(np.concatenate([density, share], axis=2), np.float32)
