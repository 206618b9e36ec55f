"""Which parts of a slide are fit to be judged: flags for pen, folds, air and blur, by slide and by tile.

The thumbnail gives masks of pen, folds, air and blur (`flag_masks`), and from these the flags of tiles that need not be
read (`tile_flags`); the pixels of a tile that was read show whether it is empty or out of focus (`pixel_flags`). All
are plain rules (`artefacts`, `focus`) without a model. The kinds of artefact are those of HistoQC (Janowczyk et al.
2019, doi:10.1200/CCI.18.00157). A flagged tile lowers the coverage of a slide, so thresholds were chosen such that
normal tissue is not flagged.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from uadray.config import Config
from uadray.tiles.artefacts import air_mask, pen_mask
from uadray.tiles.focus import FLAT, blurred_blocks, empty, focus, is_clear, strip_focus
from uadray.tiles.folds import fold_mask
from uadray.tiles.optical_density import channels_of
from uadray.tiles.tissue import block_means, tissue_fraction

Flag = Literal["pen", "fold", "air", "blur", "out_of_focus"]
FLAGS: tuple[Flag, ...] = get_args(Flag)

Mask = npt.NDArray[np.bool_]

WORKING_MPP = 8.0
"""Pen, folds and air are looked for at about 8 um a pixel, where the narrowest fold is 3 to 5 px wide."""

REASONS: dict[Flag, str] = {
    "pen": "pen", "fold": "folds", "air": "air", "blur": "out_of_focus", "out_of_focus": "out_of_focus",
}  # fmt: skip
"""Flag -> the reason why a slide is not assessable, where this reason explains most of the loss; else
`poor_quality`."""


class QualityConfig(Config):
    """Thresholds of the flags.

    Attributes:
        tile_share: a tile is flagged when at least this share of it lies under a flag's mask.
        ink_ratio: optical density (OD) in red over OD in green, above which a colour is blue or green ink. 99.9 % of
            the stained pixels of normal_train are below 0.9, and the others nowhere as wide as a stroke; of the inks
            that were painted for tests navy is the nearest, with 1.09.
        red_ink_ratio: OD in blue over OD in green, with hardly any OD in red, above which a colour is red ink. The
            darkest red that was painted has 0.72. Eosin of TCGA has 0.54 (99 %: 0.68), blood up to 0.95, in specks.
        pen_width_um: a stroke is at least this wide. Seams of surgical ink (CMU-1) are 30 to 50 um wide, one cell of a
            mosaic 93 um, fine liners 300 um.
        fold_ratio: OD of a fold over the mean OD around it. It is 2 in theory; with 1.4, 1 to 6 % of mosaics were
            flagged.
        fold_max_width_um: wider bands are dense tissue.
        fold_min_length_um: shorter bands are vessels, seams and cells of a mosaic.
        bubble_min_um: diameter of the smallest bubble; fat cells are 50 to 150 um.
        focus_min: a tile of lower sharpness (see `focus.focus`) is out of focus. The least sharpness of sharp tiles of
            any source is 0.45 (phantoms at 0.5 um); blur of sigma 2 um has 0.2 to 0.4.
        min_good_share: with a smaller share of unflagged tissue tiles a slide is not assessable.
        min_good_tiles: with fewer unflagged tissue tiles a slide is not assessable.
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


def flag_masks(
    thumbnail: npt.NDArray[np.uint8], mpp: float, tissue: Mask, config: QualityConfig | None = None
) -> dict[Flag, Mask]:
    """Where the thumbnail shows pen, folds, air and blur.

    Args:
        thumbnail: RGB, [h, w, 3].
        mpp: micrometres per pixel of the thumbnail.
        tissue: [h, w], see `tissue.tissue_mask`. It holds ink on bare glass, which is coloured too.
        config: thresholds.

    Returns:
        By flag, bool [h, w] over the whole slide; `blur` is coarser than the others.
    """
    config = config or QualityConfig()
    factor = max(1, round(WORKING_MPP / mpp))
    channels = channels_of(block_means(thumbnail, factor))
    scale, size = mpp * factor, (channels[0].shape[1], channels[0].shape[0])
    inside = _resized(tissue, size)
    pen = pen_mask(
        channels, scale, ink_ratio=config.ink_ratio, red_ratio=config.red_ink_ratio, width_um=config.pen_width_um
    )
    fold = fold_mask(
        channels, inside & ~pen, scale, ink=pen,
        ratio=config.fold_ratio, max_width_um=config.fold_max_width_um, min_length_um=config.fold_min_length_um,
    )  # fmt: skip
    air = air_mask(channels, scale, min_um=config.bubble_min_um, tissue=inside) & ~pen
    unmarked = tissue & ~_resized(pen, (tissue.shape[1], tissue.shape[0])) if pen.any() else tissue
    blur = blurred_blocks(thumbnail, mpp, unmarked, focus_min=config.focus_min)
    return {"pen": pen, "fold": fold, "air": air, "blur": blur}


def tile_flags(
    masks: Mapping[Flag, Mask],
    x_level0_px: npt.NDArray[np.int64],
    y_level0_px: npt.NDArray[np.int64],
    *,
    side_level0_px: int,
    size_level0_px: tuple[int, int],
    config: QualityConfig | None = None,
) -> list[Flag | None]:
    """The flag of each square tile: the one that covers most of it, and at least `tile_share`; None for a good tile.

    Args:
        masks: of the slide, see `flag_masks`.
        x_level0_px: [n] left edges.
        y_level0_px: [n] upper edges.
        side_level0_px: of all tiles.
        size_level0_px: width and height of the slide.
        config: thresholds.

    Returns:
        [n]
    """
    least = (config or QualityConfig()).tile_share
    flags: list[Flag | None] = [None] * len(x_level0_px)
    largest = np.zeros(len(x_level0_px))
    for flag, mask in masks.items():
        if mask.any():
            share = tissue_fraction(mask, size_level0_px, x_level0_px, y_level0_px, side_level0_px)
            for i in np.flatnonzero((share >= least) & (share > largest)):
                flags[i], largest[i] = flag, share[i]
    return flags


def pixel_flags(images: npt.NDArray[np.uint8], mpp: float, config: QualityConfig | None = None) -> list[Flag | None]:
    """The flag of each tile by its own pixels: `air` where there is nothing but glass, `out_of_focus`, or None.

    Args:
        images: RGB, [n, h, w, 3].
        mpp: micrometres per pixel; 0.25 to 3.
        config: thresholds.

    Returns:
        [n]
    """
    return judged_pixels(images, mpp, config)[0]


def judged_pixels(
    images: npt.NDArray[np.uint8], mpp: float, config: QualityConfig | None = None
) -> tuple[list[Flag | None], npt.NDArray[np.float64]]:
    """The `pixel_flags` of tiles, and the sharpness of the strips that were looked at first for them.

    Args:
        images: RGB, [n, h, w, 3].
        mpp: micrometres per pixel; 0.25 to 3.
        config: thresholds.

    Returns:
        [n] each; the sharpness (see `focus.strip_focus`) is NaN where the strip is too flat to judge.
    """
    least = (config or QualityConfig()).focus_min
    flags: list[Flag | None] = [None] * len(images)
    sharpness_of_strips, variance = strip_focus(images, mpp)
    doubtful = np.flatnonzero(~is_clear(sharpness_of_strips, variance, focus_min=least))
    for i, sharpness in zip(doubtful, focus(images, mpp, which=doubtful), strict=True):
        if sharpness < least:
            flags[i] = "out_of_focus"
        elif np.isinf(sharpness) and empty(images[i : i + 1])[0]:
            flags[i] = "air"
    return flags, np.where(variance < FLAT**2, np.nan, sharpness_of_strips)


def assess(n_tissue: int, counts: Mapping[Flag, int], config: QualityConfig | None = None) -> tuple[str, str] | None:
    """Why the quality of a slide makes it not assessable, as reason and message; None where enough good tissue is left.

    Args:
        n_tissue: tiles with enough tissue, flagged or not.
        counts: how many of these carry each flag; a tile has one flag at most.
        config: thresholds.

    Returns:
        A fixed word (`pen`, `folds`, `air`, `out_of_focus`, or `poor_quality` where no single reason explains half of
        the loss) and a text with the figures.

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


def _resized(mask: Mask, size: tuple[int, int]) -> Mask:
    """A mask at another width and height."""
    return np.asarray(cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST)).view(np.bool_)
