"""Rows of a stream come as they are there, and closing ends what still runs."""

import threading
from collections.abc import Iterator

import pyarrow as pa
import pytest

from uadray.cluster.rows import StreamError, rows_of


class Tables:
    """Some tables; between two it waits for `more`, or until it is to end."""

    def __init__(self, tables: list[pa.Table | Exception]) -> None:
        self.tables, self.more, self.stopped = tables, threading.Event(), False

    def __call__(self, ended: threading.Event) -> Iterator[pa.Table]:
        for table in self.tables:
            if isinstance(table, Exception):
                raise table
            yield table
            while not self.more.wait(0.1):
                if ended.is_set():
                    self.stopped = True
                    return


def test_rows_come_in_order_and_none_while_there_are_none() -> None:
    tables = Tables([pa.table({"slide": [0, 1]}), pa.table({"slide": [2]})])
    rows = rows_of(tables)
    assert [next(rows) for _ in range(3)] == [{"slide": 0}, {"slide": 1}, None]
    tables.more.set()
    assert [row for row in rows if row is not None] == [{"slide": 2}]


def test_an_error_of_rays_is_one_line() -> None:
    error = RuntimeError("ray::read() (pid=1, ip=10.0.0.3)\n  File x\nOSError: no disk\n")
    with pytest.raises(StreamError, match=r"^OSError: no disk \(node 10\.0\.0\.3\)$"):
        list(rows_of(Tables([error])))


def test_a_caller_that_stops_ends_what_runs() -> None:
    tables = Tables([pa.table({"slide": [i]}) for i in range(100)])
    rows = rows_of(tables)
    next(rows)
    rows.close()
    assert tables.stopped
    assert not [thread for thread in threading.enumerate() if thread.name == "uadray-stream"]
