"""Small slides, and tile sets cut from them without a cluster."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from uadray.phantoms.pyramid import write_pyramid
from uadray.slides.manifest import SlideRow
from uadray.tiles.spec import TileSpec
from uadray.tilesets import commits
from uadray.tilesets.cutting import cut_slide
from uadray.tilesets.records import CutOptions, TileSet
from uadray.tilesets.shards import TILE_IMAGES

FILE_GRID = TileSpec(mpp=1.0, tile_px=128, quality=None)
"""The grid of the files of `write_slide`."""


def write_slide(path: Path, seed: int, *, size: tuple[int, int] = (512, 512)) -> SlideRow:
    """Write a slide of tissue everywhere, 1 um/px, in JPEG tiles of 128 px."""
    small = np.random.default_rng(seed).integers(0, 80, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    image = np.array([210, 110, 180], np.uint8) - cv2.resize(small, size)
    write_pyramid(path, image, mpp=1.0, tile_px=128)
    return SlideRow(path.stem, str(path), label="normal")


def two_slides(folder: Path) -> list[SlideRow]:
    """`a` has 16 whole tiles; `b` has 12, of which 9 are whole in its 384 x 448 px."""
    return [write_slide(folder / "a.tif", 1), write_slide(folder / "b.tif", 2, size=(384, 448))]


def cut(rows: Sequence[SlideRow], spec: TileSpec, out: str, **options: Any) -> TileSet:
    """Cut what is not committed yet and finish the set, in this process."""
    chosen = CutOptions(**options)
    commits.claim(out, spec, chosen)
    committed = commits.committed_slides(rows, spec, chosen, out)
    slides = [committed.get(row.slide_id) or cut_slide(row, spec, chosen, out) for row in rows]
    return commits.finish(out, spec, chosen, slides=slides, failed={})


def written_tiles(folder: str) -> dict[str, Any]:
    """Every row of the shards in a local folder, by tile id."""
    tables = [pq.read_table(path) for path in sorted(Path(folder).glob("part-*.parquet"))]
    assert all(table.schema.equals(TILE_IMAGES) for table in tables)
    return {row["tile_id"]: row for table in tables for row in table.to_pylist()}
