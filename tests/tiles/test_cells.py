"""Cells are means over areas, and cross as a column that tables of other detectors do not have."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uadray.schemas import CELLS
from uadray.tiles.cells import area_means, cells_of, fewer, smoothed, with_cells, without_cells


def test_means_over_areas_by_hand() -> None:
    assert area_means(4, 2).tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    # 5 numbers in 3 cells: each covers 5/3, the middle one a third of the second, the third, a third of the fourth.
    third = [[0.6, 0.4, 0, 0, 0], [0, 0.2, 0.6, 0.2, 0], [0, 0, 0, 0.4, 0.6]]
    np.testing.assert_allclose(area_means(5, 3), third, atol=1e-6)
    assert area_means(3, 3).tolist() == np.eye(3).tolist()


def test_fewer_cells_are_the_means_of_more() -> None:
    cells = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
    assert fewer(cells, 2).tolist() == [[[2.5, 4.5], [10.5, 12.5]], [[18.5, 20.5], [26.5, 28.5]]]


def test_smoothed_cells_by_hand() -> None:
    """Each takes a quarter of its neighbours on both sides; at the edge of the tile, of itself."""
    row = np.array([[0, 8, 0]], np.float32).repeat(3, 0)[None]
    assert smoothed(row).tolist() == [[[2, 4, 2]] * 3]
    assert smoothed(row.transpose(0, 2, 1)).tolist() == [[[2] * 3, [4] * 3, [2] * 3]]
    assert smoothed(np.full((2, 1, 1), 5, np.float32)).tolist() == [[[5]], [[5]]]
    bad = smoothed(np.stack([np.full((2, 2), np.nan), np.ones((2, 2))]).astype(np.float32))
    assert np.isnan(bad[0]).all()
    assert (bad[1] == 1).all()


def _written(tiles: pa.Table) -> pa.Table:
    sink = io.BytesIO()
    pq.write_table(tiles, sink, compression="zstd")
    return pq.read_table(io.BytesIO(sink.getvalue()))


def test_cells_survive_a_file_to_three_digits() -> None:
    cells = np.random.default_rng(0).normal(0, 100, (50, 6, 6)).astype(np.float32)
    cells[3, 2, 2], cells[7] = np.inf, np.nan
    tiles = with_cells(pa.table({"score": np.arange(50.0)}), cells)
    assert tiles.schema.field("cells") == CELLS
    found = cells_of(_written(tiles))
    assert found is not None
    assert found.dtype == np.float32
    is_good = np.isfinite(cells).all((1, 2))
    np.testing.assert_allclose(found[is_good], cells[is_good], rtol=2**-11)
    assert np.isnan(found[~is_good]).all()
    assert tiles["cells"].null_count == (~is_good).sum() == 2


@pytest.mark.parametrize("tiles", [
    pa.table({"score": [1.0, 2.0]}),
    pa.table({"score": [1.0, 2.0], "cells": pa.nulls(2, CELLS.type)}),
    pa.table({"score": pa.nulls(0, pa.float64()), "cells": pa.nulls(0, CELLS.type)}),
])  # fmt: skip
def test_tables_of_other_detectors_have_none(tiles: pa.Table) -> None:
    assert cells_of(_written(tiles)) is None
    assert without_cells(tiles).column_names == ["score"]


def test_slices_and_chunks_keep_each_tile_its_cells() -> None:
    cells = np.arange(24, dtype=np.float32).reshape(6, 2, 2)
    tiles = with_cells(pa.table({"score": np.arange(6.0)}), cells)
    without = pa.table({"score": [9.0]})
    parts = [tiles.slice(4), without, tiles.slice(1, 2)]
    found = cells_of(pa.concat_tables(parts, promote_options="default"))
    np.testing.assert_array_equal(found, cells[[4, 5, 0, 1, 2]] * [[[1]], [[1]], [[np.nan]], [[1]], [[1]]])  # type: ignore[arg-type]
