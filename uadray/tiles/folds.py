"""Thumbnail -> mask of folds, by rules on optical density (OD) and on size in micrometres."""

import math

import cv2
import numpy as np
import numpy.typing as npt

from uadray.tiles.artefacts import Mask, as_bytes, box_around, disc
from uadray.tiles.optical_density import Channels, density, mean_densities

Total = npt.NDArray[np.float32]
"""[h, w], the sum of the OD of all channels."""

DARKEST_TISSUE = 1.1
"""OD of a fold over the OD of the slide's darkest tissue (90th percentile), at least. A band in pale tissue that is not
this dark is tissue, not a fold."""

PALE_TISSUE = 0.4
"""Tissue whose OD is below this share of the darkest is left out when it is measured how dark a slide's tissue is."""

SAMPLE_PX, SAMPLED = 2**14, 0.95
"""How dark a slide's tissue is, is first estimated on so many pixels; a band below this share of it is not looked at
further."""

SAME_COLOUR = 0.05
"""Greatest difference of a channel's share of the OD between a fold and the tissue around it."""

GAP_UM = 50.0
"""Narrower gaps do not divide a fold."""


def fold_mask(
    channels: Channels,
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
        channels: red, green and blue.
        tissue: [h, w].
        mpp: micrometres per pixel.
        ratio: least OD of a fold over the OD of its surroundings.
        max_width_um: greatest width of a fold.
        min_length_um: least length of a fold.
        ink: [h, w], pen, which is not in `tissue`. What touches it is no fold: where strokes cross dark tissue, the
            tissue between them looks like a band.
    """
    mask = np.zeros(tissue.shape, np.bool_)
    reach = max(3, int(3 * max_width_um / mpp))
    box = box_around(cv2.boundingRect(as_bytes(tissue)), reach)  # what lies beyond takes no part
    tissue, folds = tissue[box], mask[box]
    red, green, blue = (channel[box] for channel in channels)
    if not tissue.any():
        return mask
    total = density(red)
    total += density(green)
    total += density(blue)
    total = cv2.GaussianBlur(total, (0, 0), max(0.5, 10 / mpp), dst=total)
    dark, seeds = _dark(total, tissue, reach, ratio)
    if not seeds.any():
        return mask
    labels, held, boxes = _pieces(dark, seeds)
    beside_ink = [] if ink is None else np.unique(labels[cv2.dilate(as_bytes(ink[box]), disc(3)) > 0]).tolist()
    places = {
        label: box_around(rect, reach // 3)
        for label, rect in boxes.items()
        if np.hypot(rect[2], rect[3]) * mpp >= min_length_um and label not in beside_ink
    }
    for label in _darker_than_tissue(total, tissue, labels, places):
        place = places[label]
        piece = labels[place] == label
        others = tissue[place] & ~held.take(labels[place])
        pixels = red[place], green[place], blue[place]
        if _is_band(piece, mpp, max_width_um=max_width_um, min_length_um=min_length_um) and _same_colour(
            pixels, piece, others, reach // 3
        ):
            folds[place] |= piece
    folds[:] = cv2.dilate(as_bytes(folds), disc(3))
    return mask


def _dark(total: Total, tissue: Mask, side: int, ratio: float) -> tuple[Mask, Mask]:
    """[h, w] each: tissue that may belong to a fold, and tissue that is as dark as a fold.

    Both are darker than the tissue in a square of this side around them, which itself is not pale.
    """
    space = np.empty((3, *total.shape), np.float32)  # used twice: memory that is new takes longer than the sums
    around, share = _surroundings(total, tissue, side, space)
    solid = tissue & (share > 0.5)
    around *= 1.3
    around, _ = _surroundings(total, tissue & (total < around), side, space)  # now without the fold itself
    of_tissue = cv2.multiply(around, as_bytes(tissue), dst=space[2], dtype=cv2.CV_32F)
    solid &= around > 0.5 * cv2.sumElems(of_tissue)[0] / np.count_nonzero(tissue)
    around *= 0.85 * ratio
    dark = (total > around) & solid
    around *= 1 / 0.85
    return dark, dark & (total > around)


def _surroundings(total: Total, tissue: Mask, side: int, space: Total) -> tuple[Total, Total]:
    """Mean OD of the tissue in a square around each pixel, and the share of tissue in it; in `space`, [3, h, w]."""
    around, share, inside = space
    cv2.boxFilter(as_bytes(tissue), cv2.CV_32F, (side, side), dst=share)
    cv2.multiply(total, as_bytes(tissue), dst=inside, dtype=cv2.CV_32F)
    cv2.blur(inside, (side, side), dst=around)
    around /= np.maximum(share, 1e-3, out=inside)
    return around, share


def _pieces(dark: Mask, seeds: Mask) -> tuple[npt.NDArray[np.int32], Mask, dict[int, tuple[int, int, int, int]]]:
    """The pieces of `dark`: their labels [h, w], which of them hold a seed, and the boxes (x, y, w, h) of these."""
    count, labels = cv2.connectedComponents(as_bytes(dark), connectivity=8)
    held = np.zeros(count, np.bool_)
    held[labels[seeds]] = True
    at = np.flatnonzero(dark)
    of = labels.ravel()[at]
    at, of = at[held[of]], of[held[of]]
    order = np.argsort(of, kind="stable")
    rows, columns = np.divmod(at[order], dark.shape[1])
    found, starts = np.unique(of[order], return_index=True)
    (top, left), (bottom, right) = (
        [extreme.reduceat(values, starts) for values in (rows, columns)] for extreme in (np.minimum, np.maximum)
    )
    rects = np.stack([left, top, right - left + 1, bottom - top + 1], 1)
    return labels, held, {int(label): tuple(rect) for label, rect in zip(found, rects.tolist(), strict=True)}


def _darker_than_tissue(
    total: Total, tissue: Mask, labels: npt.NDArray[np.int32], places: dict[int, tuple[slice, slice]]
) -> list[int]:
    """The labels of pieces that are darker than the slide's darkest tissue.

    Most are not nearly as dark, which a sample of the tissue shows: a percentile of all of it is slow.
    """
    means = {label: total[place][labels[place] == label].mean() for label, place in places.items()}
    for step in (max(1, math.isqrt(total.size // SAMPLE_PX)), 1):
        sample = total[::step, ::step][tissue[::step, ::step]]
        least = (SAMPLED if step > 1 else 1.0) * DARKEST_TISSUE * _darkest(sample) if len(sample) else 0.0
        means = {label: mean for label, mean in means.items() if mean > least}
        if not means:
            break
    return list(means)


def _darkest(total: Total) -> float:
    """The 90th percentile of the OD of tissue, without the pale tissue, of which there may be any amount."""
    return float(np.percentile(total[total > PALE_TISSUE * np.percentile(total, 90)], 90))


def _is_band(piece: Mask, mpp: float, *, max_width_um: float, min_length_um: float) -> bool:
    """Whether a piece is as thin as a fold and long for its width; its length is its area over its width.

    Gaps are closed first, because a ragged patch of dense nuclei is nowhere wide and still no band.
    """
    gap = round(GAP_UM / mpp)
    solid = cv2.morphologyEx(np.pad(as_bytes(piece), gap + 1), cv2.MORPH_CLOSE, disc(gap))
    width = 2 * float(cv2.distanceTransform(solid, cv2.DIST_L2, 3).max())
    length = float(solid.sum()) / max(width, 1.0)
    return width * mpp <= max_width_um and length * mpp >= min_length_um and length >= 3 * width


def _same_colour(channels: Channels, piece: Mask, others: Mask, reach: int) -> bool:
    """Whether a piece has the colour of the tissue within `reach` pixels, as a fold has and an epithelium has not."""
    near = others & (cv2.dilate(as_bytes(piece), disc(2 * reach + 1)) > 0)
    if not near.any():
        return False
    inside, around = mean_densities(channels, piece), mean_densities(channels, near)
    return bool(np.abs(inside / inside.sum() - around / around.sum()).max() < SAME_COLOUR)
