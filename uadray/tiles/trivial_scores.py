"""What every score must beat: how saturated and how green a tile is."""

import cv2
import numpy as np
import numpy.typing as npt


def trivial_scores(images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean HSV saturation and mean green of RGB tiles [N, h, w, 3], each [N] in 0 to 1.

    Of larger tiles every second, third, ... pixel a side is looked at, so that 64 x 64 to 127 x 127 remain: all pixels
    of 256 px tiles cost fifteen times as much as decoding them.
    """
    n, height, width, _ = images.shape
    step = max(1, height // 64)
    size = (max(1, width // step), max(1, height // step))
    saturation, green = np.zeros((2, n), np.float32)
    for i, image in enumerate(images):
        small = image if step == 1 else cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
        saturation[i] = cv2.mean(cv2.cvtColor(small, cv2.COLOR_RGB2HSV))[1] / 255
        green[i] = cv2.mean(small)[1] / 255
    return saturation, green
