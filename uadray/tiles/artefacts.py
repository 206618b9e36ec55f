"""Thumbnail -> masks of pen and of air bubbles, by rules on optical density (OD) and on size in micrometres.

All masks have the size [h, w] of the image. On most slides there is neither, so what is looked at first is what pixels
show as they are, in bytes.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from uadray.tiles.optical_density import (
    Channel,
    Channels,
    brightest,
    darkest,
    dense,
    denser,
    density,
    mean_densities,
)

Mask = npt.NDArray[np.bool_]

MAX_UM, RIM_UM = 5_000.0, 80.0
"""Diameter of the largest bubble, and greatest width of its rim: half of the thinnest stroke of a pen."""

RIM_JOINED = 0.3
"""A rim may touch another dark thing, such as a second bubble or a stroke, along at most this share of its outside."""

BESIDE_UM, SAME_DENSITY = 80.0, 0.35
"""The two sides of a rim are compared up to this distance, and the mean OD of a channel may differ by this much. No
bubble that was painted anywhere on mosaics, CMU-1, TCGA or phantoms differs by more than 0.32."""

RECTANGLE = 0.9
"""An outline that fills more than this share of the smallest rectangle around it is a frame. An ellipse fills 0.79."""

FAINT = 0.25
"""OD of the strongest channel below which a pixel's colour is not judged: half of all stained pixels are above it."""

RED_INK, RED_IN_RED_INK = 0.6, 0.25
"""Least OD in green of red ink, and its OD in red over that in green, at most."""

BLACK_INK, COLOURLESS = 0.6, 0.8
"""Least OD of black ink in each channel, and the least of these over the greatest, at least."""

RIM, RIM_COLOURLESS = 0.15, 0.7
"""Likewise of the rim of a bubble."""

DIAGONAL = 1.37
"""Length of a diagonal step in OpenCV's distances, rounded up."""

ROUNDING = 0.999
"""Share of a threshold that is let through where only the exact rule is to decide."""


def pen_mask(channels: Channels, mpp: float, *, ink_ratio: float, red_ratio: float, width_um: float) -> Mask:
    """Strokes of blue, green, red or black felt pen.

    Haematoxylin, eosin and blood absorb green most. Blue and green ink absorb more red than green; red ink absorbs as
    much blue as green and hardly any red; black ink absorbs all colours alike. From where a stroke is as wide as
    `width_um`, it is followed onto tissue, where its colour is mixed with that of the tissue.

    Args:
        channels: red, green and blue.
        mpp: micrometres per pixel.
        ink_ratio: least OD in red over OD in green of blue and green ink.
        red_ratio: least OD in blue over OD in green of red ink.
        width_um: width of the thinnest stroke.
    """
    width_px = width_um / mpp
    if not _may_be_inked(channels, width_px, ink_ratio=ink_ratio, red_ratio=red_ratio):
        return np.zeros(channels[0].shape, np.bool_)
    red, green, blue = (cv2.GaussianBlur(density(channel), (3, 3), 0) for channel in channels)
    low, high = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    cold = (red > ink_ratio * green) & (high > FAINT)
    warm = (blue > red_ratio * green) & (red < RED_IN_RED_INK * green) & (green > RED_INK)
    black = (low > COLOURLESS * high) & (low > BLACK_INK)
    gap = disc(3)
    seeds = np.zeros(cold.shape, np.uint8)
    for ink in (cold, warm, black):  # one by one, so that a speck with a rim of another colour is no stroke
        seeds |= _wide(cv2.morphologyEx(as_bytes(ink), cv2.MORPH_CLOSE, gap), width_px)
    if not seeds.any():
        return np.zeros(seeds.shape, np.bool_)
    mixed = cold | warm | ((red > 0.8 * ink_ratio * green) & (red > 0.5)) | ((low > 0.55 * high) & (low > 0.55))
    mixed |= (blue > 0.75 * red_ratio * green) & (red < 0.45 * green) & (green > 0.7)
    followed = _connected(_wide(as_bytes(mixed), width_px / 4) | seeds, seeds)
    return np.asarray(cv2.dilate(followed, gap), dtype=np.bool_)


def _may_be_inked(channels: Channels, width_px: float, *, ink_ratio: float, red_ratio: float) -> bool:
    """Whether `pen_mask` may find a stroke; False is certain.

    Its rules are on densities smoothed over 3 x 3 pixels. What holds for a mean holds for one of its pixels, so each
    rule is told of pixels as they are, and widened by one pixel.
    """
    red, green, blue = channels

    def may_be(*rules: Channel) -> bool:
        near = cv2.dilate(rules[0], np.ones((3, 3), np.uint8))
        for rule in rules[1:]:
            near &= cv2.dilate(rule, np.ones((3, 3), np.uint8))
        return _may_be_wide(cv2.morphologyEx(near, cv2.MORPH_CLOSE, disc(3)), width_px)

    if may_be(dense(darkest(channels), ROUNDING * FAINT), denser(red, green, ROUNDING * ink_ratio)):
        return True
    strong = dense(green, ROUNDING * min(RED_INK, BLACK_INK))  # hardly any tissue is
    if not may_be(strong):
        return False
    return may_be(
        strong, denser(blue, green, ROUNDING * red_ratio), denser(green, red, ROUNDING / RED_IN_RED_INK)
    ) or may_be(
        strong, denser(red, green, ROUNDING * COLOURLESS), *(dense(each, ROUNDING * BLACK_INK) for each in (red, blue))
    )


def _may_be_wide(mask: npt.NDArray[np.uint8], width_px: float) -> bool:
    """Whether `_wide` may find anything where a mask is 255; False is certain.

    A disc holds a square, and this holds a block of a grid of half its side.
    """
    if not mask.any():
        return False
    side = int(width_px / 2 / DIAGONAL) + 1
    margin = int(width_px / 2) + 2 * side + 2
    mask = np.asarray(cv2.copyMakeBorder(mask, margin, margin, margin, margin, cv2.BORDER_REPLICATE))
    rows, columns = (length // side for length in mask.shape)
    blocks = cv2.resize(mask[: rows * side, : columns * side], (columns, rows), interpolation=cv2.INTER_AREA)
    return bool((blocks == 255).any())


def air_mask(channels: Channels, mpp: float, *, min_um: float, tissue: Mask | None = None) -> Mask:
    """Air bubbles under the cover slip, their rim and their inside.

    The rim of a bubble bends light away, so it is dark, thin, without colour, and closed around an area much larger
    than a fat cell. Other closed dark lines are frames, edges of cover slips, unscanned surroundings and rings of pen.
    These are wide, or have corners, or reach the slide's edge, or lie on glass around most of the tissue, or what lies
    inside looks different from what lies outside.

    Args:
        channels: red, green and blue.
        mpp: micrometres per pixel.
        min_um: diameter of the smallest bubble.
        tissue: [h, w]; where it is given, a rim that lies on bare glass around most of the tissue is a frame.
    """
    rim = denser(brightest(channels), darkest(channels), RIM_COLOURLESS, least=RIM) & 1
    rim = cv2.morphologyEx(rim, cv2.MORPH_CLOSE, disc(3))
    contours, tree = cv2.findContours(rim, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    mask = np.zeros(rim.shape, np.bool_)
    for i, contour in enumerate(contours):
        outer = int(tree[0, i, 3])
        if outer < 0 or _touches_edge(contours[outer], rim.shape) or not _is_round(contour, min_um / mpp, MAX_UM / mpp):
            continue  # not the inner outline of a rim, or not of the rim of a bubble
        box = box_around(cv2.boundingRect(contour), round((RIM_UM + BESIDE_UM) / mpp) + 2)
        inside = np.zeros(rim[box].shape, np.uint8)
        cv2.drawContours(inside, contours, i, 1, cv2.FILLED, offset=(-box[1].start, -box[0].start))
        beyond_um = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3) * mpp
        pixels = channels[0][box], channels[1][box], channels[2][box]
        if _is_thin(rim[box], beyond_um, mpp) and _sides_alike(inside, beyond_um, rim[box], pixels, mpp):
            bubble = inside | (rim[box] & as_bytes(beyond_um <= RIM_UM))
            if tissue is None or not _is_frame(bubble, beyond_um, tissue, box):
                mask[box] |= bubble > 0
    return mask


def _is_thin(rim: npt.NDArray[np.uint8], beyond_um: npt.NDArray[np.float32], mpp: float) -> bool:
    """Whether a rim is, nearly all around, no wider than `RIM_UM`."""
    end = (beyond_um > RIM_UM) & (beyond_um <= RIM_UM + 2 * mpp)
    return bool(end.any() and rim[end].mean() < RIM_JOINED)


def _sides_alike(
    inside: npt.NDArray[np.uint8],
    beyond_um: npt.NDArray[np.float32],
    rim: npt.NDArray[np.uint8],
    channels: Channels,
    mpp: float,
) -> bool:
    """Whether both sides of a rim look about the same, because the tissue goes on under a bubble."""
    clear = cv2.dilate(rim, disc(3)) == 0
    within = clear & (inside > 0) & (cv2.distanceTransform(inside, cv2.DIST_L2, 3) * mpp <= BESIDE_UM)
    around = clear & (inside == 0) & (beyond_um <= RIM_UM + BESIDE_UM)
    if not within.any() or not around.any():
        return False
    return bool(np.abs(mean_densities(channels, within) - mean_densities(channels, around)).max() < SAME_DENSITY)


def _is_frame(
    bubble: npt.NDArray[np.uint8], beyond_um: npt.NDArray[np.float32], tissue: Mask, box: tuple[slice, slice]
) -> bool:
    """Whether most of a slide's tissue lies inside, and none at the rim."""
    here = tissue[box]
    around = (bubble == 0) & (beyond_um <= RIM_UM + BESIDE_UM)
    return bool(2 * np.count_nonzero(here & (bubble > 0)) > np.count_nonzero(tissue) and here[around].mean() < 0.05)


def box_around(rect: Sequence[int], margin: int) -> tuple[slice, slice]:
    """Rows and columns of a piece with a margin; `rect` is its x, y, width and height."""
    x, y, w, h = rect
    return slice(max(0, y - margin), y + h + margin), slice(max(0, x - margin), x + w + margin)


def _is_round(contour: npt.NDArray[np.int32], least_px: float, most_px: float) -> bool:
    """Whether an outline has about the shape of a bubble, without the corners of a frame, and a diameter in bounds."""
    area, length = cv2.contourArea(contour), cv2.arcLength(contour, closed=True)
    if not np.pi / 4 * least_px**2 <= area <= np.pi / 4 * most_px**2 or 4 * np.pi * area < 0.5 * length**2:
        return False
    width, height = cv2.minAreaRect(contour)[1]
    return bool(area < RECTANGLE * width * height)


def _touches_edge(contour: npt.NDArray[np.int32], shape: tuple[int, ...]) -> bool:
    """Whether an outline reaches the border of the picture."""
    x, y, width, height = cv2.boundingRect(contour)
    return bool(x == 0 or y == 0 or x + width == shape[1] or y + height == shape[0])


def _connected(mask: npt.NDArray[np.uint8], seeds: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The pieces of `mask` that hold a seed."""
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    held = np.zeros(count, np.uint8)
    held[labels[seeds > 0]] = 1
    held[0] = 0
    return np.asarray(held[labels], dtype=np.uint8)


def _wide(mask: npt.NDArray[np.uint8], width_px: float) -> npt.NDArray[np.uint8]:
    """The parts of a mask that a disc of this width fits into, by distances: OpenCV is slow for wide discs."""
    radius = width_px / 2
    margin = int(radius) + 2  # a stroke is taken to go on beyond the slide's edge
    padded = cv2.copyMakeBorder(mask, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    core = cv2.distanceTransform(padded, cv2.DIST_L2, 3) > radius
    if not core.any():
        return np.zeros_like(mask)
    reached = cv2.distanceTransform(as_bytes(~core), cv2.DIST_L2, 3) <= radius
    return mask & as_bytes(reached[margin:-margin, margin:-margin])


def disc(diameter_px: float) -> npt.NDArray[np.uint8]:
    """A disc, as a structuring element."""
    side = max(1, round(diameter_px))
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), dtype=np.uint8)


def as_bytes(mask: Mask) -> npt.NDArray[np.uint8]:
    """The same mask, as OpenCV takes it."""
    return mask.view(np.uint8)
