"""The mosaics that `bench stains` trains and judges on, their colours normalised slide by slide as a bundle would."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from uadray.bench.detector_data import CALLED, SPEC, CutSlide, cut_slide
from uadray.evaluation.outlines import outline_uri, read_outlines, tile_truth
from uadray.slides.identity import slide_etag
from uadray.slides.manifest import SlideRow, read_manifest
from uadray.slides.opening import open_slide
from uadray.tiles.images import Pixels
from uadray.tiles.plan import plan_slide
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import Stain, StainConfig
from uadray.tiles.stain_fit import median_stain

TRAINED = "normal_train"
"""The folder of mosaics that is trained on, and that the reference of the stains is fitted to."""

Normalisation = Literal["none", "macenko", "vahadane"]
METHODS: tuple[Normalisation, ...] = ("none", "macenko", "vahadane")


@dataclass(frozen=True)
class Judged:
    """A slide that is scored.

    Attributes:
        cut: its tiles.
        truth: [n good], 1 for a tile at least half inside an outline, 0 for normal, -1 for what is left out.
    """

    cut: CutSlide
    truth: np.ndarray


@dataclass(frozen=True)
class Coloured:
    """All slides with their colours brought to one reference by one method.

    Attributes:
        normals: tiles that are trained on, RGB [n, 96, 96, 3].
        slides: by folder.
        seconds_a_slide: that opening, fitting, reading and mapping took.
    """

    normals: Pixels
    slides: dict[str, list[Judged]]
    seconds_a_slide: float


def coloured(folder: Path, method: Normalisation, *, most: int | None = None) -> Coloured:
    """Every slide of the folder of mosaics cut and normalised.

    Args:
        folder: of all mosaics.
        method: "none" leaves colours as they are.
        most: slides of each folder and label; None takes all.

    Raises:
        SlideError: a slide cannot be read, or its stains cannot be told.
    """
    began, rows = time.perf_counter(), {name: rows_of(folder / name, most) for name in (TRAINED, *CALLED)}
    spec = SPEC
    if method != "none":
        spec = SPEC.model_copy(update={"stain": StainConfig(method=method)})
        reference = median_stain([stain_of(row, spec) for row in rows[TRAINED]])
        spec = SPEC.model_copy(update={"stain": StainConfig(method=method, reference=reference)})
    normals = np.concatenate([cut_slide(row, spec).pixels for row in rows[TRAINED]])
    slides = {name: [judged(cut_slide(row, spec)) for row in rows[name]] for name in CALLED}
    return Coloured(normals, slides, (time.perf_counter() - began) / sum(map(len, rows.values())))


def rows_of(folder: Path, most: int | None) -> list[SlideRow]:
    """The slides of a folder, of each label at most so many."""
    rows = read_manifest(str(folder / "manifest.csv"))
    labels = dict.fromkeys(row.label for row in rows)
    return [row for label in labels for row in [each for each in rows if each.label == label][:most]]


def stain_of(row: SlideRow, spec: TileSpec) -> Stain:
    """The stains of a slide, as they are fitted to its overview.

    Raises:
        SlideError: they cannot be told.
    """
    etag = slide_etag(row)
    with open_slide(row.uri, slide_id=row.slide_id, mpp=row.mpp, etag=etag) as slide:
        stain = plan_slide(slide, etag=etag, spec=spec).stain
    if stain is None:
        raise ValueError(f"slide {row.slide_id} has no tile that is good")
    return stain


def judged(cut: CutSlide) -> Judged:
    """A slide with the truth about its tiles; without outlines all of them are normal."""
    tiles = cut.table.filter(cut.good)
    outline = read_outlines(outline_uri(cut.row.uri, cut.row.slide_id, None))
    return Judged(cut, np.zeros(len(tiles), np.int8) if outline is None else tile_truth(tiles, outline))
