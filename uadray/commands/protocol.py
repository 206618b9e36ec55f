"""`uadray evaluate BUNDLE --protocol FILE --out OUT`: slides are listed, cut or screened, scored and evaluated.

    OUT/slides.csv       all slides with label and split: `uadray train --data OUT/slides.csv --split train`
    OUT/judged.csv       those that are judged
    OUT/screening/       of a protocol of slides, as `uadray screen` leaves it, with evaluation.html
    OUT/masks/ tiles_*/  of a protocol of tiles: lesions as masks, and tile sets
    OUT/scores.parquet   of a protocol of tiles, as `uadray score` leaves it, with scores.html
    OUT/protocol.json    the figures, the protocol with all its defaults, and the bundle

What is done stays: the same command goes on where it was stopped.
"""

import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from uadray import provenance
from uadray.config import load_config
from uadray.detectors.bundle import read_bundle
from uadray.errors import InputError
from uadray.evaluation.judged import is_anomalous
from uadray.evaluation.outlines import outline_uris, read_outlines
from uadray.evaluation.protocols import Protocol, TileProtocol, judged_of, reported, slides_of
from uadray.evaluation.report import evaluate
from uadray.evaluation.tile_detections import DetectionConfig
from uadray.slides.manifest import SlideRow, write_manifest
from uadray.storage import objects
from uadray.tiles.mask_folder import mask_uri
from uadray.tiles.spec import TileSpec


def run(bundle_uri: str, file: str, *, out: str, data: str | None = None) -> dict[str, Any]:
    """Run a protocol.

    Args:
        bundle_uri: the detector; calibrated where the protocol is of slides.
        file: YAML of `Protocol`.
        out: folder or s3:// URI.
        data: folder that places without a scheme are relative to; `$UADRAY_DATA` or `../shared/data` unless given.

    Returns:
        `protocol`, `bundle`, `slides` (judged), the metrics that the protocol names, and where the `page` is.

    Raises:
        InputError: the protocol, its data or the bundle cannot be used; a bucket cannot be reached.
        WorkError: slides failed, see `screen` and `tile`.
    """
    protocol, bundle = load_config(Protocol, file), read_bundle(bundle_uri)
    if protocol.tiles is not None:
        check_tiles(protocol.tiles.cut, bundle.tiles, bundle_uri)
    folder = data or os.environ.get("UADRAY_DATA") or str(Path.cwd().parent / "shared" / "data")
    rows = slides_of(protocol, folder)
    judged = judged_of(protocol, rows)
    manifest = objects.join(out, "judged.csv")
    write_manifest(rows, objects.join(out, "slides.csv"))
    write_manifest(judged, manifest)
    outlines = protocol.data.outlines and objects.resolve(protocol.data.outlines, folder)
    if protocol.tiles is None:
        figures = _screened(bundle_uri, manifest, outlines, out, protocol.detections)
    else:
        figures = _scored(bundle_uri, judged, outlines, out, protocol.tiles)
    said = {
        "protocol": protocol.name, "bundle": bundle.id, "slides": len(judged), **reported(protocol, figures),
        "page": figures["page"],
    }  # fmt: skip
    record = said | {"evaluated_with": protocol.model_dump(mode="json"), "at": provenance.now_iso()}
    objects.write_bytes(objects.join(out, "protocol.json"), json.dumps(record, indent=1).encode())
    return said


def check_tiles(cut: TileSpec, of_bundle: TileSpec, bundle_uri: str) -> None:
    """Refuse a detector that does not see a protocol's tiles: of another resolution, or larger than they are.

    Raises:
        InputError: which.
    """
    if abs(cut.mpp / of_bundle.mpp - 1) > 1e-3 or of_bundle.tile_px > cut.tile_px:
        raise InputError(
            f"bundle {bundle_uri} reads tiles of {of_bundle.tile_px} px at {of_bundle.mpp:g} um/px; the protocol's are "
            f"of {cut.tile_px} px at {cut.mpp:g}: train one with tiles.mpp {cut.mpp:g} and no larger tiles"
        )


def _screened(
    bundle_uri: str, manifest: str, outlines: str | None, out: str, detections: DetectionConfig
) -> dict[str, Any]:
    """Screen the slides, and evaluate what that leaves."""
    from uadray.cluster.workers import StreamConfig
    from uadray.commands import screen

    screening = objects.join(out, "screening")
    summary = screen.run(
        [bundle_uri], slides_uri=manifest, split=None, out=screening, retry_failed=False, mask_dir=None, dry_run=False,
        stream=StreamConfig(),
    )  # fmt: skip
    screen.check_all_decided(summary)
    return evaluate(screening, labels=manifest, outlines=outlines, detections=detections)


def _scored(
    bundle_uri: str, rows: list[SlideRow], outlines: str | None, out: str, tiles: TileProtocol
) -> dict[str, Any]:
    """Cut the tiles of both classes, score them, and evaluate the scores."""
    from uadray.cluster.workers import StreamConfig
    from uadray.commands import score, tile

    masks, outlined = objects.join(out, "masks"), write_masks(rows, outlines, objects.join(out, "masks"))
    anomalous = tiles.cut.model_copy(update={"min_tissue": tiles.in_lesion, "mask_dir": masks})
    sets = {
        "normal": ([row for row in rows if not is_anomalous(row.label)], tiles.cut, tiles.normal_per_slide),
        "anomalous": (outlined, anomalous, tiles.anomalous_per_slide),
    }
    tables = []
    for name, (of_class, spec, per_slide) in sets.items():
        if not of_class:
            raise InputError(f"no slide gives {name} tiles: a protocol of tiles takes normal slides, and lesions")
        manifest, tile_set = objects.join(out, f"{name}.csv"), objects.join(out, f"tiles_{name}")
        write_manifest(of_class, manifest)
        tile.run(
            manifest, spec, out=tile_set, tiles_per_slide=per_slide, quality=tiles.quality, seed=tiles.seed,
            dry_run=False,
        )  # fmt: skip
        scores = objects.join(out, f"scores_{name}.parquet")
        score.run(bundle_uri, data=tile_set, out=scores, stream=StreamConfig())
        tables.append(pq.read_table(io.BytesIO(objects.read_bytes(scores))))
    sink = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), sink, compression="zstd")
    objects.write_bytes(objects.join(out, "scores.parquet"), sink.getvalue())
    return evaluate(objects.join(out, "scores.parquet"), labels=objects.join(out, "judged.csv"))


def write_masks(rows: list[SlideRow], outlines: str | None, folder: str) -> list[SlideRow]:
    """Write the lesions of slides as masks for `uadray tile`, and return the slides that have any.

    Args:
        rows: the slides; normal ones have none.
        outlines: folder of outlines; beside the slides where it is not given.
        folder: for `<slide_id>.geojson`.

    Raises:
        InputError: an outline cannot be read.
    """
    anomalous = [row for row in rows if is_anomalous(row.label)]
    uris = outline_uris({row.slide_id: row.uri for row in anomalous}, outlines)
    outlined = []
    for row in anomalous:
        outline = read_outlines(uris[row.slide_id])
        if outline is not None and not outline.is_empty:
            objects.write_bytes(mask_uri(folder, row.slide_id), shapely.to_geojson(outline).encode())
            outlined.append(row)
    return outlined
