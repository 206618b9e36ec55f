"""Which tiles are shown of a slide: the most abnormal ones of different places, not five neighbours of one.

A slide is divided into regions of `REGION_TILES` x `REGION_TILES` tiles on a grid that is fixed in level-0 pixels. Of
each region the most abnormal tile is a candidate, whichever part of the slide comes first; of the candidates, best
first, those are shown that lie `APART_TILES` from all that are shown already. Where fewer than `LEAST_TILES` are left,
as in a slide with little tissue, tiles that lie closer together make up the number.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

REGION_TILES = 4
"""Side of a region, in tiles: of those of 96 px at 0.97 um/px it is 0.37 mm, somewhat more than a micrometastasis."""

APART_TILES = 3.0
"""Distance of two tiles that are shown, in sides of a tile."""

LEAST_TILES = 3
"""So many are shown of every slide that has them."""

EVIDENCE_TILES = 5
"""So many are shown at most."""

CANDIDATES = 10
"""Regions whose best tile may be shown: where four of them meet in one lesion, three of the four are left out."""

LOOKED_AT = 24
"""Of each part so many tiles with the highest scores are looked at, since pictures of tiles have to be asked for before
their places are known where stages score them."""

Places = npt.NDArray[np.int64]


def regions(x: Places, y: Places, side: Places) -> list[tuple[int, int]]:
    """The region of each tile: row and column.

    Args:
        x: left edge of each tile [n], level-0 pixels.
        y: its upper edge.
        side: its width, level-0 pixels; the widest counts for all.
    """
    region_px = max(1, REGION_TILES * int(side.max())) if len(side) else 1
    return list(zip((y // region_px).tolist(), (x // region_px).tolist(), strict=True))


def best_of_regions(score: npt.NDArray[np.float64], of_regions: list[tuple[int, int]]) -> list[int]:
    """The rows of the most abnormal tile of each region among the `LOOKED_AT` highest scores, best first.

    Args:
        score: [n]; what is not finite does not count.
        of_regions: [n], see `regions`.
    """
    highest = np.argsort(-score, kind="stable")[:LOOKED_AT]
    chosen: dict[tuple[int, int], int] = {}
    for row in highest.tolist():
        if np.isfinite(score[row]):
            chosen.setdefault(of_regions[row], row)
    return list(chosen.values())[:CANDIDATES]


def region_scores(evidence: pa.Table, tiles: pa.Table) -> dict[tuple[int, int], float]:
    """The highest score of each region among rows of `EVIDENCE`, whose places `TILE_SCORES` tell."""
    best: dict[tuple[int, int], float] = {}
    if len(evidence):
        for region, score in zip(regions(*_places(evidence, tiles)), evidence["score"].to_pylist(), strict=True):
            best[region] = max(score, best.get(region, score))
    return best


def _places(evidence: pa.Table, tiles: pa.Table) -> tuple[Places, Places, Places]:
    """Left edge, upper edge and width of evidence tiles, level-0 pixels."""
    placed = tiles.take(pc.index_in(evidence["tile_id"], value_set=tiles["tile_id"].combine_chunks()))
    x, y, side = (placed[f"{name}_level0_px"].to_numpy().astype(np.int64) for name in ("x", "y", "width"))
    return x, y, side


def apart(candidates: pa.Table, tiles: pa.Table) -> pa.Table:
    """The rows of `EVIDENCE` that are shown, best first.

    Args:
        candidates: rows of `EVIDENCE` of all parts, in any order.
        tiles: rows of `TILE_SCORES` of the slide, which say where they lie.
    """
    if not len(candidates):
        return candidates
    candidates = candidates.sort_by([("score", "descending"), ("tile_id", "ascending")])
    x, y, side = _places(candidates, tiles)
    of_regions = regions(x, y, side)
    firsts = list({region: row for row, region in reversed(list(enumerate(of_regions)))}.values())
    ordered = sorted(firsts)[:CANDIDATES]
    return candidates.take(pa.array(sorted(_spread(x, y, ordered, float(side.max()))), pa.int64()))


def _spread(x: Places, y: Places, ordered: list[int], side: float) -> list[int]:
    """The rows that are shown, of those in `ordered`, best first."""
    shown: list[int] = []
    for distance in (APART_TILES, 0.0):
        wanted = EVIDENCE_TILES if distance else LEAST_TILES
        for row in ordered:
            if len(shown) < wanted and row not in shown and _is_apart(x, y, row, shown, distance * side):
                shown.append(row)
    return shown


def _is_apart(x: Places, y: Places, row: int, shown: list[int], distance_px: float) -> bool:
    return all(np.hypot(x[row] - x[other], y[row] - y[other]) >= distance_px for other in shown)
