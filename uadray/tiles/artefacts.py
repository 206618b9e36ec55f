"""Thumbnail -> masks of pen, folds and air bubbles, by rules on optical density and on size in micrometres.

Optical density (OD) is log10(white / pixel), so that the densities of things that lie over each other add up. All masks
have the size [h, w] of the densities.
"""

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Density = npt.NDArray[np.float32]
"""[h, w, 3], red, green, blue."""

WHITE, DARKEST = 240.0, 4.0
"""Pixel values that have OD 0 and the greatest OD: bare glass has no density, and black no infinite one."""

DARKEST_TISSUE = 1.1
"""OD of a fold over the OD of the slide's darkest tissue (90th percentile), at least. A band in pale tissue that is not
this dark is tissue, not a fold."""

PALE_TISSUE = 0.4
"""Tissue whose OD is below this share of the darkest is left out when it is measured how dark a slide's tissue is."""

SAME_COLOUR = 0.05
"""Greatest difference of a channel's share of the OD between a fold and the tissue around it."""

GAP_UM = 50.0
"""Narrower gaps do not divide a fold."""

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


def density(image: npt.NDArray[np.uint8]) -> Density:
    """OD of RGB [h, w, 3]."""
    table = np.log10(WHITE / np.clip(np.arange(256), DARKEST, WHITE)).astype(np.float32)
    return np.asarray(cv2.LUT(image, table), dtype=np.float32)


def pen_mask(od: Density, mpp: float, *, ink_ratio: float, red_ratio: float, width_um: float) -> Mask:
    """Strokes of blue, green, red or black felt pen.

    Haematoxylin, eosin and blood absorb green most. Blue and green ink absorb more red than green; red ink absorbs as
    much blue as green and hardly any red; black ink absorbs all colours alike. From where a stroke is as wide as
    `width_um`, it is followed onto tissue, where its colour is mixed with that of the tissue.

    Args:
        od: densities.
        mpp: micrometres per pixel.
        ink_ratio: least OD in red over OD in green of blue and green ink.
        red_ratio: least OD in blue over OD in green of red ink.
        width_um: width of the thinnest stroke.
    """
    red, green, blue = cv2.split(cv2.GaussianBlur(od, (3, 3), 0))
    low, high = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    cold = (red > ink_ratio * green) & (high > FAINT)
    warm = (blue > red_ratio * green) & (red < 0.25 * green) & (green > 0.6)
    black = (low > 0.8 * high) & (low > 0.6)
    gap = _disc(3)
    seeds = np.zeros(cold.shape, np.uint8)
    for ink in (cold, warm, black):  # one by one, so that a speck with a rim of another colour is no stroke
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
    """Folds: long and thin bands of tissue with about twice the OD of the tissue around them, in the same colour.

    Args:
        od: densities.
        tissue: [h, w].
        mpp: micrometres per pixel.
        ratio: least OD of a fold over the OD of its surroundings.
        max_width_um: greatest width of a fold.
        min_length_um: least length of a fold.
        ink: [h, w], pen, which is not in `tissue`. What touches it is no fold: where strokes cross dark tissue, the
            tissue between them looks like a band.
    """
    total = cv2.GaussianBlur(cv2.transform(od, np.ones((1, 3))), (0, 0), max(0.5, 10 / mpp))
    side = max(3, int(3 * max_width_um / mpp))
    around, share = _surroundings(total, tissue, side)
    around, _ = _surroundings(total, tissue & (total < 1.3 * around), side)  # now without the fold itself
    solid = (share > 0.5) & tissue & (around > 0.5 * around[tissue].mean() if tissue.any() else tissue)
    darkest = DARKEST_TISSUE * _darkest(total[tissue]) if tissue.any() else 0.0
    dark = _bytes((total > 0.85 * ratio * around) & solid)
    dark = _connected(dark, _bytes((total > ratio * around) & solid))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=8)
    mask = np.zeros(dark.shape, np.bool_)
    beside_ink = [] if ink is None else np.unique(labels[cv2.dilate(_bytes(ink), _disc(3)) > 0]).tolist()
    for label in np.flatnonzero(np.hypot(stats[:, 2], stats[:, 3]) * mpp >= min_length_um):
        box = _box_around(stats[label], side // 3)
        piece = labels[box] == label
        if (
            label
            and label not in beside_ink
            and total[box][piece].mean() > darkest
            and _is_band(piece, mpp, max_width_um=max_width_um, min_length_um=min_length_um)
            and _same_colour(od[box], piece, (tissue & (labels == 0))[box], side // 3)
        ):
            mask[box] |= piece
    return np.asarray(cv2.dilate(_bytes(mask), _disc(3)), dtype=np.bool_)


def air_mask(od: Density, mpp: float, *, min_um: float, tissue: Mask | None = None) -> Mask:
    """Air bubbles under the cover slip, their rim and their inside.

    The rim of a bubble bends light away, so it is dark, thin, without colour, and closed around an area much larger
    than a fat cell. Other closed dark lines are frames, edges of cover slips, unscanned surroundings and rings of pen.
    These are wide, or have corners, or reach the slide's edge, or lie on glass around most of the tissue, or what lies
    inside looks different from what lies outside.

    Args:
        od: densities.
        mpp: micrometres per pixel.
        min_um: diameter of the smallest bubble.
        tissue: [h, w]; where it is given, a rim that lies on bare glass around most of the tissue is a frame.
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
            continue  # not the inner outline of a rim, or not of the rim of a bubble
        box = _box_around(np.array(cv2.boundingRect(contour), np.int32), round((RIM_UM + BESIDE_UM) / mpp) + 2)
        inside = np.zeros(rim[box].shape, np.uint8)
        cv2.drawContours(inside, contours, i, 1, cv2.FILLED, offset=(-box[1].start, -box[0].start))
        beyond_um = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3) * mpp
        if _is_thin(rim[box], beyond_um, mpp) and _sides_alike(inside, beyond_um, rim[box], od[box], mpp):
            bubble = inside | (rim[box] & _bytes(beyond_um <= RIM_UM))
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
    od: Density,
    mpp: float,
) -> bool:
    """Whether both sides of a rim look about the same, because the tissue goes on under a bubble."""
    clear = cv2.dilate(rim, _disc(3)) == 0
    within = clear & (inside > 0) & (cv2.distanceTransform(inside, cv2.DIST_L2, 3) * mpp <= BESIDE_UM)
    around = clear & (inside == 0) & (beyond_um <= RIM_UM + BESIDE_UM)
    if not within.any() or not around.any():
        return False
    return bool(np.abs(od[within].mean(0) - od[around].mean(0)).max() < SAME_DENSITY)


def _is_frame(
    bubble: npt.NDArray[np.uint8], beyond_um: npt.NDArray[np.float32], tissue: Mask, box: tuple[slice, slice]
) -> bool:
    """Whether most of a slide's tissue lies inside, and none at the rim."""
    here = tissue[box]
    around = (bubble == 0) & (beyond_um <= RIM_UM + BESIDE_UM)
    return bool(2 * np.count_nonzero(here & (bubble > 0)) > np.count_nonzero(tissue) and here[around].mean() < 0.05)


def _darkest(total: npt.NDArray[np.float32]) -> float:
    """The 90th percentile of the OD of tissue, without the pale tissue, of which there may be any amount."""
    return float(np.percentile(total[total > PALE_TISSUE * np.percentile(total, 90)], 90))


def _surroundings(
    total: npt.NDArray[np.float32], tissue: Mask, side: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean OD of the tissue in a square around each pixel, and the share of tissue in it."""
    inside = tissue.astype(np.float32)
    share = cv2.blur(inside, (side, side))
    return cv2.blur(total * inside, (side, side)) / np.maximum(share, 1e-3), share


def _is_band(piece: Mask, mpp: float, *, max_width_um: float, min_length_um: float) -> bool:
    """Whether a piece is as thin as a fold and long for its width; its length is its area over its width.

    Gaps are closed first, because a ragged patch of dense nuclei is nowhere wide and still no band.
    """
    gap = round(GAP_UM / mpp)
    solid = cv2.morphologyEx(np.pad(_bytes(piece), gap + 1), cv2.MORPH_CLOSE, _disc(gap))
    width = 2 * float(cv2.distanceTransform(solid, cv2.DIST_L2, 3).max())
    length = float(solid.sum()) / max(width, 1.0)
    return width * mpp <= max_width_um and length * mpp >= min_length_um and length >= 3 * width


def _box_around(stats: npt.NDArray[np.int32], margin: int) -> tuple[slice, slice]:
    """Rows and columns of a piece with a margin; `stats` begins with its x, y, width and height."""
    x, y, w, h = (int(value) for value in stats[:4])
    return slice(max(0, y - margin), y + h + margin), slice(max(0, x - margin), x + w + margin)


def _same_colour(od: Density, piece: Mask, others: Mask, reach: int) -> bool:
    """Whether a piece has the colour of the tissue within `reach` pixels, as a fold has and an epithelium has not."""
    near = others & (cv2.dilate(_bytes(piece), _disc(2 * reach + 1)) > 0)
    if not near.any():
        return False
    inside, around = od[piece].mean(0), od[near].mean(0)
    return bool(np.abs(inside / inside.sum() - around / around.sum()).max() < SAME_COLOUR)


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
    reached = cv2.distanceTransform(_bytes(~core), cv2.DIST_L2, 3) <= radius
    return mask & _bytes(reached[margin:-margin, margin:-margin])


def _disc(diameter_px: float) -> npt.NDArray[np.uint8]:
    side = max(1, round(diameter_px))
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), dtype=np.uint8)


def _bytes(mask: Mask) -> npt.NDArray[np.uint8]:
    return mask.view(np.uint8)
