"""Brushes that phantoms are painted with: smooth noise, grids, streaks, soft masks, nuclei. They know no histology.

Maps are float32 [H, W]; points are float32 [N, 2], x then y, in pixels.
"""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

OVERLAP = 1.0  # greatest amount of haematoxylin where nuclei lie on top of each other


class Canvas(Protocol):
    """What brushes have to know of a slide."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""

    @property
    def mpp(self) -> float:
        """Micrometres per pixel."""


@dataclass(frozen=True)
class Nuclei:
    """Ellipses: centres [N, 2] and half axes [N, 2] in pixels, angles [N] in degrees, haematoxylin [N]."""

    xy: Floats
    axes: Floats
    angle: Floats
    amount: Floats

    def chosen(self, keep: NDArray[np.bool_]) -> "Nuclei":
        """The nuclei for which `keep`, [N], is true."""
        return Nuclei(self.xy[keep], self.axes[keep], self.angle[keep], self.amount[keep])


def smooth(rng: np.random.Generator, canvas: Canvas, grain_um: float, *, stretch: float = 1.0) -> Floats:
    """Smooth noise [H, W] of mean 0 and variance 1, with grains of this size, `stretch` times as long in x."""
    cells = [
        max(4, round(side * canvas.mpp / size) + 3)
        for side, size in zip(canvas.shape, (grain_um, grain_um * stretch), strict=True)
    ]
    field = rng.standard_normal(cells, np.float32) / np.float32(0.72)  # bicubic interpolation keeps 0.72 of the spread
    if grain_um > 16 * canvas.mpp:  # cubic interpolation of each fourth pixel is enough, and faster
        field = cv2.resize(field, (canvas.shape[1] // 4, canvas.shape[0] // 4), interpolation=cv2.INTER_CUBIC)
        return enlarged(field, canvas.shape)
    return np.asarray(cv2.resize(field, canvas.shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def soft(mask: NDArray[np.generic], sigma_px: float) -> Floats:
    """A mask [H, W] blurred like by a Gaussian: twice by a box, which takes no longer for a wider blur."""
    side = 2 * round((np.sqrt(6 * sigma_px**2 + 1) - 1) / 2) + 1
    return np.asarray(cv2.blur(cv2.blur(mask.astype(np.float32), (side, side)), (side, side)), np.float32)


def grown(mask: Bytes, by_px: float) -> NDArray[np.bool_]:
    """What lies within a distance of a mask of 0 and 1: [H, W]."""
    if not mask.any():
        return np.zeros(mask.shape, np.bool_)
    return np.asarray(cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3) < by_px, np.bool_)


def hexagons(canvas: Canvas, pitch_px: float) -> Floats:
    """Points [N, 2] of a hexagonal grid that covers the slide and a margin."""
    rows = np.arange(-4, canvas.shape[0] / (pitch_px * 0.866) + 4)
    columns = np.arange(-4, canvas.shape[1] / pitch_px + 4)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    return (np.stack([x + 0.5 * (y % 2), y * 0.866], axis=-1).reshape(-1, 2) * pitch_px).astype(np.float32)


def at(field: Floats, xy: Floats) -> Floats:
    """Values of a map [H, W, ...] at points [N, 2]; points outside take the value of the border."""
    x = np.clip(xy[:, 0].astype(np.intp), 0, field.shape[1] - 1)
    y = np.clip(xy[:, 1].astype(np.intp), 0, field.shape[0] - 1)
    return field[y, x]


def block_means(image: Floats, blocks: tuple[int, ...]) -> Floats:
    """Means of an image [H, W, C] over a grid of blocks (columns, rows), a little smoothed."""
    return np.asarray(
        cv2.GaussianBlur(cv2.resize(image, blocks, interpolation=cv2.INTER_AREA), (0, 0), 1.0), np.float32
    )


def enlarged(grid: Floats, shape: tuple[int, ...]) -> Floats:
    """A grid [h, w, ...] stretched over a whole map, linearly; `shape` begins with height and width."""
    return np.asarray(cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), np.float32)


def ellipses(
    xy: Floats,
    *,
    diameter: NDArray[np.floating],
    longer: NDArray[np.floating],
    angle_rad: NDArray[np.floating],
    amount: NDArray[np.floating],
) -> Nuclei:
    """Nuclei at points [N, 2], by diameter (px, of a circle of the same area), ratio of axes, angle, haematoxylin."""
    axes = np.stack([diameter * np.sqrt(longer), diameter / np.sqrt(longer)], axis=1) / 2
    return Nuclei(xy, axes.astype(np.float32), np.degrees(angle_rad).astype(np.float32), amount.astype(np.float32))


def joined(first: Nuclei, second: Nuclei) -> Nuclei:
    """Two sets of nuclei as one, in this order."""
    pairs = ((getattr(first, name), getattr(second, name)) for name in ("xy", "axes", "angle", "amount"))
    return Nuclei(*(np.concatenate(pair) for pair in pairs))


def draw(canvas: Canvas, nuclei: Nuclei, rng: np.random.Generator, *, coarse: bool = False) -> Floats:
    """Haematoxylin of nuclei, [H, W]: a dark membrane, a paler body, grains of chromatin, and nucleoli if `coarse`.

    Nuclei are drawn in turn on layers that add up, so that neighbours are darker where they overlap.
    """
    layers = np.zeros((3, *canvas.shape), np.uint8)
    fixed = np.round(np.concatenate([nuclei.xy, nuclei.axes], axis=1) * 16).astype(int).tolist()  # 1/16 px
    levels = np.round(nuclei.amount * 100).astype(int).tolist()  # in 8 bits OpenCV smooths the borders
    nucleoli = rng.uniform(-0.4, 0.4, (len(levels), 2)).tolist()
    rim = round(0.8 / canvas.mpp * 16)  # membrane and chromatin on it
    body = 0.72 if coarse else 0.85
    for i, ((x, y, a, b), angle, level) in enumerate(zip(fixed, nuclei.angle.tolist(), levels, strict=True)):
        layer = layers[i % 3]
        cv2.ellipse(layer, (x, y), (a, b), angle, 0, 360, level, -1, cv2.LINE_AA, 4)
        if b > rim:
            cv2.ellipse(layer, (x, y), (a - rim, b - rim), angle, 0, 360, int(level * body), -1, cv2.LINE_AA, 4)
        if coarse:
            spot = (x + int(nucleoli[i][0] * b), y + int(nucleoli[i][1] * b))
            cv2.circle(layer, spot, round(1.2 / canvas.mpp * 16), int(level * 1.5), -1, cv2.LINE_AA, 4)
    drawn = np.minimum(layers.sum(axis=0, dtype=np.float32) / 100, OVERLAP)
    chromatin = 0.16 * smooth(rng, canvas, 1.3) + (0.16 * smooth(rng, canvas, 2.6) if coarse else 0)
    return np.asarray(drawn * np.clip(1 + chromatin, 0.3, 1.8), np.float32)


def streaks(canvas: Canvas, flow: Floats, rng: np.random.Generator) -> Floats:
    """Streaks along the flow, [H, W] of variance 1: noise averaged along lines (line integral convolution)."""
    half = (canvas.shape[1] // 2 + 1, canvas.shape[0] // 2 + 1)  # half size takes a quarter of the time
    small = cv2.resize(flow, half, interpolation=cv2.INTER_AREA)
    bundles = cv2.GaussianBlur(rng.standard_normal(small.shape, np.float32), (0, 0), 1.2 / canvas.mpp)
    lines = rng.standard_normal(small.shape, np.float32) + 3 * bundles
    dx, dy = np.cos(small), np.sin(small)
    y, x = np.indices(small.shape, np.float32)
    n_rounds = max(1, round(np.log2(32.0 / (2 * canvas.mpp))))  # each round doubles the length, up to about 32 um
    for step in 2.0 ** np.arange(n_rounds, dtype=np.float32):
        ahead = cv2.remap(lines, x + step * dx, y + step * dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        lines = (lines + ahead) / 2
    return enlarged(lines / lines.std(), canvas.shape)
