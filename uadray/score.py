"""`uadray score`: tile scores of a tile set or of slides, as one Parquet file."""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uadray import storage
from uadray.bundle import Bundle
from uadray.data import tilesets
from uadray.data.stream import StreamConfig, from_ipc, stream, tile_reads
from uadray.errors import WorkError
from uadray.manifest import SlideRow, read_manifest
from uadray.schemas import TILE_SCORES
from uadray.screening import PartScorer, scored_slides, scorer_arguments

SCORES = pa.schema([*TILE_SCORES, pa.field("label", pa.string())])
"""`TILE_SCORES` and the label of the tile's folder or of its slide."""


def score(
    data: str, *, bundle_uri: str, bundle: Bundle, out: str, config: StreamConfig | None = None
) -> dict[str, Any]:
    """Score every tile of `data` and write `out`.

    Args:
        data: URI of a tile set or of a slide manifest.
        bundle_uri: where the bundle is.
        bundle: its description.
        out: URI of a Parquet file.
        config: how the cluster is shared.

    Returns:
        Counts of tiles and errors, and of slides that failed, by reason.
    """
    config = config or StreamConfig()
    failed: dict[str, str] = {}
    if tilesets.is_tile_set(data):
        table = _tile_set(data, bundle_uri, bundle, config)
    else:
        table, failed = _slides(read_manifest(data), bundle_uri, bundle, config)
    sink = io.BytesIO()
    pq.write_table(table.sort_by("tile_id"), sink, compression="zstd")
    storage.write_bytes(out, sink.getvalue())
    n_errors = len(table) - table["score"].null_count
    return {
        "out": out,
        "tiles": len(table),
        "scored": n_errors,
        "unscored": len(table) - n_errors,
        "failed_slides": failed,
    }


def _tile_set(data: str, bundle_uri: str, bundle: Bundle, config: StreamConfig) -> pa.Table:
    tilesets.check_stain(data, bundle.tiles)
    refs = tilesets.list_tiles(data)
    labels = {ref.tile_id: ref.label for ref in refs}
    reads = tile_reads(data, refs, bundle.tiles)
    tables = {}
    for part in stream(reads, scorer=PartScorer, arguments=scorer_arguments(bundle_uri, bundle, config), config=config):
        if part["part"] < 0:
            raise WorkError(f"{data}: {json.loads(part['header'])['message']}")
        tables[part["slide"]] = from_ipc(part["tiles"])
    if len(tables) != len(reads):
        raise WorkError(f"{data}: {len(reads) - len(tables)} of {len(reads)} parts were lost; run the command again")
    table = pa.concat_tables(tables.values())
    return _labelled(table, [labels[tile_id] for tile_id in table["tile_id"].to_pylist()])


def _slides(
    rows: list[SlideRow], bundle_uri: str, bundle: Bundle, config: StreamConfig
) -> tuple[pa.Table, dict[str, str]]:
    tables, failed = [SCORES.empty_table()], {}
    for result in scored_slides(rows, bundle_uri=bundle_uri, bundle=bundle, config=config):
        if result.tiles is None:
            failed[result.row.slide_id] = ": ".join(result.failure or ("lost", ""))
        else:
            tables.append(_labelled(result.tiles, [result.row.label] * len(result.tiles)))
    return pa.concat_tables(tables), failed


def _labelled(table: pa.Table, labels: list[str | None]) -> pa.Table:
    return table.append_column(SCORES.field("label"), pa.array(labels, pa.string()))
