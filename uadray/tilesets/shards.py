"""Tiles in Parquet: one file, or the shards of a folder that `uadray tile` wrote. Read by row groups, never whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uadray.errors import InputError, UadrayError
from uadray.schemas import TILES
from uadray.storage import objects
from uadray.tilesets.records import GROUP_TILES, TileSet

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

FOREIGN_RUNS = 16
"""A row group of a foreign file is read in at most so many runs: to reach a run, all before it is read too."""


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
