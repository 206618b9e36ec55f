"""What lies where on a phantom: pieces of tissue, lesions, fat, and lobules of cells with stroma between them.

Lengths are in micrometres, so that a phantom looks alike at any mpp. Sizes are those of histology textbooks, rounded.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from uadray.phantoms.brushes import Bytes, Floats, at, enlarged, grown, hexagons, smooth, soft

Polygon = NDArray[np.int32]
"""[K, 2], x and y in level-0 pixels; not closed."""

CELLULAR_SHARE, FAT_SHARE = 0.70, 0.05  # of the tissue's area; the rest is stroma
CAPSULE_UM = 12.0  # stroma that lines the outer border of the tissue
FAT_CELL_UM = 52.0  # fat cells measure 50 to 100
LESION_SHARE = (0.15, 0.25)  # area of a slide's lesions, as a share of its tissue
LESION_RADIUS_UM = 95.0  # about this; a lesion then holds several tiles of 64 um


@dataclass(frozen=True)
class PhantomSpec:
    """What to paint. The same values give the same pixels on the same machine.

    Attributes:
        width_px: width at level 0.
        height_px: height at level 0.
        mpp: micrometres per pixel.
        lesion: whether the tissue holds 1 to 4 lesions; the shape of the tissue does not depend on it.
        stain: index into `film.STAINS`.
        seed: of all random numbers.
    """

    width_px: int = 2048
    height_px: int = 2048
    mpp: float = 0.5
    lesion: bool = False
    stain: int = 0
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, in the order of numpy."""
        return self.height_px, self.width_px


@dataclass(frozen=True)
class Layout:
    """Where each kind of tissue lies. All maps are float32 [H, W].

    Attributes:
        tissue: 0 to 1.
        cellular: lobules of cells, 0 to 1.
        vacuoles: empty fat cells, 0 to 1.
        flow: direction of fibres, in radians.
        lesion: 0 to 1.
        outlines: of the lesions.
    """

    tissue: Floats
    cellular: Floats
    vacuoles: Floats
    flow: Floats
    lesion: Floats
    outlines: list[Polygon]


def lay_out(spec: PhantomSpec, rng: np.random.Generator) -> Layout:
    """Decide what lies where: pieces of tissue, lesions, fat, lobules of cells with stroma between them."""
    outer_rng, lesion_rng, rng = rng.spawn(3)
    tissue = _tissue_mask(spec, outer_rng)
    outlines = _lesion_outlines(spec, tissue, lesion_rng) if spec.lesion else []
    lesion = cv2.fillPoly(np.zeros(spec.shape, np.uint8), outlines, 1) if outlines else np.zeros(spec.shape, np.uint8)
    crust = 1 - np.exp(-cv2.distanceTransform(tissue, cv2.DIST_L2, 3) * spec.mpp / CAPSULE_UM)
    inside = tissue.astype(bool)[::8, ::8]
    adipose = smooth(rng, spec, 300.0) + 0.25 * smooth(rng, spec, 60.0) + 3 * crust
    adipose -= np.quantile(adipose[::8, ::8][inside], 1 - FAT_SHARE)
    vacuoles = _vacuoles(spec, np.where(grown(lesion, 40.0 / spec.mpp), -1, adipose), rng)
    # Lobules of cells with septa of stroma between them; stroma also lines the border of the tissue.
    lobules = smooth(rng, spec, 260.0) + 0.5 * smooth(rng, spec, 90.0) + 0.12 * smooth(rng, spec, 25.0) + 2.5 * crust
    cellular = lobules > np.quantile(lobules[::8, ::8][inside], 1 - CELLULAR_SHARE)
    cellular &= cv2.blur(vacuoles, (9, 9)) < 0.01
    return Layout(
        tissue=soft(tissue, 0.8 / spec.mpp),
        cellular=soft(cellular | (lesion > 0), 3.0 / spec.mpp),  # lesions too, so that they have the colour of cells
        vacuoles=vacuoles,
        flow=smooth(rng, spec, 240.0) * np.float32(0.7) + np.float32(rng.uniform(0, np.pi)),
        lesion=soft(lesion, 3.0 / spec.mpp),
        outlines=outlines,
    )


def _tissue_mask(spec: PhantomSpec, rng: np.random.Generator) -> Bytes:
    """One or two ragged pieces of tissue without holes: 0 and 1, [H, W]."""
    y = np.linspace(-1, 1, spec.height_px, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, spec.width_px, dtype=np.float32)[None]
    n_pieces = int(rng.integers(1, 3))
    side_um = min(spec.shape) * spec.mpp
    ragged = 0.22 * smooth(rng, spec, side_um / 3) + 0.09 * smooth(rng, spec, side_um / 10)
    ragged += 0.02 * smooth(rng, spec, 30.0)
    mask = np.zeros(spec.shape, np.uint8)
    for piece in range(n_pieces):
        cx, half_width = (0.0, 0.80) if n_pieces == 1 else (piece - 0.5, 0.42)
        cx, cy = cx + rng.uniform(-0.04, 0.04), rng.uniform(-0.08, 0.08)
        bulge = 1 - ((x - cx) / half_width) ** 2 - ((y - cy) / rng.uniform(0.72, 0.85)) ** 2
        edge = np.minimum(0.9 - np.abs(x), 0.9 - np.abs(y))  # keeps glass along the slide's border, whatever the noise
        outlines, _ = cv2.findContours(
            (bulge + ragged + np.minimum(0, 8 * edge) > 0.1).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        if outlines:
            cv2.drawContours(mask, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return mask


def _lesion_outlines(spec: PhantomSpec, tissue: Bytes, rng: np.random.Generator) -> list[Polygon]:
    """The outlines of one to four blobs within the tissue."""
    area_px = float(tissue.sum()) * rng.uniform(*LESION_SHARE)
    n_blobs = int(np.clip(round(area_px * spec.mpp**2 / (np.pi * LESION_RADIUS_UM**2)), 1, 4))
    radius_px = float(np.sqrt(area_px / n_blobs / np.pi))
    ys, xs = np.nonzero(cv2.distanceTransform(tissue, cv2.DIST_L2, 3) > 0.15 * radius_px)
    blobs = np.zeros(spec.shape, np.uint8)
    for _ in range(n_blobs):
        at = int(rng.integers(len(xs)))
        theta = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        wave = sum(rng.normal(0, 0.22 / k) * np.cos(k * theta + rng.uniform(0, 2 * np.pi)) for k in range(2, 9))
        reach = radius_px * np.clip(1 + wave, 0.5, 1.6)
        blob = np.stack([xs[at] + reach * np.cos(theta), ys[at] + reach * np.sin(theta)], axis=1)
        cv2.fillPoly(blobs, [blob.astype(np.int32)], 1)
    blobs &= cv2.erode(tissue, np.ones((5, 5), np.uint8))
    outlines, _ = cv2.findContours(blobs, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    large = [c for c in outlines if cv2.contourArea(c) > 0.1 * np.pi * radius_px**2]  # without cut-off corners
    return [cv2.approxPolyDP(c, 1.0, True)[:, 0].astype(np.int32) for c in large]


def _vacuoles(spec: PhantomSpec, adipose: Floats, rng: np.random.Generator) -> Floats:
    """Empty fat cells where `adipose` [H, W] is positive: Voronoi cells with rounded corners; [H, W], 1 inside."""
    # half size takes a quarter of the time
    small = PhantomSpec(spec.width_px // 2 + 1, spec.height_px // 2 + 1, spec.mpp * 2)
    pitch = FAT_CELL_UM / small.mpp
    xy = hexagons(small, pitch)
    xy = (xy + rng.normal(0, 0.16 * pitch, xy.shape)).astype(np.int32)
    xy = np.unique(xy[((xy >= 0) & (xy < (small.width_px, small.height_px))).all(axis=1)], axis=0)
    seeds = np.ones(small.shape, np.uint8)
    seeds[xy[:, 1], xy[:, 0]] = 0
    _, cell = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    chosen = np.zeros(len(xy) + 1, np.bool_)
    chosen[cell[xy[:, 1], xy[:, 0]]] = at(adipose, xy.astype(np.float32) * 2) > 0
    room = chosen[cell].astype(np.uint8)
    room[1:, 1:] &= (cell[1:, 1:] == cell[:-1, 1:]) & (cell[1:, 1:] == cell[1:, :-1])
    # Cells are shrunk by 8 um and grown by 7.6 um, which rounds corners and leaves walls of 1 to 2 um.
    core = (cv2.distanceTransform(room, cv2.DIST_L2, 5) * small.mpp > 8.0).astype(np.uint8)
    if not core.any():
        return np.zeros(spec.shape, np.float32)
    vacuole = (cv2.distanceTransform(1 - core, cv2.DIST_L2, 5) * small.mpp < 7.6).astype(np.float32)
    return enlarged(cv2.GaussianBlur(vacuole, (0, 0), 0.7), spec.shape)
