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

PALE_TISSUE = 0.4
"""OD of tissue over that of the darkest below which it says nothing of how dark a slide's tissue is."""

SAME_COLOUR = 0.05
"""Greatest difference of a channel's share in the OD between a fold and what is around it."""

GAP_UM = 50.0
"""Gaps of a fold that are narrower do not part it."""

MAX_UM, RIM_UM = 5_000.0, 80.0
"""Diameter of the largest bubble, and greatest width of a rim: half of the thinnest stroke of a pen."""

RIM_JOINED = 0.3
"""Share of a rim's outside that may go on as dark: another bubble, a stroke."""

BESIDE_UM, SAME_DENSITY = 80.0, 0.35
"""What lies so near to a rim on either side is compared, and the greatest difference of the mean OD of a channel. Of
bubbles painted anywhere on mosaics, CMU-1, TCGA and phantoms none has more than 0.32."""

RECTANGLE = 0.9
"""Share of the smallest rectangle around it that an outline fills: an ellipse 0.79, a frame 1."""

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
    od: Density,
    tissue: Mask,
    mpp: float,
    *,
    ratio: float,
    max_width_um: float,
    min_length_um: float,
    ink: Mask | None = None,
) -> Mask:
    """Bands of doubled tissue: about twice the OD of the tissue around them, in the same colour, long and thin.

    Args:
        od: densities.
        tissue: [h, w].
        mpp: micrometres per pixel.
        ratio: OD over that of the surroundings.
        max_width_um: of a fold.
        min_length_um: of a fold.
        ink: [h, w], not in `tissue`. What touches it is no fold: a stroke leaves bands over of whatever it crosses.
    """
    total = cv2.GaussianBlur(cv2.transform(od, np.ones((1, 3))), (0, 0), max(0.5, 10 / mpp))
    side = max(3, int(3 * max_width_um / mpp))
    around, share = _surroundings(total, tissue, side)
    around, _ = _surroundings(total, tissue & (total < 1.3 * around), side)  # without the fold itself
    solid = (share > 0.5) & tissue & (around > 0.5 * around[tissue].mean() if tissue.any() else tissue)
    darkest = DARKEST_TISSUE * _darkest(total[tissue]) if tissue.any() else 0.0
    dark = _bytes((total > 0.85 * ratio * around) & solid)
    dark = _connected(dark, _bytes((total > ratio * around) & solid))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=8)
    mask = np.zeros(dark.shape, np.bool_)
    beside_ink = [] if ink is None else np.unique(labels[cv2.dilate(_bytes(ink), _disc(3)) > 0]).tolist()
    for label in np.flatnonzero(np.hypot(stats[:, 2], stats[:, 3]) * mpp >= min_length_um):
        window = _window(stats[label], side // 3)
        part = labels[window] == label
        if (
            label
            and label not in beside_ink
            and total[window][part].mean() > darkest
            and _is_band(part, mpp, max_width_um=max_width_um, min_length_um=min_length_um)
            and _same_colour(od[window], part, (tissue & (labels == 0))[window], side // 3)
        ):
            mask[window] |= part
    return np.asarray(cv2.dilate(_bytes(mask), _disc(3)), dtype=np.bool_)


def air_mask(od: Density, mpp: float, *, min_um: float, tissue: Mask | None = None) -> Mask:
    """Bubbles under the cover slip, rim and inside.

    The rim bends light away: it is dark, thin, without colour, and closed around an area much larger than a fat cell.
    Other closed dark lines are frames, edges of cover slips, unscanned surroundings and rings of pen: they are wide,
    have corners, reach the slide's edge, lie on glass around most of its tissue, or part what looks different.

    Args:
        od: densities.
        mpp: micrometres per pixel.
        min_um: diameter of the smallest bubble.
        tissue: [h, w]; where it is given, a rim on bare glass around most of it is a frame.
    """
    red, green, blue = cv2.split(od)
    low, high = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    rim = _bytes((low > 0.7 * high) & (low > 0.15))
    rim = cv2.morphologyEx(rim, cv2.MORPH_CLOSE, _disc(3))
    contours, tree = cv2.findContours(rim, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    mask = np.zeros(rim.shape, np.bool_)
    for i, contour in enumerate(contours):
        outer = int(tree[0, i, 3])
        if outer < 0 or _touches_edge(contours[outer], rim.shape) or not _is_round(contour, min_um / mpp, MAX_UM / mpp):
            continue  # not the inner outline of a rim, or not of a bubble's
        window = _window(np.array(cv2.boundingRect(contour), np.int32), round((RIM_UM + BESIDE_UM) / mpp) + 2)
        inside = np.zeros(rim[window].shape, np.uint8)
        cv2.drawContours(inside, contours, i, 1, cv2.FILLED, offset=(-window[1].start, -window[0].start))
        beyond_um = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3) * mpp
        if _is_thin(rim[window], beyond_um, mpp) and _parts_alike(inside, beyond_um, rim[window], od[window], mpp):
            bubble = inside | (rim[window] & _bytes(beyond_um <= RIM_UM))
            if tissue is None or not _is_frame(bubble, beyond_um, tissue, window):
                mask[window] |= bubble > 0
    return mask


def _is_thin(rim: npt.NDArray[np.uint8], beyond_um: npt.NDArray[np.float32], mpp: float) -> bool:
    """Whether a rim has ended, nearly all around, at the greatest distance from what it encloses."""
    end = (beyond_um > RIM_UM) & (beyond_um <= RIM_UM + 2 * mpp)
    return bool(end.any() and rim[end].mean() < RIM_JOINED)


def _parts_alike(
    inside: npt.NDArray[np.uint8],
    beyond_um: npt.NDArray[np.float32],
    rim: npt.NDArray[np.uint8],
    od: Density,
    mpp: float,
) -> bool:
    """Whether about the same lies on both sides of a rim: the tissue goes on under a bubble."""
    clear = cv2.dilate(rim, _disc(3)) == 0
    within = clear & (inside > 0) & (cv2.distanceTransform(inside, cv2.DIST_L2, 3) * mpp <= BESIDE_UM)
    around = clear & (inside == 0) & (beyond_um <= RIM_UM + BESIDE_UM)
    if not within.any() or not around.any():
        return False
    return bool(np.abs(od[within].mean(0) - od[around].mean(0)).max() < SAME_DENSITY)


def _is_frame(
    bubble: npt.NDArray[np.uint8], beyond_um: npt.NDArray[np.float32], tissue: Mask, window: tuple[slice, slice]
) -> bool:
    """Whether most of a slide's tissue lies within, and none at the rim."""
    here = tissue[window]
    around = (bubble == 0) & (beyond_um <= RIM_UM + BESIDE_UM)
    return bool(2 * np.count_nonzero(here & (bubble > 0)) > np.count_nonzero(tissue) and here[around].mean() < 0.05)


def _darkest(total: npt.NDArray[np.float32]) -> float:
    """The 90th percentile of the OD of tissue, however much pale tissue there is beside it."""
    return float(np.percentile(total[total > PALE_TISSUE * np.percentile(total, 90)], 90))


def _surroundings(
    total: npt.NDArray[np.float32], tissue: Mask, side: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean OD of the tissue in a window, and the share of tissue in it."""
    inside = tissue.astype(np.float32)
    share = cv2.blur(inside, (side, side))
    return cv2.blur(total * inside, (side, side)) / np.maximum(share, 1e-3), share


def _is_band(part: Mask, mpp: float, *, max_width_um: float, min_length_um: float) -> bool:
    """Whether a piece is as thin as a fold, and long for its width. Length: the area over the mean width.

    Gaps are closed first: a ragged patch of dense nuclei is nowhere wide, and no band.
    """
    gap = round(GAP_UM / mpp)
    solid = cv2.morphologyEx(np.pad(_bytes(part), gap + 1), cv2.MORPH_CLOSE, _disc(gap))
    width = 2 * float(cv2.distanceTransform(solid, cv2.DIST_L2, 3).max())
    length = float(solid.sum()) / max(width, 1.0)
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


def _is_round(contour: npt.NDArray[np.int32], least_px: float, most_px: float) -> bool:
    """Whether an outline has about the shape of a bubble, without the corners of a frame, and a diameter in bounds."""
    area, length = cv2.contourArea(contour), cv2.arcLength(contour, closed=True)
    if not np.pi / 4 * least_px**2 <= area <= np.pi / 4 * most_px**2 or 4 * np.pi * area < 0.5 * length**2:
        return False
    width, height = cv2.minAreaRect(contour)[1]
    return bool(area < RECTANGLE * width * height)


def _touches_edge(contour: npt.NDArray[np.int32], shape: tuple[int, ...]) -> bool:
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
