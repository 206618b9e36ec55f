"""What is written about one slide: tile scores, pictures, and the evidence in its decision. Nothing here writes it."""

import io
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uadray.decisions.conformal import Calibration
from uadray.reports import pictures
from uadray.reports.heatmap import heatmap
from uadray.screening.slide_result import SlideResult


def parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def picture_files(result: SlideResult, calibration: Calibration) -> dict[str, bytes]:
    """JPEGs by file name: thumbnail, heatmap, and of each evidence tile the tile and its reconstruction."""
    preview = cv2.imdecode(np.frombuffer(result.preview, np.uint8), cv2.IMREAD_COLOR_RGB)
    width, height = result.header["size_level0_px"]
    heat = heatmap(
        np.asarray(preview, dtype=np.uint8), result.tiles, level0_size=(width, height),
        low=calibration.tile_median, high=calibration.tile_high, threshold=calibration.tile_p99,
    )  # fmt: skip
    files = {"thumbnail.jpg": result.preview, "heatmap.jpg": pictures.encode_jpeg(heat)}
    for place, row in enumerate(result.evidence.to_pylist() if result.evidence is not None else ()):
        files |= {f"tile_{place}.jpg": row["tile"], f"reconstruction_{place}.jpg": row["reconstruction"]}
    return files


def top_tiles(tiles: pa.Table, evidence: pa.Table) -> list[dict[str, Any]]:
    """Where the evidence tiles lie, best first: the field `evidence` of the slide's decision, before it is JSON."""
    rows = {tile_id: row for row, tile_id in enumerate(tiles["tile_id"].to_pylist())}
    chosen = pa.array([rows[tile_id] for tile_id in evidence["tile_id"].to_pylist()], pa.int64())
    return list(tiles.select(["tile_id", "x_level0_px", "y_level0_px", "score"]).take(chosen).to_pylist())
