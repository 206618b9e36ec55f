"""Bytes become a network's input and come back."""

import pytest
import torch

from uadray.detectors.pixels import to_input, to_pixels


def test_pixels_round_trip() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).repeat(2, 1, 1, 3).numpy()
    x = to_input(pixels, 16)
    assert (x.min().item(), x.max().item()) == (-1, 1)
    assert x.shape == (2, 3, 16, 16)
    assert (to_pixels(x) == pixels).all()
    assert (to_pixels(x * 3) == to_pixels((x * 3).clamp(-1, 1))).all()


def test_input_is_the_centre_and_never_smaller_than_asked_for() -> None:
    pixels = torch.arange(10 * 10, dtype=torch.uint8).view(1, 10, 10, 1).repeat(1, 1, 1, 3).numpy()
    assert (to_pixels(to_input(pixels, 4)) == pixels[:, 3:7, 3:7]).all()
    with pytest.raises(ValueError, match="tiles of 10 x 10 px, the detector needs 16 px"):
        to_input(pixels, 16)
