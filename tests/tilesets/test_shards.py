"""Parquet files are read by row groups, never whole."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uadray.tilesets import shards
from uadray.tilesets.containers import list_tiles, read_tiles


def _bytes_read() -> int:
    """Bytes that this process has read by system calls so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def test_of_a_large_parquet_only_the_wanted_row_groups_are_read(tmp_path: Path) -> None:
    path = tmp_path / "large.parquet"
    rng = np.random.default_rng(0)
    images = [rng.bytes(20_000) for _ in range(1000)]  # no pictures: 20 MB that do not compress
    table = pa.table({"tile_id": [f"{i:04d}" for i in range(1000)], "image": images})
    pq.write_table(table, path, row_group_size=50, use_dictionary=False)
    refs = list_tiles(str(path))
    before = _bytes_read()
    errors = [error for _, _, error in read_tiles(str(path), [refs[i] for i in (420, 3, 401, 447)])]
    assert [str(error).partition(";")[0] for error in errors] == [
        f"{i:04d}: not an image that can be decoded" for i in (420, 3, 401, 447)
    ]
    assert 2 * 1_000_000 < _bytes_read() - before < 3 * 1_000_000, "two row groups of 1 MB"


def test_a_parquet_file_is_cut_into_ranges(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"tile_id": [str(i) for i in range(3100)], "image": [b""] * 3100}), path, row_group_size=3000
    )
    ranges = shards.file_ranges(str(path))
    assert [(r.group, r.start, r.stop, r.first_tile) for r in (ranges[0], ranges[1], ranges[-1])] == [
        (0, 0, 188, 0),
        (0, 188, 376, 188),
        (1, 64, 100, 3064),
    ]
    assert len(ranges) == 18
    rows = [values["tile_id"] for of_range in ranges for values in shards.read_range(of_range, ("tile_id",))]
    assert rows == [str(i) for i in range(3100)]
    assert next(shards.read_range(ranges[0], ("image", "label"))) == {"image": b"", "label": None}
