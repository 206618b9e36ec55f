"""One part of a slide: its tiles as every detector needs them, and one detector's scores of them."""

import json
import math
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from uadray.detectors.detector import Scored
from uadray.detectors.gallery import Gallery
from uadray.detectors.pixels import Pixels
from uadray.reports.pictures import encode_jpeg
from uadray.schemas import TILE_SCORES
from uadray.screening.evidence_places import best_of_regions, regions
from uadray.screening.parts import flag_error, from_ipc
from uadray.screening.slide_result import EVIDENCE
from uadray.stage_seconds import timed
from uadray.tiles.cells import with_cells
from uadray.tiles.trivial_scores import trivial_scores

ScoreTiles = Callable[[npt.NDArray[np.uint8]], Scored]
"""What is needed of a detector: RGB tiles [N, tile, tile, 3] -> `Scored`."""


@dataclass(frozen=True)
class PartTiles:
    """The tiles of one part, as every detector needs them: what does not depend on the detector is done once.

    Attributes:
        slide: index of the slide.
        number: of the part.
        tiles: rows of `TILES`.
        errors: why a tile is not scored, or None.
        flags: what a tile shows of bad quality, or None.
        good: [N] bool, the tiles without an error.
        images: RGB of the good tiles, [n, tile, tile, 3].
        trivial: gives the `trivial_scores` of all tiles, which are made beside the detector's.
    """

    slide: int
    number: int
    tiles: pa.Table
    errors: list[str | None]
    flags: list[str | None]
    good: npt.NDArray[np.bool_]
    images: Pixels
    trivial: Future[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]


def read_part(row: dict[str, Any], pixels: pa.Buffer, *, pool: Executor) -> PartTiles:
    """The tiles of a row of the reader; `pool` makes their trivial scores, while a GPU or other threads score them."""
    tiles, flags = from_ipc(row["tiles"]), json.loads(row["flags"])
    pairs = zip(json.loads(row["errors"]), flags, strict=True)
    errors = [error or (flag and flag_error(flag)) for error, flag in pairs]
    good = np.array([error is None for error in errors], dtype=bool)
    n = len(tiles)
    side = int(np.sqrt(pixels.size / (3 * n))) if n else 0
    images = np.frombuffer(pixels, np.uint8).reshape(n, side, side, 3)
    return PartTiles(
        row["slide"], row["part"], tiles, errors, flags, good, images if good.all() else images[good],
        pool.submit(trivial_scores, images),
    )  # fmt: skip


def score_part(
    detector: ScoreTiles, part: PartTiles, *, floor: float = -math.inf, gallery: Gallery | None = None
) -> tuple[pa.Table, pa.Table]:
    """Score one part; returns rows of `TILE_SCORES` and of `EVIDENCE`. A tile with an error or a flag has no score.

    A detector with cells adds the column `CELLS`.

    Evidence is of tiles that score more than `floor`: pictures cost as much as a third of the decoding. With a gallery
    it has the normal tiles that look most like each.
    """
    scored = detector(part.images) if len(part.images) else None
    score = np.full(len(part.tiles), np.nan)
    if scored is not None:
        score[part.good] = scored.score
    finite = np.isfinite(score)
    errors = [
        error or (None if is_finite else "the score is not finite")
        for error, is_finite in zip(part.errors, finite, strict=True)
    ]
    saturation, green = part.trivial.result()
    columns = {
        "score": pa.array(score, mask=~finite),
        "mean_saturation": pa.array(saturation, pa.float32(), mask=~part.good),
        "mean_green": pa.array(green, pa.float32(), mask=~part.good),
        "flag": pa.array(part.flags, pa.string()),
        "error": pa.array(errors, pa.string()),
    }
    names = part.tiles.column_names
    table = pa.table({**{name: part.tiles[name] for name in names}, **columns}, schema=TILE_SCORES)
    if scored is not None and scored.cells is not None:
        cells = np.full((len(score), *scored.cells.shape[1:]), np.nan, np.float32)
        cells[part.good] = scored.cells
        cells[~finite] = np.nan
        table = with_cells(table, cells)
    return table, _evidence(table.filter(pa.array(part.good)), scored, floor, gallery)


def _evidence(tiles: pa.Table, scored: Scored | None, floor: float, gallery: Gallery | None) -> pa.Table:
    """The tiles that may be shown (see `evidence_places`) as pictures, best first."""
    if scored is None:
        return EVIDENCE.empty_table()
    places = (tiles[f"{name}_level0_px"].to_numpy() for name in ("x", "y", "width"))
    order = [row for row in best_of_regions(scored.score, regions(*places)) if scored.score[row] > floor]
    if not order:
        return EVIDENCE.empty_table()
    with timed("pictures", whole=True):
        x, x_hat = scored.pictures(order)
        seen = [encode_jpeg(picture) for picture in x]
        reconstructions = [None] * len(order) if x_hat is None else [encode_jpeg(picture) for picture in x_hat]
    return pa.table(
        {
            "tile_id": tiles["tile_id"].take(pa.array(order, pa.int64())),
            "score": [float(scored.score[i]) for i in order],
            "tile": seen,
            "reconstruction": reconstructions,
            "normals": [None] * len(order) if gallery is None else gallery.nearest(x),
        },
        schema=EVIDENCE,
    )
