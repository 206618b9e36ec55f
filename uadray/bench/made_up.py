"""Slides that are made up: objects of a few bytes, and a reader that makes one tiny tile of each without opening it.

Nothing here imports torch: readers do not, and they would start later.
"""

import hashlib
import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from uadray.reports.pictures import encode_jpeg
from uadray.schemas import TILE_SCORES, TILES
from uadray.screening.parts import part_row, to_ipc
from uadray.slides.manifest import SlideRow
from uadray.tiles.spec import TileSpec

_SIDE_PX = 16
CONTENT = b"a slide that is never opened"
_PREVIEW = encode_jpeg(np.full((48, 64, 3), 200, np.uint8))
_MASKS = json.dumps({"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": None}]}).encode()


def made_up(folder: str, n: int) -> list[SlideRow]:
    """The rows of `n` slides."""
    return [SlideRow(f"s{i:06d}", f"{folder}/s{i:06d}.tif") for i in range(n)]


def read_made_up(index: int, row: SlideRow, spec: TileSpec) -> Iterator[pa.Table]:
    """One part with one tile, in the place of `slide_reader.read_slide`."""
    tiles = pa.table(
        {
            "tile_id": [f"{row.slide_id}/0"],
            "slide_id": [row.slide_id],
            "x_level0_px": [0],
            "y_level0_px": [0],
            "width_level0_px": [_SIDE_PX],
            "height_level0_px": [_SIDE_PX],
            "tissue_fraction": [1.0],
            "band": ["tissue"],
        },
        schema=TILES,
    )
    pixels = np.full((1, _SIDE_PX, _SIDE_PX, 3), index % 251, np.uint8)
    header = {
        "n_parts": 1,
        "read_s": 0.0,
        "bytes": pixels.nbytes,
        "etag": hashlib.md5(CONTENT, usedforsecurity=False).hexdigest(),
        "mpp_level0": spec.mpp,
        "size_level0_px": (4 * _SIDE_PX, 3 * _SIDE_PX),
        "n_tiles": 1,
        "n_grid": 12,
    }
    yield part_row(
        index, 0, header=header, preview=_PREVIEW, masks=_MASKS, flagged=to_ipc(TILE_SCORES.empty_table()),
        tiles=tiles, pixels=pixels, errors=json.dumps([None]), flags=json.dumps([None]),
    )  # fmt: skip
