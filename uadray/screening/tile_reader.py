"""Reads of tile sets: one task for some hundred tiles."""

import json
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from uadray.cluster.read_tasks import ReadTask, bind_read_task
from uadray.schemas import TILES
from uadray.screening.parts import part_row
from uadray.tiles.chunks import chunk_tiles
from uadray.tiles.spec import TileSpec
from uadray.tilesets.containers import TileRef, read_tiles


def tile_chunks(refs: Sequence[TileRef], spec: TileSpec) -> list[list[TileRef]]:
    """A tile set in parts."""
    step = chunk_tiles(spec)
    return [list(refs[i : i + step]) for i in range(0, len(refs), step)]


def tile_read_tasks(uri: str, chunks: Sequence[list[TileRef]], spec: TileSpec) -> list[ReadTask]:
    """One read task for each part of a tile set; larger tiles are cropped to the centre `spec.tile_px`."""
    return [bind_read_task(_read_tiles, index, uri, chunk, spec) for index, chunk in enumerate(chunks)]


def _read_tiles(index: int, uri: str, refs: list[TileRef], spec: TileSpec) -> Iterator[pa.Table]:
    side = spec.tile_px
    pixels = np.full((len(refs), side, side, 3), 255, np.uint8)
    errors: list[str | None] = []
    began = time.perf_counter()
    for i, (ref, image, error) in enumerate(read_tiles(uri, refs)):
        if image is not None and min(image.shape[:2]) < side:
            error = f"{ref.tile_id}: {image.shape[1]} x {image.shape[0]} px, the bundle needs {side} px"
        elif image is not None:
            top, left = ((n - side) // 2 for n in image.shape[:2])
            pixels[i] = image[top : top + side, left : left + side]
        errors.append(error)
    zeros, sides = [0] * len(refs), [side] * len(refs)
    columns = [
        [r.tile_id for r in refs],
        [""] * len(refs),
        zeros,
        zeros,
        sides,
        sides,
        [1.0] * len(refs),
        ["tissue"] * len(refs),
    ]
    tiles = pa.table(dict(zip(TILES.names, columns, strict=True)), schema=TILES)
    header = {"n_parts": 1, "read_s": time.perf_counter() - began, "bytes": pixels.nbytes}
    yield part_row(
        index, 0, header=header, tiles=tiles, pixels=pixels, errors=json.dumps(errors),
        flags=json.dumps([None] * len(errors)),
    )  # fmt: skip
