"""A phantom: a schematic H&E section, painted as amounts of stain, with or without lesions.

A phantom is stroma, fat and sheets of small regular nuclei. In a lesion the nuclei differ in size, density and order,
and in nothing else: the stain of each lesion is adjusted until its local mean colour is that of the normal tissue it
replaces. A detector that finds these lesions has looked at shape; mean colour and saturation are hardly better than
chance.

Lengths are in micrometres, so that a phantom looks alike at any mpp. Sizes are those of histology textbooks, rounded;
amounts of stain were tuned by eye and have no other source. Nothing here is a model of a disease.

Maps of stain are float32 [2, H, W]: haematoxylin, then eosin.
"""

import numpy as np

from uadray.phantoms.brushes import (
    Bytes,
    Floats,
    Nuclei,
    at,
    block_means,
    draw,
    ellipses,
    enlarged,
    hexagons,
    joined,
    smooth,
    soft,
    streaks,
)
from uadray.phantoms.film import STAINS, develop, light
from uadray.phantoms.layout import Layout, PhantomSpec, Polygon, lay_out

STAIN_STRENGTH = ((1.0, 0.85), (0.92, 0.95))  # [haematoxylin, eosin] of each stain: one laboratory dyes more pink

# Amounts of (haematoxylin, eosin), chosen by eye. An amount of 1 absorbs a natural optical density of 1.
STROMA, CYTOPLASM = (0.14, 0.50), (0.11, 0.38)
NUCLEUS, ATYPICAL_NUCLEUS = 0.88, 0.62  # haematoxylin; that of atypical nuclei is relative to the ground around them
THICKNESS, DYEING = 0.12, 0.12  # relative spread over a section; real sections are as uneven

# Chosen such that neither mean colour nor contrast of tiles of 64 um tells lesions; a test measures it.
LESION_DYE = (0.8, 0.95)  # factor on the colour of cell sheets: between that of sheets, stroma and borders
LESION_GROUND = 1.0  # factor on the haematoxylin of CYTOPLASM between atypical nuclei; more of it is less contrast

NUCLEUS_UM, NUCLEUS_PITCH_UM = 6.8, 9.6  # the nucleus of a lymphocyte measures 6 to 8, the cell about 9
LESION_NUCLEUS_UM = 11.0  # 1.6 times that of a normal nucleus
LESION_COVER = 0.70  # area of nuclei over area of the lesion, overlaps counted twice; 0.46 in normal sheets
MATCH_BLOCK_UM = 20.0  # side of the blocks whose colour is matched: smaller than a tile and larger than a nucleus


def paint(spec: PhantomSpec) -> tuple[Bytes, list[Polygon]]:
    """Paint a phantom.

    Args:
        spec: size, resolution, stain, seed.

    Returns:
        RGB uint8 [H, W, 3], and the lesions' outlines, int32 [K, 2] each (x, y in level-0 pixels, not closed).
    """
    layout_rng, ground_rng, nuclei_rng, lesion_rng, film_rng = np.random.default_rng(spec.seed).spawn(5)
    layout = lay_out(spec, layout_rng)
    ground = _ground(spec, layout, ground_rng)
    nuclei = _normal_nuclei(spec, layout, nuclei_rng)
    stained = _with_nuclei(ground, layout.tissue * draw(spec, nuclei, nuclei_rng))
    if layout.outlines:
        stained = _with_lesions(spec, layout, ground, nuclei, stained, lesion_rng)
    return develop(spec, stained, film_rng), layout.outlines


def _ground(spec: PhantomSpec, layout: Layout, rng: np.random.Generator) -> Floats:
    """Stain of all but the nuclei: fibres of stroma, cytoplasm, walls of fat cells, uneven thickness and dyeing."""
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
    """The ground [2, H, W] with nuclei [H, W] laid over it; where there are nuclei there is less eosin."""
    return np.stack(
        [ground[0] * (1 - 0.5 * np.minimum(drawn, 1)) + drawn, ground[1] * (1 - 0.35 * np.minimum(drawn, 1))]
    )


def _normal_nuclei(spec: PhantomSpec, layout: Layout, rng: np.random.Generator) -> Nuclei:
    """Small round nuclei in orderly rows within the lobules, and a few slender ones along the fibres of the stroma."""
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
    sheet = sheet.chosen((at(layout.cellular, xy) > 0.5) & (at(layout.tissue, xy) > 0.9))
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
    return joined(sheet, stroma.chosen(alone))


def _lesion_nuclei(spec: PhantomSpec, layout: Layout, rng: np.random.Generator) -> Nuclei:
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
    return nuclei.chosen((at(layout.lesion, xy) > 0.5) & (at(layout.tissue, xy) > 0.9))


def _with_lesions(
    spec: PhantomSpec, layout: Layout, ground: Floats, nuclei: Nuclei, stained: Floats, rng: np.random.Generator
) -> Floats:
    """The stain [2, H, W] with what lies inside the outlines replaced, at the same local mean colour."""
    drawing_rng, grain_rng, rng = rng.spawn(3)
    atypical = _lesion_nuclei(spec, layout, rng)
    grain = smooth(grain_rng, spec, 4.0)
    cells = (
        np.stack([LESION_GROUND * CYTOPLASM[0] + 0.02 * grain, CYTOPLASM[1] + 0.03 * grain])
        * layout.tissue
        * _column(STAIN_STRENGTH[spec.stain])
    )
    inside = layout.lesion
    around = nuclei.chosen(at(inside, nuclei.xy) < 0.5)
    drawn = draw(spec, around, drawing_rng) + draw(spec, atypical, drawing_rng, coarse=True)
    drawn *= layout.tissue
    lesioned = _with_nuclei((ground * (1 - inside) + cells * inside).astype(np.float32), drawn)
    return lesioned * (1 + inside * (_gain_to_match(spec, lesioned, stained * _column(LESION_DYE)) - 1))


def _gain_to_match(spec: PhantomSpec, stained: Floats, wanted: Floats) -> Floats:
    """Factors [2, H, W] that give `stained` the local mean colour of `wanted` (both [2, H, W]).

    Light is no linear function of stain, so the factors are found in rounds: the mean light of both is compared block
    by block, and the difference turned into amounts of stain. After three rounds less than a grey level is left.
    """
    step = 2  # one pixel of four is enough for a mean
    small, target = stained[:, ::step, ::step], light(wanted[:, ::step, ::step], spec.stain)
    blocks = tuple(max(1, round(side * spec.mpp / MATCH_BLOCK_UM)) for side in spec.shape[::-1])
    unmix = np.linalg.pinv(STAINS[spec.stain])  # [3, 2]
    gain = np.ones((blocks[1], blocks[0], 2), np.float32)
    for _ in range(3):
        now = small * enlarged(gain, small.shape[1:]).transpose(2, 0, 1)
        brighter = np.log(block_means(light(now, spec.stain), blocks) / block_means(target, blocks))
        amount = block_means(now.transpose(1, 2, 0), blocks)
        correction = 1 + (brighter @ unmix) / np.maximum(amount, 0.02)
        gain = np.clip(gain * np.clip(correction, 0.6, 1.6), 0.3, 2.5).astype(np.float32)
    return enlarged(gain, spec.shape).transpose(2, 0, 1)


def _column(pair: tuple[float, float]) -> Floats:
    """Haematoxylin and eosin as [2, 1, 1], to multiply maps of stain with."""
    return np.array(pair, np.float32)[:, None, None]
