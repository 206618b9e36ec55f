"""What a page shows of slides, straight from their files: deep zoom, heat, and what the detector saw of a tile.

The HTTP side knows the protocol `Views`. `SlideViews` does the work: it keeps a few slides and tables of tile scores
open, and works in threads of its own. Its methods take first what they are about, whose `key` says which replica of
several should be asked, so that a slide is opened once.

Pixels are of the version of the slide that was decided about, or there are none: a slide that was replaced is an error
(`SlideError`, reason `changed`), never another picture. Label and macro images are not opened.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uadray.errors import NotFoundError, SlideError
from uadray.serving.views.bounded_cache import BoundedCache
from uadray.serving.views.deep_zoom import Size, jpeg, tile_size, zoom_tile
from uadray.serving.views.heat_tiles import HeatScale, HeatTable, own_scale, png, transparent
from uadray.serving.views.open_slides import OpenSlides, SlideRef
from uadray.storage import objects
from uadray.tiles.chunks import normalizer_of, read_chunk
from uadray.tiles.images import Pixels
from uadray.tiles.spec import TileSpec

THREADS = 8

KEPT_TABLES, KEPT_BYTES = 64, 256 * 2**20

MAX_TABLE_BYTES = 256 * 2**20
"""Of a file of tile scores: four million tiles take less."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class TilesRef:
    """The tile scores of a slide by one bundle.

    Attributes:
        uri: of the Parquet file.
        version: etag of the decision beside it.
        size: the slide's width and height in level-0 pixels.
        slide: key of the slide.
    """

    uri: str
    version: str
    size: Size
    slide: str

    @property
    def key(self) -> str:
        """See `SlideRef.key`."""
        return self.slide


@dataclass(frozen=True)
class TileAt:
    """The tile at a point of a slide.

    Attributes:
        row: of `TILE_SCORES`.
        above: share of the slide's tiles with a score that score less; None of a tile without a score.
        pixels: as the detector is given them, [tile, tile, 3]; None where they cannot be had.
        why: there are no pixels.
    """

    row: dict[str, Any]
    above: float | None
    pixels: Pixels | None
    why: str | None


class Views(Protocol):
    """What the HTTP side asks for. Raises `SlideError` about a slide, `UadrayError` about storage."""

    async def image(self, of: SlideRef, level: int, x: int, y: int) -> bytes:
        """A tile of the slide's pyramid as JPEG."""
        ...

    async def heat(self, of: TilesRef, scale: HeatScale | None, level: int, x: int, y: int) -> bytes:
        """A tile of the heatmap's pyramid as PNG; no scale, or one with NaN for an end, takes the slide's own."""
        ...

    async def scores(self, of: TilesRef) -> dict[str, list[Any]]:
        """Where the tiles are and what they score, by column."""
        ...

    async def at(
        self, of: SlideRef, tables: Sequence[TilesRef], spec: TileSpec | None, x: int, y: int
    ) -> list[TileAt | None]:
        """The tile at a level-0 pixel, of each of the tables; None where none is there."""
        ...


@final
class SlideViews:
    """`Views` of slides that this process opens.

    Args:
        slides: that stay open at most.
        threads: that work at a time; so many slides more may be open for a moment.
    """

    def __init__(self, *, slides: int = 8, threads: int = THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="uadray-view")
        self._slides = OpenSlides(most=slides)
        self._tables = BoundedCache[tuple[str, str], HeatTable](
            most=KEPT_TABLES, most_bytes=KEPT_BYTES, size=lambda table: table.nbytes
        )

    async def image(self, of: SlideRef, level: int, x: int, y: int) -> bytes:
        """See `Views`."""
        return await self._run(partial(self._image, of, level, x, y))

    async def heat(self, of: TilesRef, scale: HeatScale | None, level: int, x: int, y: int) -> bytes:
        """See `Views`."""
        return await self._run(partial(self._heat, of, scale, level, x, y))

    async def scores(self, of: TilesRef) -> dict[str, list[Any]]:
        """See `Views`."""
        return await self._run(lambda: score_columns(self._table(of)))

    async def at(
        self, of: SlideRef, tables: Sequence[TilesRef], spec: TileSpec | None, x: int, y: int
    ) -> list[TileAt | None]:
        """See `Views`."""
        return await self._run(partial(self._at, of, tables, spec, x, y))

    def close(self) -> None:
        """Close all slides."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._slides.close()

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _image(self, of: SlideRef, level: int, x: int, y: int) -> bytes:
        with self._slides.use(of) as opened:
            return jpeg(zoom_tile(opened.slide, level, x, y, overview=opened.overview))

    def _heat(self, of: TilesRef, scale: HeatScale | None, level: int, x: int, y: int) -> bytes:
        table = self._table(of)
        if scale is None or not np.isfinite([scale.low, scale.high]).all():
            own = own_scale(table)
            scale = own if scale is None else replace(scale, low=own.low, high=own.high)
        shown = tile_size(of.size, level, x, y)
        if shown is None:
            raise NotFoundError(f"no tile {x}, {y} at level {level}")
        picture = table.picture(scale, level, x, y)
        return transparent(shown) if picture is None else png(picture)

    def _at(
        self, of: SlideRef, tables: Sequence[TilesRef], spec: TileSpec | None, x: int, y: int
    ) -> list[TileAt | None]:
        found: list[TileAt | None] = []
        for table in map(self._table, tables):
            row = table.at(x, y)
            found.append(None if row is None else self._tile(of, table, row, spec))
        return found

    def _tile(self, of: SlideRef, table: HeatTable, row: int, spec: TileSpec | None) -> TileAt:
        score, scores = table.score[row], table.sorted_scores
        above = None if np.isnan(score) else float(np.searchsorted(scores, score, side="left")) / len(scores)
        tile = table.table.slice(row, 1)
        pixels, why = self._pixels(of, tile, spec)
        return TileAt(tile.to_pylist()[0], above, pixels, why)

    def _pixels(self, of: SlideRef, tile: pa.Table, spec: TileSpec | None) -> tuple[Pixels | None, str | None]:
        """A tile as the reader of slides hands it to the detector, or why not."""
        if spec is None:
            return None, "this version cannot tell how the tiles of this screening were cut"
        if spec.stain is not None and of.has_mask:
            return None, "its colours were normalised within an edited mask, which is not kept with the screening"
        with self._slides.use(of) as opened:
            try:
                stain = opened.stain(spec) if spec.stain is not None else None
                chunk = read_chunk(opened.slide, tile, spec=spec, normalise=normalizer_of(stain, spec))
            except SlideError as error:
                if error.reason == "changed":
                    raise
                return None, error.message
        if chunk.errors[0] is not None:
            return None, chunk.errors[0]
        return chunk.pixels[0], None

    def _table(self, of: TilesRef) -> HeatTable:
        kept = self._tables.peek((of.uri, of.version))
        if kept is None:
            data = objects.read_bytes(of.uri, max_bytes=MAX_TABLE_BYTES)
            kept = HeatTable(pq.read_table(pa.BufferReader(data)), of.size)
            self._tables.put((of.uri, of.version), kept)
        return kept


def score_columns(table: HeatTable) -> dict[str, list[Any]]:
    """Tiles by column: where they lie in level-0 pixels, score, flag and error."""
    x, y, width, height = table.boxes.T.tolist() if len(table.boxes) else ([], [], [], [])
    score = [None if np.isnan(value) else value for value in table.score.tolist()]
    rest = {
        name: table.table[name].to_pylist() if name in table.table.column_names else [None] * len(score)
        for name in ("flag", "error")
    }
    return {"x": x, "y": y, "width": width, "height": height, "score": score} | rest
