"""Phantom tissue: a schematic H&E section painted in optical density, with or without lesions.

A phantom is stroma, fat and sheets of small regular nuclei. In a lesion the nuclei differ in size, density and order,
and in nothing else: the stain of each lesion is adjusted until its local mean colour is that of the normal tissue it
replaces. A detector that finds these lesions has looked at shape; mean colour and saturation stay near chance.

Lengths are in micrometres, so a phantom looks alike at any mpp. Sizes are those of histology textbooks, rounded;
amounts of stain were tuned by eye and have no other source. Nothing here is a model of a disease.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from uadray.phantoms.brushes import (
    Bytes,
    Floats,
    Nuclei,
    at,
    block_means,
    draw,
    ellipses,
    enlarged,
    grown,
    hexagons,
    joined,
    smooth,
    soft,
    streaks,
)

Polygon = NDArray[np.int32]

STAINS: tuple[Floats, ...] = (
    # [haematoxylin, eosin] x [R, G, B], unit vectors. Ruifrok & Johnston 2001, the values of ImageJ's "H&E".
    np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]], np.float32),
    # Macenko et al. 2009, the reference of the published code (HERef).
    np.array([[0.563, 0.720, 0.406], [0.216, 0.801, 0.558]], np.float32),
)
STAIN_STRENGTH = ((1.0, 0.85), (0.92, 0.95))  # [haematoxylin, eosin] of each stain: one laboratory dyes more pink
GLASS_RGB = (244.0, 243.0, 245.0)  # scanners leave glass a little below white
NOISE_LEVELS = 1.6  # standard deviation of sensor noise, 8-bit levels
OPTICS_UM = 0.3  # blur of a 20x/0.75 objective: about lambda / (2 NA)

# Amounts of (haematoxylin, eosin), by eye; a stain of amount 1 absorbs a natural optical density of 1.
STROMA, CYTOPLASM = (0.14, 0.50), (0.11, 0.38)
NUCLEUS, ATYPICAL_NUCLEUS = 0.88, 0.62  # haematoxylin; the atypical one's matters only against the ground around it
THICKNESS, DYEING = 0.12, 0.12  # relative spread over a section; real ones are as uneven
# Set so that neither mean colour nor contrast of 64-um tiles tells lesions; tests/slides/test_synthetic.py measures it.
LESION_DYE = (0.8, 0.95)  # colour aimed at, times that of cell sheets: amid sheets, stroma and borders
LESION_GROUND = 1.0  # haematoxylin between atypical nuclei, times CYTOPLASM: more of it is less contrast

CELLULAR_SHARE, FAT_SHARE = 0.70, 0.05  # of the tissue's area; the rest is stroma
CAPSULE_UM = 12.0  # stroma that lines the outer border of the tissue
FAT_CELL_UM = 52.0  # adipocytes measure 50-100
NUCLEUS_UM, NUCLEUS_PITCH_UM = 6.8, 9.6  # a lymphocyte's nucleus measures 6-8, the cell about 9
LESION_NUCLEUS_UM = 11.0  # 1.6 times the normal one
LESION_COVER = 0.70  # nuclear area over lesion area, overlaps counted twice; 0.46 in normal sheets, without overlaps
LESION_SHARE = (0.15, 0.25)  # a slide's lesions, of its tissue's area
LESION_RADIUS_UM = 95.0  # aimed at; a lesion then holds several 64-um tiles
MATCH_BLOCK_UM = 20.0  # colour is matched on blocks of this side, finer than a tile and coarser than a nucleus


@dataclass(frozen=True)
class PhantomSpec:
    """What to paint. The same numbers give the same pixels on the same machine; `lesion` keeps the shape of the tissue.

    Attributes:
        width_px: width at level 0.
        height_px: height at level 0.
        mpp: micrometres per pixel.
        lesion: whether the tissue holds 1 to 4 lesions.
        stain: index into `STAINS`.
        seed: of everything random.
    """

    width_px: int = 2048
    height_px: int = 2048
    mpp: float = 0.5
    lesion: bool = False
    stain: int = 0
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, as numpy wants them."""
        return self.height_px, self.width_px


@dataclass(frozen=True)
class _Layout:
    """Where each kind of tissue lies, 0 to 1, float32 [H, W]; the flow of fibres in radians; lesions as polygons."""

    tissue: Floats
    cellular: Floats
    vacuoles: Floats
    flow: Floats
    lesion: Floats
    outlines: list[Polygon]


def paint(spec: PhantomSpec) -> tuple[Bytes, list[Polygon]]:
    """Paint one phantom.

    Args:
        spec: size, resolution, stain, seed.

    Returns:
        RGB uint8 [H, W, 3], and the lesions' outlines, int32 [K, 2] each (x, y in level-0 pixels, not closed).
    """
    layout_rng, ground_rng, nuclei_rng, lesion_rng, film_rng = np.random.default_rng(spec.seed).spawn(5)
    layout = _layout(spec, layout_rng)
    ground = _ground(spec, layout, ground_rng)
    nuclei = _normal_nuclei(spec, layout, nuclei_rng)
    stained = _with_nuclei(ground, layout.tissue * draw(spec, nuclei, nuclei_rng))
    if layout.outlines:
        stained = _with_lesions(spec, layout, ground, nuclei, stained, lesion_rng)
    return _develop(spec, stained, film_rng), layout.outlines


# --- layout ---------------------------------------------------------------------------------------------------------


def _layout(spec: PhantomSpec, rng: np.random.Generator) -> _Layout:
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
    # Lobules of cells with septa between them; the border is capsule.
    lobules = smooth(rng, spec, 260.0) + 0.5 * smooth(rng, spec, 90.0) + 0.12 * smooth(rng, spec, 25.0) + 2.5 * crust
    cellular = lobules > np.quantile(lobules[::8, ::8][inside], 1 - CELLULAR_SHARE)
    cellular &= cv2.blur(vacuoles, (9, 9)) < 0.01
    return _Layout(
        tissue=soft(tissue, 0.8 / spec.mpp),
        cellular=soft(cellular | (lesion > 0), 3.0 / spec.mpp),  # so that a lesion takes the colour of cells
        vacuoles=vacuoles,
        flow=smooth(rng, spec, 240.0) * np.float32(0.7) + np.float32(rng.uniform(0, np.pi)),
        lesion=soft(lesion, 3.0 / spec.mpp),
        outlines=outlines,
    )


def _tissue_mask(spec: PhantomSpec, rng: np.random.Generator) -> Bytes:
    """One or two ragged pieces, uint8 0/1 [H, W], without holes."""
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
    """One to four blobs within the tissue, int32 [K, 2] each."""
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
    found, _ = cv2.findContours(blobs, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    found = [c for c in found if cv2.contourArea(c) > 0.1 * np.pi * radius_px**2]  # no crumbs at the tissue's border
    return [cv2.approxPolyDP(c, 1.0, True)[:, 0].astype(np.int32) for c in found]


def _vacuoles(spec: PhantomSpec, adipose: Floats, rng: np.random.Generator) -> Floats:
    """Empty fat cells where `adipose` [H, W] is positive: Voronoi cells with rounded corners, 1 inside, [H, W]."""
    small = PhantomSpec(spec.width_px // 2 + 1, spec.height_px // 2 + 1, spec.mpp * 2)  # a quarter of the time
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
    # Shrunk by 8 um and grown by 7.6: round corners, walls of 1 to 2 um.
    core = (cv2.distanceTransform(room, cv2.DIST_L2, 5) * small.mpp > 8.0).astype(np.uint8)
    if not core.any():
        return np.zeros(spec.shape, np.float32)
    vacuole = (cv2.distanceTransform(1 - core, cv2.DIST_L2, 5) * small.mpp < 7.6).astype(np.float32)
    return enlarged(cv2.GaussianBlur(vacuole, (0, 0), 0.7), spec.shape)


# --- tissue, as amounts of stain: float32 [2, H, W], haematoxylin then eosin ----------------------------------------


def _ground(spec: PhantomSpec, layout: _Layout, rng: np.random.Generator) -> Floats:
    """All but the nuclei: fibres of stroma, cytoplasm, walls of fat cells, uneven thickness and dyeing."""
    fibres = streaks(spec, layout.flow, rng)
    stroma = np.stack([STROMA[0] * (1 + 0.33 * fibres), STROMA[1] * (1 + 0.33 * fibres)])
    grain = smooth(rng, spec, 4.0)
    cells = np.stack([CYTOPLASM[0] + 0.02 * grain, CYTOPLASM[1] + 0.03 * grain])
    ground = np.clip(stroma, 0.02, None) * (1 - layout.cellular) + cells * layout.cellular
    ground[1] *= np.clip(1 + DYEING * smooth(rng, spec, 180.0), 0.6, 1.5)
    thickness = np.clip(1 + THICKNESS * smooth(rng, spec, 200.0), 0.7, 1.3)  # sections are never even
    body = layout.tissue * thickness * (1 - layout.vacuoles)
    return np.asarray(ground * body * _column(STAIN_STRENGTH[spec.stain]), np.float32)


def _with_nuclei(ground: Floats, drawn: Floats) -> Floats:
    """Lay nuclei, [H, W], over the ground, [2, H, W]; they leave little room for eosin."""
    return np.stack(
        [ground[0] * (1 - 0.5 * np.minimum(drawn, 1)) + drawn, ground[1] * (1 - 0.35 * np.minimum(drawn, 1))]
    )


def _normal_nuclei(spec: PhantomSpec, layout: _Layout, rng: np.random.Generator) -> Nuclei:
    """Small round nuclei in orderly rows within the lobules; few slender ones along the fibres of the stroma."""
    pitch = NUCLEUS_PITCH_UM / spec.mpp
    xy = hexagons(spec, pitch)
    bend = np.stack([smooth(rng, spec, 260.0), smooth(rng, spec, 260.0)], axis=-1) * np.float32(9.0 / spec.mpp)
    xy = xy + at(bend, xy) + rng.normal(0, 0.10 * pitch, xy.shape).astype(np.float32)
    sheet = ellipses(
        xy,
        diameter=NUCLEUS_UM / spec.mpp * rng.normal(1, 0.06, len(xy)).clip(0.8, 1.2),
        longer=rng.uniform(1.02, 1.22, len(xy)),
        angle_rad=at(layout.flow, xy) + rng.normal(0, 0.2, len(xy)),
        amount=STAIN_STRENGTH[spec.stain][0] * rng.normal(NUCLEUS, 0.06, len(xy)).clip(0.4, 1.0),
    )
    sheet = sheet.where((at(layout.cellular, xy) > 0.5) & (at(layout.tissue, xy) > 0.9))
    xy = hexagons(spec, 22.0 / spec.mpp)  # fibroblasts, about 20 um apart
    xy = xy + rng.normal(0, 6.0 / spec.mpp, xy.shape).astype(np.float32)
    stroma = ellipses(
        xy,
        diameter=rng.uniform(4.4, 5.6, len(xy)) / spec.mpp,
        longer=rng.uniform(3.0, 6.0, len(xy)),
        angle_rad=at(layout.flow, xy) + rng.normal(0, 0.15, len(xy)),
        amount=STAIN_STRENGTH[spec.stain][0] * rng.normal(0.80, 0.08, len(xy)).clip(0.5, 1.1),
    )
    alone = (at(layout.cellular, xy) < 0.1) & (at(layout.vacuoles, xy) < 0.05) & (at(layout.tissue, xy) > 0.9)
    return joined(sheet, stroma.where(alone))


def _lesion_nuclei(spec: PhantomSpec, layout: _Layout, rng: np.random.Generator) -> Nuclei:
    """Large, uneven, crowded nuclei in clusters (a Thomas process), pointing anywhere, inside the outlines."""
    cluster = 26.0 / spec.mpp
    parents = hexagons(spec, cluster)
    parents = parents + rng.normal(0, 0.5 * cluster, parents.shape).astype(np.float32)
    parents = parents[at(soft(layout.lesion, cluster), parents) > 0.02]
    cell_um2 = 0.866 * 26.0**2  # of the hexagon a parent stands for
    per_parent = LESION_COVER * cell_um2 / (np.pi / 4 * LESION_NUCLEUS_UM**2)
    xy = np.repeat(parents, rng.poisson(per_parent, len(parents)), axis=0)
    xy = xy + rng.normal(0, 8.0 / spec.mpp, xy.shape).astype(np.float32)
    nuclei = ellipses(
        xy,
        diameter=LESION_NUCLEUS_UM / spec.mpp * rng.lognormal(-0.03, 0.25, len(xy)).clip(0.55, 1.9),
        longer=rng.uniform(1.05, 1.9, len(xy)),
        angle_rad=rng.uniform(0, np.pi, len(xy)),
        amount=STAIN_STRENGTH[spec.stain][0] * rng.normal(ATYPICAL_NUCLEUS, 0.08, len(xy)).clip(0.35, 0.9),
    )
    return nuclei.where((at(layout.lesion, xy) > 0.5) & (at(layout.tissue, xy) > 0.9))


def _with_lesions(
    spec: PhantomSpec, layout: _Layout, ground: Floats, nuclei: Nuclei, stained: Floats, rng: np.random.Generator
) -> Floats:
    """Replace what lies inside the outlines, at the local mean colour it had. Amounts of stain [2, H, W]."""
    drawing_rng, grain_rng, rng = rng.spawn(3)
    atypical = _lesion_nuclei(spec, layout, rng)
    grain = smooth(grain_rng, spec, 4.0)
    cells = (
        np.stack([LESION_GROUND * CYTOPLASM[0] + 0.02 * grain, CYTOPLASM[1] + 0.03 * grain])
        * layout.tissue
        * _column(STAIN_STRENGTH[spec.stain])
    )
    inside = layout.lesion
    around = nuclei.where(at(inside, nuclei.xy) < 0.5)
    drawn = draw(spec, around, drawing_rng) + draw(spec, atypical, drawing_rng, coarse=True)
    drawn *= layout.tissue
    lesioned = _with_nuclei((ground * (1 - inside) + cells * inside).astype(np.float32), drawn)
    return lesioned * (1 + inside * (_gain_to_match(spec, lesioned, stained * _column(LESION_DYE)) - 1))


def _gain_to_match(spec: PhantomSpec, stained: Floats, wanted: Floats) -> Floats:
    """Factors [2, H, W] for `stained` that give the local mean colour of `wanted` (both [2, H, W]).

    Beer-Lambert is not linear in the mean, so: compare mean light block by block, turn the difference into amounts
    of stain, correct, repeat. Three rounds leave less than a grey level.
    """
    every = 2  # one pixel of four is enough for a mean
    small, target = stained[:, ::every, ::every], _light(wanted[:, ::every, ::every], spec.stain)
    blocks = tuple(max(1, round(side * spec.mpp / MATCH_BLOCK_UM)) for side in spec.shape[::-1])
    unmix = np.linalg.pinv(STAINS[spec.stain])  # [3, 2]
    gain = np.ones((blocks[1], blocks[0], 2), np.float32)
    for _ in range(3):
        now = small * enlarged(gain, small.shape[1:]).transpose(2, 0, 1)
        brighter = np.log(block_means(_light(now, spec.stain), blocks) / block_means(target, blocks))
        amount = block_means(now.transpose(1, 2, 0), blocks)
        step = 1 + (brighter @ unmix) / np.maximum(amount, 0.02)
        gain = np.clip(gain * np.clip(step, 0.6, 1.6), 0.3, 2.5).astype(np.float32)
    return enlarged(gain, spec.shape).transpose(2, 0, 1)


# --- film -------------------------------------------------------------------------------------------------------------


def _column(pair: tuple[float, float]) -> Floats:
    """Haematoxylin and eosin against maps of stain: [2, 1, 1]."""
    return np.array(pair, np.float32)[:, None, None]


def _light(stained: Floats, stain: int) -> Floats:
    """Beer-Lambert: amounts of stain [2, H, W] to transmitted light [H, W, 3], 0 to 1."""
    density = stained.transpose(1, 2, 0) @ STAINS[stain]
    return np.asarray(cv2.exp(-density), np.float32)


def _develop(spec: PhantomSpec, stained: Floats, rng: np.random.Generator) -> Bytes:
    """Shine light through the slide: glass, optics, sensor noise. RGB uint8 [H, W, 3]."""
    rgb = _light(stained, spec.stain) * np.array(GLASS_RGB, np.float32)
    rgb *= (1 + 0.004 * smooth(rng, spec, 400.0))[..., None]
    rgb = cv2.GaussianBlur(rgb, (0, 0), max(0.3, OPTICS_UM / spec.mpp))
    noise = rng.standard_normal(spec.shape, np.float32) * np.float32(NOISE_LEVELS)
    developed: Bytes = np.clip(rgb + noise[..., None] + 0.5, 0, 255).astype(np.uint8)
    return developed
