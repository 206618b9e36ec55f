"""Whether a tile of a tile set, which comes without its slide, is trained on."""

import cv2
import numpy as np

from uadray.tiles.spec import TileSpec
from uadray.tiles.tissue import tissue_mask
from uadray.training.crops import Pixels


def usable(pixels: Pixels, input_px: int, spec: TileSpec | None) -> bool:
    """Whether a lone tile is large enough and, where `spec` is given, has enough tissue."""
    return min(pixels.shape[:2]) >= input_px and (spec is None or enough_tissue(pixels, spec))


def enough_tissue(pixels: Pixels, spec: TileSpec) -> bool:
    """Whether a lone tile [h, w, 3] at `spec.mpp` has `spec.min_tissue` of tissue, by the mask that slides get."""
    factor = max(1, round(4.0 / spec.mpp))
    small = cv2.resize(pixels, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    return bool(tissue_mask(np.asarray(small, dtype=np.uint8), spec.mpp * factor).mean() >= spec.min_tissue)
