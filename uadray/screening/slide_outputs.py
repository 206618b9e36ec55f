"""What is written about one slide: tile scores, pictures, masks, and the record of its decision. Nothing here writes.

    one bundle                               several bundles
    tiles/<slide_id>.parquet                 <bundle>/tiles/<slide_id>.parquet
    evidence/<slide_id>.svg                  <bundle>/evidence/<slide_id>.svg
    masks/<slide_id>.geojson                 masks/<slide_id>.geojson

In older folders the pictures are files in `evidence/<slide_id>/`; `pictures` of a decision says where they are.

The record of one bundle's decision has the fields of `SLIDE_DECISIONS`; that of several has a list `decisions`, each
with these fields and `bundle`, the folder that it belongs to.
"""

import io
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from uadray.decisions.conformal import Calibration, tile_p_values
from uadray.decisions.slide_measures import slide_measures
from uadray.decisions.verdict import Verdict
from uadray.provenance import now_iso
from uadray.reports import pictures
from uadray.reports.differences import difference, difference_picture, outlined
from uadray.reports.entries import NORMAL_KINDS
from uadray.reports.evidence_sheet import evidence_sheet
from uadray.reports.heatmap import heatmap
from uadray.reports.small_pictures import small_picture
from uadray.reports.tile_cells import over_tile
from uadray.schemas import SLIDE_DECISIONS
from uadray.screening.bundles import ScreeningBundle
from uadray.screening.slide_result import BundleScores, SlideResult
from uadray.slides.identity import patient_mark
from uadray.tiles.cells import cells_of

PLAIN_ROWS = 8
"""Up to so many rows compression and dictionaries make a Parquet file no smaller."""

_NO_REGIONS = re.compile(rb'"features":\s*\[\s*\]')


def parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file. One of few rows is written plainly, in a third of the time."""
    sink, is_small = io.BytesIO(), len(table) <= PLAIN_ROWS
    pq.write_table(table, sink, compression="none" if is_small else "zstd", use_dictionary=not is_small)
    return sink.getvalue()


def tiles_path(bundle: ScreeningBundle, slide_id: str) -> str:
    """Where a bundle's tile scores of a slide lie in the screening's folder."""
    return _within(bundle, f"tiles/{slide_id}.parquet")


def slide_files(result: SlideResult, bundles: Sequence[ScreeningBundle]) -> dict[str, bytes]:
    """Pictures and masks by their path in the screening's folder; none of a slide that no bundle has scored."""
    slide_id, files = result.row.slide_id, dict[str, bytes]()
    for index, bundle in enumerate(bundles):
        scores = result.of_bundle(index)
        if scores.tiles is None:
            continue
        if result.masks and not _NO_REGIONS.search(result.masks[:200]):  # nobody edits an empty one
            files[f"masks/{slide_id}.geojson"] = result.masks
        shown = _pictures(result, scores, bundle)
        size = result.header["size_level0_px"]
        sheet = evidence_sheet(
            shown, sizes=dict.fromkeys(("thumbnail", "heatmap"), size),
            preview=small_picture(shown["thumbnail"], shown["heatmap"]),
        )  # fmt: skip
        files[_within(bundle, evidence_path(slide_id))] = sheet
    return files


def evidence_path(slide_id: str) -> str:
    """Where a bundle's pictures of a slide lie in its folder, see `evidence_sheet`."""
    return f"evidence/{slide_id}.svg"


def decision_record(
    result: SlideResult, bundles: Sequence[ScreeningBundle], verdicts: Sequence[Verdict], *, fingerprint: str,
    mask: str | None, lease: str,
) -> dict[str, Any]:  # fmt: skip
    """What `decisions/<slide_id>.json` says.

    Args:
        result: the slide.
        bundles: of the screening.
        verdicts: one of each bundle.
        fingerprint: of the screening and this version of the slide.
        mask: etag of the edited mask that was used.
        lease: under which the decision is made.
    """
    header = result.header
    width, height = header.get("size_level0_px", (None, None))
    bounds = header.get("bounds_level0_px") or (None,) * 4
    facts = {
        "slide_id": result.row.slide_id,
        "uri": result.row.uri,
        "etag": header.get("etag"),
        "mpp_level0": header.get("mpp_level0"),
        "width_level0_px": width,
        "height_level0_px": height,
        **{f"bounds_{side}_level0_px": at for side, at in zip(("x", "y", "width", "height"), bounds, strict=True)},
        "fingerprint": fingerprint,
        "mask": mask,
        "site": result.row.site,
        "scanner": result.row.scanner,
        "stain": result.row.stain,
        "decided_at": now_iso(),
        "read_seconds": result.read_s,
        "score_seconds": result.score_s,
    }
    decisions = [
        dict.fromkeys(SLIDE_DECISIONS.names)
        | verdict
        | facts
        | _evidence(result, index, bundles[index].calibration)
        | measures_of(result, index)
        | {"patient": patient_mark(result.row, bundles[index].patient_salt or bundles[index].calibration.id)}
        for index, verdict in enumerate(verdicts)
    ]
    if len(bundles) == 1:
        return decisions[0] | {"lease": lease}
    named = [{"bundle": bundle.folder} | each for bundle, each in zip(bundles, decisions, strict=True)]
    return {"slide_id": result.row.slide_id, "fingerprint": fingerprint, "lease": lease, "decisions": named}


def measures_of(result: SlideResult, index: int = 0) -> dict[str, float | None]:
    """What a bundle's tiles tell of the slide as a whole, see `slide_measures`."""
    tiles, n_grid = result.of_bundle(index).tiles, result.header.get("n_grid")
    return slide_measures(tiles, focus=result.focus, n_grid=n_grid)


def decisions_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The decisions in a record, with the fields of `SLIDE_DECISIONS` and `bundle`, which is null of the only one."""
    return list(record["decisions"]) if "decisions" in record else [record | {"bundle": None}]


def _evidence(result: SlideResult, index: int, calibration: Calibration) -> dict[str, Any]:
    """Which tiles a bundle's evidence is, and where the pictures of the slide are."""
    scores = result.of_bundle(index)
    path = None if scores.tiles is None else evidence_path(result.row.slide_id)
    return {"evidence": json.dumps(top_tiles(scores, calibration)), "pictures": path}


def top_tiles(scores: BundleScores, calibration: Calibration) -> list[dict[str, Any]]:
    """Where the evidence tiles lie, best first: the field `evidence` of a decision, before it is JSON.

    Tiles of a detector that makes no reconstruction say so (`has_reconstruction`), as do those with pictures of where
    they differ from it (`has_difference`), and those with a picture of their cells (`has_cells`). `normals` are the
    scores of the normal tiles that are shown beside a tile, nearest first; for the rest see `_among_normals`.
    """
    if scores.tiles is None or scores.evidence is None:
        return []
    chosen = _evidence_tiles(scores.tiles, scores.evidence)
    tiles = chosen.select(["tile_id", "x_level0_px", "y_level0_px", "score"]).to_pylist()
    without = pc.is_null(scores.evidence["reconstruction"]).to_pylist()
    normals = scores.evidence["normals"].to_pylist()
    return [
        tile
        | {"has_reconstruction" if has_none else "has_difference": not has_none}
        | ({"has_cells": True} if cells is not None else {})
        | _among_normals(tile["score"], calibration)
        | ({"normals": [each["score"] for each in nearest]} if nearest else {})
        for tile, has_none, cells, nearest in zip(
            tiles, without, _shown_cells(chosen, calibration), normals, strict=True
        )
    ]


def _among_normals(score: float, calibration: Calibration) -> dict[str, float]:
    """How an evidence tile's score stands among the tiles of the calibration's normal slides.

    `normal_p` is its p-value among them (`tile_p_values`), `normal_limit` the score that 99 % of them do not exceed:
    the tile would have to score less to be like them. Nothing where the calibration keeps too little of its tiles.
    """
    if calibration.tile_tail is None and not calibration.tile_quantiles:
        return {}
    p = float(tile_p_values(np.array([score]), calibration)[0])
    return {"normal_p": round(p, 9), "normal_limit": calibration.tile_p99}


def _evidence_tiles(tiles: pa.Table, evidence: pa.Table) -> pa.Table:
    """The rows of `TILE_SCORES` of the evidence, best first."""
    rows = {tile_id: row for row, tile_id in enumerate(tiles["tile_id"].to_pylist())}
    return tiles.take(pa.array([rows[tile_id] for tile_id in evidence["tile_id"].to_pylist()], pa.int64()))


def _shown_cells(chosen: pa.Table, calibration: Calibration) -> list[NDArray[np.float32] | None]:
    """The cells of these tiles; None of one without, and of all where it is not known which cells are high."""
    cells = cells_of(chosen) if calibration.cell_scale is not None else None
    return [None] * len(chosen) if cells is None else [None if np.isnan(each).any() else each for each in cells]


def _pictures(result: SlideResult, scores: BundleScores, bundle: ScreeningBundle) -> dict[str, bytes]:
    """A bundle's JPEGs by name: thumbnail, heatmap, each evidence tile, and its reconstruction and cells if any.

    A reconstruction comes with two pictures of where the tile differs from it.
    """
    calibration, described = bundle.calibration, bundle.bundle
    width, height = result.header["size_level0_px"]
    seen = described.detector.input_px / described.tiles.tile_px if calibration.cell_scale else 1.0
    heat = heatmap(
        pictures.decode_jpeg(result.preview), scores.tiles, level0_size=(width, height), low=calibration.tile_median,
        high=calibration.tile_high, threshold=calibration.tile_p99, cell_scale=calibration.cell_scale, seen_share=seen,
    )  # fmt: skip
    files = {"thumbnail": result.preview, "heatmap": pictures.encode_jpeg(heat)}
    if scores.evidence is None:
        return files
    cells = _shown_cells(_evidence_tiles(scores.tiles, scores.evidence), calibration)
    for place, row in enumerate(scores.evidence.to_pylist()):
        files[f"tile_{place}"] = row["tile"]
        if row["reconstruction"] is not None:
            files[f"reconstruction_{place}"] = row["reconstruction"]
            files |= _difference_pictures(place, row["tile"], row["reconstruction"])
        files |= _cells_picture(place, row["tile"], cells[place], calibration)
        files |= {
            f"{kind}_{place}": each["jpeg"] for kind, each in zip(NORMAL_KINDS, row["normals"] or (), strict=False)
        }
    return files


def _difference_pictures(place: int, tile: bytes, reconstruction: bytes) -> dict[str, bytes]:
    """Pictures of how and where an evidence tile differs from its reconstruction, by their names."""
    x, x_hat = pictures.decode_jpeg(tile), pictures.decode_jpeg(reconstruction)
    values = difference(x, x_hat)
    return {
        f"residual_{place}": pictures.encode_jpeg(difference_picture(values)),
        f"outline_{place}": pictures.encode_jpeg(outlined(x, values)),
    }


def _cells_picture(
    place: int, tile: bytes, cells: NDArray[np.float32] | None, calibration: Calibration
) -> dict[str, bytes]:
    """The picture of where in an evidence tile its score is from, by its name; none of a tile without cells."""
    if cells is None or calibration.cell_scale is None:
        return {}
    low, high = calibration.cell_scale
    return {f"cells_{place}": pictures.encode_jpeg(over_tile(pictures.decode_jpeg(tile), cells, low=low, high=high))}


def _within(bundle: ScreeningBundle, path: str) -> str:
    return f"{bundle.folder}/{path}" if bundle.folder else path
