"""Pen, folds and air bubbles on a thumbnail: rules on optical density and on size in micrometres.

Optical density (OD) is log10(white / pixel), so that what lies over another adds up. All masks are [h, w] of the
densities' size.
"""

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Density = npt.NDArray[np.float32]
"""[h, w, 3], red, green, blue."""

WHITE, DARKEST = 240.0, 4.0
"""Pixel values of OD 0 and of the greatest OD: bare glass has none, and black not an infinite one."""

DARKEST_TISSUE = 1.1
"""OD of a fold over that of the slide's darkest tissue (90th percentile): pale bands side by side are tissue."""

SAME_COLOUR = 0.05
"""Greatest difference of a channel's share in the OD between a fold and what is around it."""

FAINT = 0.25
"""OD of the strongest channel below which a colour says nothing: half of all stained pixels are above it."""


def density(image: npt.NDArray[np.uint8]) -> Density:
    """OD of RGB [h, w, 3]."""
    table = np.log10(WHITE / np.clip(np.arange(256), DARKEST, WHITE)).astype(np.float32)
    return np.asarray(cv2.LUT(image, table), dtype=np.float32)


def pen_mask(od: Density, mpp: float, *, ink_ratio: float, red_ratio: float, width_um: float) -> Mask:
    """Strokes of blue, green, red or black felt pen.

    Haematoxylin, eosin and blood absorb green most. Blue and green ink absorb more red than green; red ink as much
    blue as green and hardly any red; black ink all alike. Where a stroke is as wide as `width_um` its ink is followed
    over tissue, where its colour is mixed.

    Args:
        od: densities.
        mpp: micrometres per pixel.
        ink_ratio: OD in red over green of blue and green ink.
        red_ratio: OD in blue over green of red ink.
        width_um: of the thinnest stroke.
    """
    red, green, blue = cv2.split(cv2.GaussianBlur(od, (3, 3), 0))
    low, high = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    cold = (red > ink_ratio * green) & (high > FAINT)
    warm = (blue > red_ratio * green) & (red < 0.25 * green) & (green > 0.6)
    black = (low > 0.8 * high) & (low > 0.6)
    gap = _disc(3)
    seeds = np.zeros(cold.shape, np.uint8)
    for ink in (cold, warm, black):  # one by one: a rim of another colour makes no speck a stroke
        seeds |= _wide(cv2.morphologyEx(_bytes(ink), cv2.MORPH_CLOSE, gap), width_um / mpp)
    if not seeds.any():
        return np.zeros(seeds.shape, np.bool_)
    mixed = cold | warm | ((red > 0.8 * ink_ratio * green) & (red > 0.5)) | ((low > 0.55 * high) & (low > 0.55))
    mixed |= (blue > 0.75 * red_ratio * green) & (red < 0.45 * green) & (green > 0.7)
    followed = _connected(_wide(_bytes(mixed), width_um / mpp / 4) | seeds, seeds)
    return np.asarray(cv2.dilate(followed, gap), dtype=np.bool_)


def fold_mask(
    od: Density, tissue: Mask, mpp: float, *, ratio: float, max_width_um: float, min_length_um: float
) -> Mask:
    """Bands of doubled tissue: about twice the OD of the tissue around them, in the same colour, long and thin.

    Args:
        od: densities.
        tissue: [h, w].
        mpp: micrometres per pixel.
        ratio: OD over that of the surroundings.
        max_width_um: of a fold.
        min_length_um: of a fold.
    """
    total = cv2.GaussianBlur(cv2.transform(od, np.ones((1, 3))), (0, 0), max(0.5, 10 / mpp))
    side = max(3, int(3 * max_width_um / mpp))
    around, share = _surroundings(total, tissue, side)
    around, _ = _surroundings(total, tissue & (total < 1.3 * around), side)  # without the fold itself
    solid = (share > 0.5) & tissue & (around > 0.5 * around[tissue].mean() if tissue.any() else tissue)
    darkest = DARKEST_TISSUE * np.percentile(total[tissue], 90) if tissue.any() else 0.0
    dark = _bytes((total > 0.85 * ratio * around) & solid)
    dark = _connected(dark, _bytes((total > ratio * around) & solid))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=8)
    mask = np.zeros(dark.shape, np.bool_)
    for label in np.flatnonzero(np.hypot(stats[:, 2], stats[:, 3]) * mpp >= min_length_um):
        window = _window(stats[label], side // 3)
        part = labels[window] == label
        if (
            label
            and total[window][part].mean() > darkest
            and _is_band(part, mpp, max_width_um=max_width_um, min_length_um=min_length_um)
            and _same_colour(od[window], part, (tissue & (labels == 0))[window], side // 3)
        ):
            mask[window] |= part
    return np.asarray(cv2.dilate(_bytes(mask), _disc(3)), dtype=np.bool_)


def air_mask(od: Density, mpp: float, *, min_um: float) -> Mask:
    """Bubbles under the cover slip, rim and inside.

    The rim bends light away: it is dark, thin, without colour, and closed around an area much larger than a fat cell.

    Args:
        od: densities.
        mpp: micrometres per pixel.
        min_um: diameter of the smallest bubble.
    """
    red, green, blue = cv2.split(od)
    low, high = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    rim = _bytes((low > 0.7 * high) & (low > 0.15))
    rim = cv2.morphologyEx(rim, cv2.MORPH_CLOSE, _disc(3))
    contours, tree = cv2.findContours(rim, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    mask = np.zeros(rim.shape, np.uint8)
    for i, contour in enumerate(contours):
        if tree[0, i, 3] >= 0 and _is_round(contour, min_um / mpp):  # the inner outline of a rim
            cv2.drawContours(mask, contours, int(tree[0, i, 3]), 1, cv2.FILLED)
    return np.asarray(mask, dtype=np.bool_)


def _surroundings(
    total: npt.NDArray[np.float32], tissue: Mask, side: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean OD of the tissue in a window, and the share of tissue in it."""
    inside = tissue.astype(np.float32)
    share = cv2.blur(inside, (side, side))
    return cv2.blur(total * inside, (side, side)) / np.maximum(share, 1e-3), share


def _is_band(part: Mask, mpp: float, *, max_width_um: float, min_length_um: float) -> bool:
    """Whether a piece is as thin as a fold, and long for its width. Length: the area over the mean width."""
    distance = cv2.distanceTransform(np.pad(_bytes(part), 1), cv2.DIST_L2, 3)
    width = 2 * float(distance.max())
    length = float(part.sum()) / max(width, 1.0)
    return width * mpp <= max_width_um and length * mpp >= min_length_um and length >= 3 * width


def _window(stats: npt.NDArray[np.int32], margin: int) -> tuple[slice, slice]:
    """Where a piece lies, with a margin."""
    x, y, w, h = (int(value) for value in stats[:4])
    return slice(max(0, y - margin), y + h + margin), slice(max(0, x - margin), x + w + margin)


def _same_colour(od: Density, part: Mask, others: Mask, reach: int) -> bool:
    """Whether a piece has the colour of the tissue within `reach`: a fold is more of the same, an epithelium not."""
    near = others & (cv2.dilate(_bytes(part), _disc(2 * reach + 1)) > 0)
    if not near.any():
        return False
    inside, around = od[part].mean(0), od[near].mean(0)
    return bool(np.abs(inside / inside.sum() - around / around.sum()).max() < SAME_COLOUR)


def _is_round(contour: npt.NDArray[np.int32], diameter_px: float) -> bool:
    area, length = cv2.contourArea(contour), cv2.arcLength(contour, closed=True)
    return bool(area >= np.pi / 4 * diameter_px**2 and 4 * np.pi * area >= 0.5 * length**2)


def _connected(mask: npt.NDArray[np.uint8], seeds: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The pieces of `mask` that hold a seed."""
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    held = np.zeros(count, np.uint8)
    held[labels[seeds > 0]] = 1
    held[0] = 0
    return np.asarray(held[labels], dtype=np.uint8)


def _wide(mask: npt.NDArray[np.uint8], width_px: float) -> npt.NDArray[np.uint8]:
    """What a disc of that width fits into (an opening, by distances: OpenCV's own is slow for wide discs)."""
    radius = width_px / 2
    margin = int(radius) + 2  # a stroke goes on beyond the slide's edge
    padded = cv2.copyMakeBorder(mask, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    core = cv2.distanceTransform(padded, cv2.DIST_L2, 3) > radius
    if not core.any():
        return np.zeros_like(mask)
    reached = cv2.distanceTransform(_bytes(~core), cv2.DIST_L2, 3) <= radius
    return mask & _bytes(reached[margin:-margin, margin:-margin])


def _disc(diameter_px: float) -> npt.NDArray[np.uint8]:
    side = max(1, round(diameter_px))
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), dtype=np.uint8)


def _bytes(mask: Mask) -> npt.NDArray[np.uint8]:
    return mask.view(np.uint8)
