"""Parquet tile sets: one file, or the folder that `uadray tile` writes. Read by row groups, never whole.

A folder has, besides other things that are left alone:

tileset.json                            what it is: `TileSet`
part-<slide_id>-<version>-<n>.parquet   shards of one slide each, schema `TILE_IMAGES`
slides/<slide_id>.json                  the commit of a slide, see `uadray.tilesets.cutting`
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from uadray.config import Config
from uadray.errors import InputError, UadrayError
from uadray.schemas import TILES
from uadray.storage import objects
from uadray.tiles.spec import TileSpec

TILESET = "tileset.json"

TILE_IMAGES = pa.schema(
    [
        *TILES,
        pa.field("mpp", pa.float64(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
    ]
)
"""A tile with its pixels. `format` says what the bytes in `image` are: `jpeg` as they lie in the slide's file, or
`jpeg 4:4:4 q90` where they were encoded."""

GROUP_TILES = 64
"""Tiles of a row group: a megabyte of JPEG at 256 px, which is what is read at once."""

FOREIGN_RUNS = 16
"""A row group of a foreign file is read in at most so many runs: to reach a run, all before it is read too."""


class SlideTiles(Config):
    """What a tile set holds of one slide.

    Attributes:
        slide_id: of the manifest.
        fingerprint: of spec, options and the slide's version.
        etag: the version of the slide's file.
        label: of the manifest.
        shards: names of its files, in order.
        rows: tiles in each.
        kept: tiles whose bytes are the slide's own.
        unreadable: tiles that could not be read, and are not there.
        flagged: tiles that are left out for what their pixels show (`TileSpec.quality`).
        bytes: of all its shards.
    """

    slide_id: str
    fingerprint: str
    etag: str
    label: str | None
    shards: list[str]
    rows: list[int]
    kept: int
    unreadable: int
    flagged: int
    bytes: int

    @property
    def n_tiles(self) -> int:
        """Tiles in all its shards."""
        return sum(self.rows)


class TileSet(Config):
    """What `tileset.json` says.

    Attributes:
        kind: tells it from other JSON.
        version: of the layout.
        spec: how tiles were cut.
        options: what else decides what is in it: tiles a slide, seed, quality.
        fingerprint: of spec and options while it is written, of all slides when it is finished.
        finished: False until every slide has been tried.
        group_tiles: tiles of a row group.
        slides: those that are in it.
        failed: reason and message by slide id.
    """

    kind: str = Field(default="uadray-tileset", pattern="^uadray-tileset$")
    version: int = 1
    spec: TileSpec
    options: dict[str, int | None]
    fingerprint: str
    finished: bool
    group_tiles: int = GROUP_TILES
    slides: list[SlideTiles] = Field(default_factory=list)
    failed: dict[str, str] = Field(default_factory=dict)

    @property
    def n_tiles(self) -> int:
        """Tiles of all slides."""
        return sum(slide.n_tiles for slide in self.slides)


@dataclass(frozen=True)
class Run:
    """Consecutive rows of one row group.

    Attributes:
        uri: of the Parquet file.
        group: the row group.
        start: first row, within the group.
        stop: after the last.
        first_tile: the number of the first row within its slide, or within the file.
    """

    uri: str
    group: int
    start: int
    stop: int
    first_tile: int


def is_folder(uri: str) -> bool:
    """Whether `uri` is a folder that `uadray tile` wrote."""
    return objects.exists(objects.join(uri, TILESET))


def read_tile_set(uri: str) -> TileSet:
    """What is in a folder of shards.

    Raises:
        InputError: it is not finished, or not of this version.
    """
    found = parse_tile_set(uri)
    if not found.finished:
        raise InputError(f"tile set {uri} is not finished; run the same `uadray tile` command again")
    return found


def parse_tile_set(uri: str) -> TileSet:
    """As `read_tile_set`, of an unfinished one too."""
    where = objects.join(uri, TILESET)
    try:
        found = TileSet.model_validate_json(objects.read_bytes(where))
    except ValidationError as error:
        raise InputError(f"{where}: not a tile set of this version of uadray: {error.errors()[0]['msg']}") from error
    if found.version != 1:
        raise InputError(f"{where}: version {found.version} is not known here; make it again with `uadray tile`")
    return found


def folder_runs(uri: str, found: TileSet) -> list[tuple[int, Run]]:
    """Every row group of a folder: number of the slide within `found.slides`, and the run. Opens nothing."""
    runs = []
    for number, slide in enumerate(found.slides):
        first = 0
        for shard, rows in zip(slide.shards, slide.rows, strict=True):
            where = objects.join(uri, shard)
            for group, start in enumerate(range(0, rows, found.group_tiles)):
                count = min(found.group_tiles, rows - start)
                runs.append((number, Run(where, group, 0, count, first + start)))
            first += rows
    return runs


def file_runs(uri: str) -> list[Run]:
    """A foreign Parquet file in runs of at least `GROUP_TILES` rows; reads its footer alone."""
    footer, runs, first = parquet(uri).metadata, [], 0
    for group in range(footer.num_row_groups):
        rows = footer.row_group(group).num_rows
        step = max(GROUP_TILES, -(-rows // FOREIGN_RUNS))
        runs += [Run(uri, group, i, min(i + step, rows), first + i) for i in range(0, rows, step)]
        first += rows
    return runs


def read_run(run: Run, columns: tuple[str, ...] = ("image", "tissue_fraction", "label")) -> Iterator[dict[str, Any]]:
    """The rows of a run; columns that the file does not have are None."""
    file = parquet(run.uri)
    there = [name for name in columns if name in file.schema_arrow.names]
    row = 0
    with _explained(run.uri):
        for batch in file.iter_batches(batch_size=GROUP_TILES, row_groups=[run.group], columns=there):
            if row + len(batch) > run.start:
                wanted = batch.slice(max(0, run.start - row), run.stop - max(row, run.start))
                for values in wanted.to_pylist():
                    yield dict.fromkeys(columns) | values
            row += len(batch)
            if row >= run.stop:
                return


def parquet(uri: str) -> pq.ParquetFile:
    """Open a Parquet file, to be read in ranges; only its footer is read now.

    Raises:
        InputError: there is none, or it is none.
    """
    filesystem, path = objects.pyarrow_filesystem(uri)
    with _explained(uri):
        return pq.ParquetFile(path, filesystem=filesystem)


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"tile set {uri}: no such file") from error
    except pa.ArrowInvalid as error:
        raise InputError(f"tile set {uri}: not a Parquet file: {error}") from error
    except OSError as error:
        raise UadrayError(f"tile set {uri}: cannot be read: {' '.join(str(error).split())[:300]}") from error
