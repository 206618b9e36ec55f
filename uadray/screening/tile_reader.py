"""Read tasks for tile sets: each reads some hundred tiles and yields them as one row of `screening.parts`."""

import json
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from uadray.cluster.read_tasks import ReadTask, bind_read_task
from uadray.schemas import TILES
from uadray.screening.parts import part_row
from uadray.tiles.chunks import chunk_tiles
from uadray.tiles.images import ImageError, centre_tile
from uadray.tiles.spec import TileSpec
from uadray.tilesets.containers import TileRef, read_tiles


def tile_chunks(refs: Sequence[TileRef], spec: TileSpec) -> list[list[TileRef]]:
    """The tiles of a set, in lists of as many as a read task reads."""
    step = chunk_tiles(spec)
    return [list(refs[i : i + step]) for i in range(0, len(refs), step)]


def tile_read_tasks(uri: str, chunks: Sequence[list[TileRef]], spec: TileSpec) -> list[ReadTask]:
    """One read task for each list; a tile larger than `spec.tile_px` is cropped to its centre."""
    return [bind_read_task(_read_tiles, index, uri, chunk, spec) for index, chunk in enumerate(chunks)]


def _read_tiles(index: int, uri: str, refs: list[TileRef], spec: TileSpec) -> Iterator[pa.Table]:
    """One row with all tiles; those that cannot be read, or are too small, are white and have an error."""
    side = spec.tile_px
    pixels = np.full((len(refs), side, side, 3), 255, np.uint8)
    errors: list[str | None] = []
    began = time.perf_counter()
    for i, (ref, image, error) in enumerate(read_tiles(uri, refs)):
        if image is not None:
            try:
                pixels[i] = centre_tile(image, side)
            except ImageError as too_small:
                error = f"{ref.tile_id}: {too_small}"
        errors.append(error)
    header = {"n_parts": 1, "read_s": time.perf_counter() - began, "bytes": pixels.nbytes}
    yield part_row(
        index, 0, header=header, tiles=_places(refs, side), pixels=pixels, errors=json.dumps(errors),
        flags=json.dumps([None] * len(errors)),
    )  # fmt: skip


def _places(refs: list[TileRef], side: int) -> pa.Table:
    """Rows of schema `TILES` for tiles whose slide, and place in it, are not known."""
    n = len(refs)
    columns = {
        "tile_id": [ref.tile_id for ref in refs],
        "slide_id": [""] * n,
        "x_level0_px": [0] * n,
        "y_level0_px": [0] * n,
        "width_level0_px": [side] * n,
        "height_level0_px": [side] * n,
        "tissue_fraction": [1.0] * n,
        "band": ["tissue"] * n,
    }
    return pa.table(columns, schema=TILES)
