"""What of a slide is fit to be judged: flags for pen, folds, air and blur, by slide and by tile.

From the thumbnail (`slide_quality`) come masks, from a tile's own pixels (`pixel_flags`) focus and emptiness. Plain
rules (`artefacts`, `focus`), no model. The kinds of artefact are those of HistoQC (Janowczyk et al. 2019,
doi:10.1200/CCI.18.00157). A flag costs coverage, so thresholds were chosen to leave normal tissue alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from uadray.config import Config
from uadray.tiles.artefacts import air_mask, density, fold_mask, pen_mask
from uadray.tiles.focus import blurred_blocks, empty, focus
from uadray.tiles.tissue import shrink, tissue_fraction

Flag = Literal["pen", "fold", "air", "blur", "out_of_focus"]
FLAGS: tuple[Flag, ...] = get_args(Flag)

Mask = npt.NDArray[np.bool_]

WORKING_MPP = 8.0
"""Pen, folds and air are looked for at about 8 um a pixel: the narrowest fold is 3 to 5 px wide."""

REASONS: dict[Flag, str] = {
    "pen": "pen", "fold": "folds", "air": "air", "blur": "out_of_focus", "out_of_focus": "out_of_focus",
}  # fmt: skip
"""Flag -> reason of a slide that is not assessable, where one reason explains most of it; else `poor_quality`."""


class QualityConfig(Config):
    """Thresholds of the flags.

    Attributes:
        tile_share: a tile is flagged when at least this share of it lies under a flag's mask.
        ink_ratio: blue and green ink: OD in red over OD in green. Of stained pixels of normal_train 99.9 % are below
            0.9, and no stroke's width of them is above it; of painted inks navy is the nearest with 1.09.
        red_ink_ratio: red ink: OD in blue over OD in green, with hardly any OD in red; 0.72 for the darkest red
            painted. Eosin of TCGA is 0.54 (99 %: 0.68), blood up to 0.95, in specks.
        pen_width_um: a stroke is at least this wide. Seams of surgical ink (CMU-1) are 30 to 50 um, one cell of a
            mosaic 93 um, fine liners 300 um.
        fold_ratio: OD of a fold over the mean OD around it: 2 in theory, 1.4 flagged 1 to 6 % of mosaics.
        fold_max_width_um: wider bands are dense tissue.
        fold_min_length_um: shorter ones are vessels, seams and cells of a mosaic.
        bubble_min_um: diameter of the smallest bubble; fat cells are 50 to 150 um.
        focus_min: sharpness (see `focus.focus`) below this is out of focus. The least of any source's sharp tiles is
            0.45 (phantoms at 0.5 um); blur of sigma 2 um has 0.2 to 0.4.
        min_good_share: with a smaller share of its tissue tiles unflagged a slide is not assessable.
        min_good_tiles: and with fewer of them.
    """

    tile_share: float = Field(default=0.3, gt=0, le=1)
    ink_ratio: float = Field(default=1.05, gt=1)
    red_ink_ratio: float = Field(default=0.7, gt=0)
    pen_width_um: float = Field(default=200.0, gt=0)
    fold_ratio: float = Field(default=1.5, gt=1)
    fold_max_width_um: float = Field(default=250.0, gt=0)
    fold_min_length_um: float = Field(default=300.0, gt=0)
    bubble_min_um: float = Field(default=300.0, gt=0)
    focus_min: float = Field(default=0.4, ge=0)
    min_good_share: float = Field(default=0.25, ge=0, le=1)
    min_good_tiles: int = Field(default=1, ge=0)


@dataclass(frozen=True)
class SlideQuality:
    """What the thumbnail shows.

    Attributes:
        masks: by flag, bool [h, w] over the whole slide; `blur` is coarser than the others.
        fractions: by flag, the share (0 to 1) of the tissue mask that lies under it.
    """

    masks: Mapping[Flag, Mask]
    fractions: Mapping[Flag, float]


def slide_quality(
    thumbnail: npt.NDArray[np.uint8], mpp: float, tissue: Mask, config: QualityConfig | None = None
) -> SlideQuality:
    """Look for pen, folds, air and blur on the thumbnail.

    Args:
        thumbnail: RGB, [h, w, 3].
        mpp: micrometres per pixel of the thumbnail.
        tissue: [h, w], see `tissue.tissue_mask`. Ink on bare glass counts as tissue there, being coloured.
        config: thresholds.
    """
    config = config or QualityConfig()
    factor = max(1, round(WORKING_MPP / mpp))
    small = density(shrink(thumbnail, factor))
    scale, size = mpp * factor, (small.shape[1], small.shape[0])
    inside = _resized(tissue, size)
    pen = pen_mask(
        small, scale, ink_ratio=config.ink_ratio, red_ratio=config.red_ink_ratio, width_um=config.pen_width_um
    )
    fold = fold_mask(
        small, inside & ~pen, scale, ink=pen,
        ratio=config.fold_ratio, max_width_um=config.fold_max_width_um, min_length_um=config.fold_min_length_um,
    )  # fmt: skip
    air = air_mask(small, scale, min_um=config.bubble_min_um, tissue=inside) & ~pen
    unmarked = tissue & ~_resized(pen, (tissue.shape[1], tissue.shape[0])) if pen.any() else tissue
    blur = blurred_blocks(thumbnail, mpp, unmarked, focus_min=config.focus_min)
    masks: dict[Flag, Mask] = {"pen": pen, "fold": fold, "air": air, "blur": blur}
    return SlideQuality(masks, {flag: _share(mask, inside) for flag, mask in masks.items()})


def tile_flags(
    quality: SlideQuality,
    x_level0_px: npt.NDArray[np.int64],
    y_level0_px: npt.NDArray[np.int64],
    *,
    side_level0_px: int,
    size_level0_px: tuple[int, int],
    config: QualityConfig | None = None,
) -> list[Flag | None]:
    """The flag of each square tile: the largest of those that cover `tile_share` of it; None where it is good.

    Args:
        quality: of the slide.
        x_level0_px: [n] left edges.
        y_level0_px: [n] upper edges.
        side_level0_px: of every tile.
        size_level0_px: width and height of the slide.
        config: thresholds.

    Returns:
        [n]
    """
    least = (config or QualityConfig()).tile_share
    flags: list[Flag | None] = [None] * len(x_level0_px)
    largest = np.zeros(len(x_level0_px))
    for flag, mask in quality.masks.items():
        if mask.any():
            share = tissue_fraction(mask, size_level0_px, x_level0_px, y_level0_px, side_level0_px)
            for i in np.flatnonzero((share >= least) & (share > largest)):
                flags[i], largest[i] = flag, share[i]
    return flags


def pixel_flags(images: npt.NDArray[np.uint8], mpp: float, config: QualityConfig | None = None) -> list[Flag | None]:
    """Flags from the tiles' own pixels: `air` where there is nothing but glass, `out_of_focus`, or None.

    Args:
        images: RGB, [n, h, w, 3].
        mpp: micrometres per pixel; 0.25 to 3.
        config: thresholds.

    Returns:
        [n]
    """
    least = (config or QualityConfig()).focus_min
    sharpness = focus(images, mpp)
    flags: list[Flag | None] = ["out_of_focus" if value < least else None for value in sharpness]
    flat = np.flatnonzero(np.isinf(sharpness))
    for i in flat[empty(images[flat])]:
        flags[i] = "air"
    return flags


def assess(n_tissue: int, counts: Mapping[Flag, int], config: QualityConfig | None = None) -> tuple[str, str] | None:
    """Why a slide is not assessable for its quality: reason and message; None where enough good tissue is left.

    Args:
        n_tissue: tiles with enough tissue, flagged or not.
        counts: of these, how many carry each flag; a tile counts once.
        config: thresholds.

    Returns:
        A stable word (`pen`, `folds`, `air`, `out_of_focus`; `poor_quality` where no reason alone explains half of what
        was lost) and a text with the figures.

    >>> assess(200, {"pen": 160, "blur": 10})
    ('pen', '30 of 200 tissue tiles are good, at least 50 needed; flagged: pen 160, blur 10')
    """
    config = config or QualityConfig()
    flagged = {flag: counts[flag] for flag in FLAGS if counts.get(flag, 0) > 0}
    good, needed = n_tissue - sum(flagged.values()), max(config.min_good_tiles, config.min_good_share * n_tissue)
    if not flagged or good >= needed:
        return None
    lost: dict[str, int] = {}
    for flag, count in flagged.items():
        lost[REASONS[flag]] = lost.get(REASONS[flag], 0) + count
    reason = max(lost, key=lambda name: lost[name])
    figures = ", ".join(f"{flag} {count}" for flag, count in sorted(flagged.items(), key=lambda item: -item[1]))
    text = f"{good} of {n_tissue} tissue tiles are good, at least {int(np.ceil(needed))} needed; flagged: {figures}"
    return (reason if 2 * lost[reason] > sum(lost.values()) else "poor_quality", text)


def _share(mask: Mask, tissue: Mask) -> float:
    under = _resized(mask, (tissue.shape[1], tissue.shape[0])) & tissue
    return float(under.sum() / max(1, int(tissue.sum())))


def _resized(mask: Mask, size: tuple[int, int]) -> Mask:
    """A mask at another width and height."""
    return np.asarray(cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST)).view(np.bool_)
