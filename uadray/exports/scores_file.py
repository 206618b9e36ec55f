"""The slides of a scores.parquet, which `uadray score` sorts by slide: read a few thousand rows at a time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uadray.errors import InputError
from uadray.exports.exported_slide import checked_tiles
from uadray.schemas import CELLS, TILE_SCORES
from uadray.storage import objects


def slides_of_scores(uri: str) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    """Each slide of a scores.parquet, whose rows are sorted by slide: a row group is read at a time.

    Raises:
        InputError: it is no such file, or its tiles are of no slides, or not sorted.
    """
    filesystem, path = objects.pyarrow_filesystem(uri)
    etag = objects.stat(uri).etag
    try:
        with filesystem.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            if not {"slide_id", *TILE_SCORES.names} <= set(file.schema_arrow.names):
                raise InputError(f"{uri}: not the scores of slides as `uadray score` writes them")
            yield from _runs(file, uri, etag)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{uri}: not a Parquet file of scores: {error}") from error


def _runs(file: pq.ParquetFile, uri: str, etag: str) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    rest: pa.Table | None = None
    done = set[str]()
    wanted = [name for name in (*TILE_SCORES.names, CELLS.name) if name in file.schema_arrow.names]
    for batch in file.iter_batches(batch_size=65_536, columns=wanted):
        rows = pa.Table.from_batches([batch])
        rest = rows if rest is None else pa.concat_tables([rest, rows])
        ids = rest["slide_id"].to_numpy(zero_copy_only=False)
        ends = np.flatnonzero(ids[1:] != ids[:-1]) + 1
        start = 0
        for end in ends.tolist():
            yield _of_scores(rest.slice(start, end - start), uri, etag, done)
            start = end
        rest = rest.slice(start)
    if rest is not None and len(rest):
        yield _of_scores(rest, uri, etag, done)


def _of_scores(rows: pa.Table, uri: str, etag: str, done: set[str]) -> tuple[dict[str, Any], pa.Table]:
    slide_id = rows["slide_id"][0].as_py()
    if not slide_id:
        raise InputError(f"{uri}: its tiles are of a tile set and not of slides; only slides can be exported")
    if slide_id in done:
        raise InputError(f"{uri}: the rows of slide {slide_id} are not together; sort them by slide_id")
    done.add(slide_id)
    decision = {"slide_id": slide_id, "state": "scored", "fingerprint": etag}
    return decision, checked_tiles(rows.combine_chunks(), slide_id)
