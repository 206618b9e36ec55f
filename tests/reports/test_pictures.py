"""Encoded pictures come back, and a sample grid has each reconstruction under its original."""

import cv2
import numpy as np
import pytest

from uadray.reports import pictures


def test_sample_grid_puts_each_reconstruction_under_its_original() -> None:
    x = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((3, 4, 5, 3), np.uint8)
    page = pictures.sample_grid(x, x + 100, columns=2, gap_px=1)
    assert page.shape == (2 * 9 - 1, 2 * 6 - 1, 3)
    assert page[[0, 4, 9, 13], [0, 0, 0, 0], 0].tolist() == [0, 100, 2, 102]
    assert page[[0, 4, 9], [6, 6, 6], 0].tolist() == [1, 101, 255]  # no fourth pair: white
    with pytest.raises(ValueError, match="one shape"):
        pictures.sample_grid(x, x[:2])


def test_encoded_pictures_come_back_in_their_colours() -> None:
    image = np.zeros((16, 24, 3), np.uint8)
    image[:, :12, 0], image[:, 12:, 2] = 220, 220
    for data in (pictures.encode_png(image), pictures.encode_jpeg(image, quality=95)):
        back = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        assert np.abs(back.astype(int) - image).max() < 12
    assert pictures.encode_png(image)[1:4] == b"PNG"
    with pytest.raises(ValueError, match="uint8"):
        pictures.encode_jpeg(image.astype(np.float32))
