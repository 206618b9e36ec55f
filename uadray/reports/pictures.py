"""Pictures for people: the heatmap over a slide's thumbnail, tiles beside reconstructions, encoded bytes.

Images are RGB, uint8 [h, w, 3]. Nothing here reads or writes a file. Words and numbers are never burnt into a picture:
the page that shows it labels it.
"""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""RGB picture, [h, w, 3]."""

TINT = (0.35, 0.72)
"""Opacity of the colour at the low and at the high end: normal tissue stays nearly grey, nuclei stay recognisable under
the strongest colour (judged by eye on H&E mosaics)."""

_UNREADABLE_RING = (0, 70, 160)  # blue: on no point of the colour scale, and told apart by every common colour vision
_THRESHOLD_RING = (10, 10, 10)


def heatmap(
    thumbnail: Image,
    tiles: pa.Table,
    *,
    level0_size: tuple[int, int],
    low: float,
    high: float,
    threshold: float | None,
) -> Image:
    """Lay tile scores over a slide's thumbnail.

    The thumbnail becomes light grey; a scored tile is tinted by its score; tissue shows through. Where tiles overlap
    the highest score is seen. A tile without a finite score is hatched black on white inside a blue ring, on top of
    everything, so that a failure never looks like a score.

    Args:
        thumbnail: the whole slide, uint8 [h, w, 3].
        tiles: rows of `TILE_SCORES`.
        level0_size: the slide's width and height in level-0 pixels.
        low: the score at the pale end of the scale; lower scores look the same.
        high: the score at the dark end; higher scores look the same.
        threshold: tiles scoring at least this are ringed in black; None rings nothing.

    Returns:
        A picture of the thumbnail's size.
    """
    _check_image(thumbnail)
    height, width = thumbnail.shape[:2]
    windows = tile_windows(tiles, level0_size=level0_size, thumbnail_size=(width, height))
    scores = np.asarray(tiles["score"].to_numpy(zero_copy_only=False), dtype=np.float64)
    finite = np.isfinite(scores)
    order = np.argsort(scores[finite], kind="stable")  # painted last is seen: the highest
    painted = _paint(np.full((height, width), np.nan), windows[finite][order], scores[finite][order])
    unreadable = _paint(np.zeros((height, width)), windows[~finite], np.ones(int((~finite).sum()))) > 0
    picture = _tint(_pale_grey(thumbnail), painted, low=low, high=high)
    stroke_px = _stroke_px(windows, max(height, width))
    if threshold is not None:
        picture[_ring(painted >= threshold, stroke_px)] = _THRESHOLD_RING
    return _hatch(picture, unreadable, stroke_px)


def tile_windows(
    tiles: pa.Table, *, level0_size: tuple[int, int], thumbnail_size: tuple[int, int]
) -> NDArray[np.int64]:
    """Where tiles land in a thumbnail: int64 [N, 4], x0, y0, x1, y1 in thumbnail pixels, ends excluded.

    A thumbnail pixel belongs to a tile when its centre does, so neighbours share no pixel and leave none between them.
    A tile that covers no centre takes the pixel its own centre is in. What lies outside the slide is cut off.

    Args:
        tiles: a table with the columns of `TILES`.
        level0_size: the slide's width and height in level-0 pixels.
        thumbnail_size: the thumbnail's width and height in pixels.
    """
    x0, x1 = _edges(tiles, "x_level0_px", "width_level0_px", size_level0_px=level0_size[0], size_px=thumbnail_size[0])
    y0, y1 = _edges(tiles, "y_level0_px", "height_level0_px", size_level0_px=level0_size[1], size_px=thumbnail_size[1])
    return np.stack([x0, y0, x1, y1], axis=1)


def colour(values: NDArray[Any], *, low: float, high: float) -> Image:
    """Colour any numbers, such as a residual map [h, w], on the scale of the heatmap: uint8 [h, w, 3].

    The scale is perceptually uniform, runs from pale (low) to dark (high) and reads the same without colour. Where
    `low` equals `high` everything above is dark and the rest is pale.

    Raises:
        ValueError: `low` is above `high`, or one is not a finite number.
    """
    return scale_colours()[np.rint(_share(values, low=low, high=high) * 255).astype(np.uint8)]


def scale_colours() -> Image:
    """The colour scale, lowest first: RGB uint8 [256, 3]. Inferno, pale to dark, without its white and black ends."""
    steps = np.rint(np.linspace(242, 38, 256)).astype(np.uint8)
    ramp = cv2.applyColorMap(steps[:, None], cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(ramp[:, 0, ::-1])


def legend_colours(count: int = 9) -> list[str]:
    """`count` evenly spaced colours as they look over tissue of medium grey, lowest first, as `#rrggbb`."""
    steps = np.linspace(0, 1, count)[None]
    tinted = _tint(np.full((1, count, 3), 190, np.uint8), steps, low=0, high=1)
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in tinted[0].tolist()]


def sample_grid(x: Image, x_hat: Image | None, *, columns: int = 8, gap_px: int = 4) -> Image:
    """Originals over their reconstructions, as a training run's sample page.

    Args:
        x: originals, uint8 [N, H, W, 3], N at least 1.
        x_hat: reconstructions, of the same shape; None shows the originals alone.
        columns: pairs in a row.
        gap_px: white pixels between pairs; a reconstruction touches its original.

    Returns:
        uint8 [rows * (2 H + gap) - gap, columns * (W + gap) - gap, 3], white where no pair is.

    Raises:
        ValueError: shapes differ, or there is nothing to show.
    """
    if x_hat is None:
        x_hat = x[:, :0]
    elif x.shape != x_hat.shape:
        raise ValueError(f"sample grid: expected two [N, H, W, 3] of one shape, got {x.shape} and {x_hat.shape}")
    if x.ndim != 4 or x.shape[-1] != 3 or len(x) == 0:
        raise ValueError(f"sample grid: expected [N, H, W, 3], got {x.shape}")
    columns = min(columns, len(x))
    rows = -(-len(x) // columns)
    pairs = np.concatenate([x, x_hat], axis=1)
    step_y, step_x = pairs.shape[1] + gap_px, pairs.shape[2] + gap_px
    page = np.full((rows * step_y - gap_px, columns * step_x - gap_px, 3), 255, np.uint8)
    for index, pair in enumerate(pairs):
        y, x0 = index // columns * step_y, index % columns * step_x
        page[y : y + pair.shape[0], x0 : x0 + pair.shape[1]] = pair
    return page


def label_places(
    points: Sequence[tuple[float, float]], *, size: tuple[int, int], roomy: bool
) -> list[tuple[float, float]]:
    """Where each point's number goes, so that no number hides a point or another number.

    On the point where tiles have room for it (`roomy`); else at the nearest free place around, the first point first.

    Args:
        points: x, y in any pixels, such as the middles of tiles in level-0 pixels.
        size: the picture's width and height in the same pixels; a number takes 5 % of the longer side.
        roomy: whether a tile is larger than its number.
    """
    if roomy:
        return list(points)
    unit = 0.055 * max(size)
    taken = list(points)
    for x, y in points:
        ring = [(x + unit * r * math.sin(a), y - unit * r * math.cos(a)) for r in range(1, 9) for a in range(12)]
        inside = [
            place for place in ring if all(unit / 2 <= v <= end - unit / 2 for v, end in zip(place, size, strict=True))
        ]
        free = [place for place in inside if all(math.dist(place, other) >= 0.95 * unit for other in taken)]
        taken.append((free or inside or [(x, y)])[0])
    return taken[len(points) :]


def encode_jpeg(image: Image, *, quality: int = 90) -> bytes:
    """Encode as JPEG with full colour resolution (4:4:4): thin coloured lines stay sharp.

    Raises:
        ValueError: not uint8 [h, w, 3].
    """
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return _encode(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling])


def encode_png(image: Image) -> bytes:
    """Encode as PNG, without loss.

    Raises:
        ValueError: not uint8 [h, w, 3].
    """
    return _encode(image, ".png", [])


def _edges(
    tiles: pa.Table, start: str, length: str, *, size_level0_px: int, size_px: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    begin = tiles[start].to_numpy(zero_copy_only=False).astype(np.int64)
    end = begin + tiles[length].to_numpy(zero_copy_only=False).astype(np.int64)
    first, last = (-((size_level0_px - 2 * edge * size_px) // (2 * size_level0_px)) for edge in (begin, end))
    centre = (begin + end) * size_px // (2 * size_level0_px)
    small = last <= first
    first, last = np.where(small, centre, first), np.where(small, centre + 1, last)
    return np.clip(first, 0, size_px), np.clip(last, 0, size_px)


def _paint(canvas: NDArray[np.float64], windows: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    # A slice a tile: 50,000 tiles take some 30 ms, and no index array as large as the thumbnail is built.
    for (x0, y0, x1, y1), value in zip(windows.tolist(), values.tolist(), strict=True):
        canvas[y0:y1, x0:x1] = value
    return canvas


def _share(values: NDArray[Any], *, low: float, high: float) -> NDArray[np.float64]:
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ValueError(f"colour scale from {low} to {high}: expected two finite numbers, the lower first")
    numbers = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=low, posinf=high, neginf=low)
    return np.clip((numbers - low) / (high - low), 0, 1) if high > low else (numbers > low).astype(np.float64)


def _pale_grey(thumbnail: Image) -> Image:
    grey = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)
    return np.repeat((125 + grey * (130 / 255)).astype(np.uint8)[..., None], 3, axis=2)


def _tint(grey: Image, painted: NDArray[np.float64], *, low: float, high: float) -> Image:
    opacity = TINT[0] + (TINT[1] - TINT[0]) * _share(painted, low=low, high=high)[..., None]
    tinted = (1 - opacity) * grey + opacity * colour(painted, low=low, high=high)
    return np.where(np.isnan(painted)[..., None], grey, np.rint(tinted).astype(np.uint8))


def _stroke_px(windows: NDArray[np.int64], size_px: int) -> int:
    # Seen when the picture is shown at a third of its size, and never wider than a sixth of a tile.
    tile_px = int(np.median(windows[:, 2] - windows[:, 0])) if len(windows) else 0
    return max(1, min(round(size_px / 400), tile_px // 6))


def _ring(mask: NDArray[np.bool_], stroke_px: int) -> NDArray[np.bool_]:
    # Outside the region, so that a tile of one pixel keeps its colour.
    reach = np.ones((2 * stroke_px + 1, 2 * stroke_px + 1), np.uint8)
    grown: NDArray[np.bool_] = cv2.dilate(mask.astype(np.uint8), reach) > 0
    return grown & ~mask


def _hatch(picture: Image, unreadable: NDArray[np.bool_], stroke_px: int) -> Image:
    size_px = max(unreadable.shape)
    line_px = max(1, round(size_px / 400))
    y, x = np.ogrid[: unreadable.shape[0], : unreadable.shape[1]]
    picture[unreadable] = 255
    picture[unreadable & ((x + y) % (3 * line_px) < line_px)] = 0
    picture[_ring(unreadable, max(stroke_px, round(size_px / 600)))] = _UNREADABLE_RING
    return picture


def _check_image(image: Image) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"picture: expected uint8 [h, w, 3], got {image.dtype} {list(image.shape)}")


def _encode(image: Image, suffix: str, options: Sequence[int]) -> bytes:
    _check_image(image)
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), list(options))
    if not done:
        raise ValueError(f"picture of {list(image.shape)}: could not be encoded as {suffix}")
    return bytes(data)
