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
"""A tile with its picture. `format` says what the bytes in `image` are: `jpeg` for those of the slide's file,
`jpeg 4:4:4 q90` for a tile that was encoded with quality 90."""

FOREIGN_RANGES = 16
"""A row group of a file that uadray did not write is read in at most so many ranges: to reach the rows of one, all
rows before it are read too."""


@dataclass(frozen=True)
class RowRange:
    """Consecutive rows of one row group.

    Attributes:
        uri: of the Parquet file.
        group: number of the row group.
        start: first row, within the group.
        stop: after the last.
        first_tile: the number of the first row within its slide, or within a file that uadray did not write.
    """

    uri: str
    group: int
    start: int
    stop: int
    first_tile: int


def folder_ranges(uri: str, tile_set: TileSet) -> list[tuple[int, RowRange]]:
    """Each row group of a folder, with the number of its slide within `tile_set.slides`. Opens no file."""
    ranges = []
    for number, slide in enumerate(tile_set.slides):
        first = 0
        for shard, n_rows in zip(slide.shards, slide.rows, strict=True):
            shard_uri = objects.join(uri, shard)
            for group, start in enumerate(range(0, n_rows, tile_set.group_tiles)):
                count = min(tile_set.group_tiles, n_rows - start)
                ranges.append((number, RowRange(shard_uri, group, 0, count, first + start)))
            first += n_rows
    return ranges


def file_ranges(uri: str) -> list[RowRange]:
    """The rows of a single Parquet file, in ranges of `GROUP_TILES` or more. Reads only its footer.

    Raises:
        InputError: there is no such file, or it is not Parquet.
    """
    footer, ranges, first = parquet(uri).metadata, [], 0
    for group in range(footer.num_row_groups):
        n_rows = footer.row_group(group).num_rows
        step = max(GROUP_TILES, -(-n_rows // FOREIGN_RANGES))
        ranges += [RowRange(uri, group, i, min(i + step, n_rows), first + i) for i in range(0, n_rows, step)]
        first += n_rows
    return ranges


def read_range(
    rows: RowRange, columns: tuple[str, ...] = ("image", "tissue_fraction", "label")
) -> Iterator[dict[str, Any]]:
    """The rows of a range as dicts; a column that the file does not have is None.

    Raises:
        InputError: there is no such file, or it is not Parquet.
        UadrayError: it cannot be read.
    """
    file = parquet(rows.uri)
    present = [name for name in columns if name in file.schema_arrow.names]
    at = 0
    with _explained(rows.uri):
        for batch in file.iter_batches(batch_size=GROUP_TILES, row_groups=[rows.group], columns=present):
            if at + len(batch) > rows.start:
                wanted = batch.slice(max(0, rows.start - at), rows.stop - max(at, rows.start))
                for values in wanted.to_pylist():
                    yield dict.fromkeys(columns) | values
            at += len(batch)
            if at >= rows.stop:
                return


def parquet(uri: str) -> pq.ParquetFile:
    """Open a Parquet file to read ranges of it; only its footer is read now.

    Raises:
        InputError: there is no such file, or it is not Parquet.
    """
    filesystem, path = objects.pyarrow_filesystem(uri)
    with _explained(uri):
        return pq.ParquetFile(path, filesystem=filesystem)


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Errors of pyarrow as uadray's, with the tile set's name."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"tile set {uri}: no such file") from error
    except pa.ArrowInvalid as error:
        raise InputError(f"tile set {uri}: not a Parquet file: {error}") from error
    except OSError as error:
        raise UadrayError(f"tile set {uri}: cannot be read: {' '.join(str(error).split())[:300]}") from error
