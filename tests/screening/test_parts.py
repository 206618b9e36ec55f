"""The rows that cross from readers to scorers and to the driver."""

import json

import pyarrow as pa

from uadray.schemas import TILES
from uadray.screening.parts import PARTS, failed_part, from_ipc, part_row, to_ipc


def test_a_failed_part_is_one_row_of_one_line() -> None:
    table = failed_part(7, "unreadable", "two\nlines  and " + "x" * 900)
    assert table.schema == PARTS
    (row,) = table.to_pylist()
    header = json.loads(row["header"])
    assert (row["slide"], row["part"], header["reason"]) == (7, -1, "unreadable")
    assert header["message"].startswith("two lines and xxx")
    assert len(header["message"]) == 500
    assert row["tiles"] == row["pixels"] == b""


def test_tables_cross_as_bytes() -> None:
    values = [["s/0"], ["s"], [0], [0], [8], [8], [0.5], ["border"]]
    tiles = pa.table(dict(zip(TILES.names, values, strict=True)), schema=TILES)
    assert from_ipc(to_ipc(tiles)) == tiles
    assert from_ipc(to_ipc(tiles.slice(0, 0))) == TILES.empty_table()
    (row,) = part_row(0, 0, header={"n_parts": 1}, tiles=tiles, pixels=b"abc").to_pylist()
    assert from_ipc(row["tiles"]) == tiles
