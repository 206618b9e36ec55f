"""Optical density (OD) of pixels, and rules on it that are told from pixels as they are, in bytes.

OD is log10(white / pixel), so that the densities of things that lie over each other add up. It falls with the level of
a channel, so that a rule on the densities of two channels is a table: up to which level of the one, by the level of the
other. Such a rule takes a twentieth of the time of densities.
"""

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

Channel = npt.NDArray[np.uint8]
"""[h, w]"""
Channels = tuple[Channel, Channel, Channel]
"""Red, green and blue."""
Density = npt.NDArray[np.float32]
"""[h, w], of one channel."""

WHITE, DARKEST = 240.0, 4.0
"""Pixel values that have OD 0 and the greatest OD: bare glass has no density, and black no infinite one."""


def channels_of(image: npt.NDArray[np.uint8]) -> Channels:
    """The channels of RGB [h, w, 3]."""
    red, green, blue = (np.asarray(cv2.extractChannel(image, i), dtype=np.uint8) for i in range(3))
    return red, green, blue


def darkest(channels: Channels) -> Channel:
    """[h, w] The lowest level of each pixel's channels."""
    return np.asarray(cv2.min(cv2.min(channels[0], channels[1]), channels[2]), dtype=np.uint8)


def brightest(channels: Channels) -> Channel:
    """[h, w] The highest level of each pixel's channels."""
    return np.asarray(cv2.max(cv2.max(channels[0], channels[1]), channels[2]), dtype=np.uint8)


def density(channel: Channel) -> Density:
    """[h, w] OD."""
    return np.asarray(cv2.LUT(channel, _densities()), dtype=np.float32)


def mean_densities(channels: Channels, where: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """[3] Mean OD of red, green and blue."""
    return np.array([_densities()[channel[where]].mean() for channel in channels], dtype=np.float32)


def denser(one: Channel, other: Channel, ratio: float, *, least: float = 0.0) -> Channel:
    """[h, w], 255 where the OD of `one` is above `ratio` times that of `other`, and above `least`; else 0."""
    return np.asarray(cv2.compare(one, cv2.LUT(other, _levels(ratio, least)), cv2.CMP_LT), dtype=np.uint8)


def dense(channel: Channel, least: float) -> Channel:
    """[h, w], 255 where the OD is above `least`; else 0."""
    level = int((_densities() > least).sum()) - 1
    return np.asarray(cv2.threshold(channel, level, 255, cv2.THRESH_BINARY_INV)[1], dtype=np.uint8)


@cache
def _densities() -> npt.NDArray[np.float32]:
    """[256] The OD of each level."""
    return np.log10(WHITE / np.clip(np.arange(256), DARKEST, WHITE)).astype(np.float32)


@cache
def _levels(ratio: float, least: float) -> npt.NDArray[np.uint8]:
    """[256] By the level of a channel: below which level another is above `ratio` times its OD, and above `least`."""
    one, other = _densities()[None], np.float32(ratio) * _densities()[:, None]
    return np.asarray(((one > other) & (one > least)).sum(1), dtype=np.uint8)
