"""Which files of an export are there already, and of which decision: so that a run goes on after whatever stopped it.

    .uadray-export/<random>.parquet    rows: the slide, what its files were made of (a fingerprint), and their sizes

A file is current where the newest row of its slide has the fingerprint that it should have, and all its files are
listed with their sizes. Rows are put after their files, every few seconds, each time as a new object; a run that is
killed makes again what it made since. When a run ends there is one object. Files are put whole or not at all.
"""

import io
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uadray.storage import objects

RECORDS = ".uadray-export"

PUT_EVERY_S = 2.0
"""Rows that wait longer are put."""

_ROWS = pa.schema(
    [
        ("slide_id", pa.string()),
        ("fingerprint", pa.string()),
        ("files", pa.map_(pa.string(), pa.int64())),
        ("at", pa.float64()),
    ]
)


@dataclass
class MadeFiles:
    """What is known of an export's folder. One process writes; see `record`.

    Attributes:
        folder: of the export.
        sizes: of the files that are listed there, by their path below it.
        rows: of each slide the newest row: its fingerprint, and the sizes of its files.
    """

    folder: str
    sizes: dict[str, int] = field(default_factory=dict)
    rows: dict[str, tuple[str, Mapping[str, int]]] = field(default_factory=dict)
    _waiting: list[dict[str, Any]] = field(default_factory=list)
    _put_at: float = field(default_factory=time.monotonic)
    _objects: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: str) -> "MadeFiles":
        """List the files and read the records."""
        made = cls(folder)
        root = objects.join(folder, "").rstrip("/") + "/"
        newest: dict[str, tuple[float, str, Mapping[str, int]]] = {}
        for info in objects.list_many(folder):
            path = info.uri.removeprefix(root)
            if not path.startswith(f"{RECORDS}/"):
                made.sizes[path] = info.size
                continue
            made._objects.append(info.uri)
            for row in _read(info.uri):
                before = newest.get(row["slide_id"])
                if before is None or before[0] <= row["at"]:
                    newest[row["slide_id"]] = (row["at"], row["fingerprint"], dict(row["files"]))
        made.rows = {slide_id: row[1:] for slide_id, row in newest.items()}
        return made

    def is_current(self, slide_id: str, fingerprint: str) -> bool:
        """Whether all files of a slide are there as they should be."""
        row = self.rows.get(slide_id)
        return row is not None and row[0] == fingerprint and all(self.sizes.get(p) == s for p, s in row[1].items())

    def record(self, slide_id: str, fingerprint: str, files: Mapping[str, int]) -> None:
        """Note that a slide's files were put; `files` has their sizes."""
        self.rows[slide_id] = (fingerprint, files)
        self.sizes.update(files)
        self._waiting.append(
            {"slide_id": slide_id, "fingerprint": fingerprint, "files": dict(files), "at": time.time()}
        )
        if time.monotonic() - self._put_at >= PUT_EVERY_S:
            self.put()

    def put(self) -> None:
        """Put the rows that wait."""
        if self._waiting:
            self._objects.append(self._write(self._waiting))
            self._waiting = []
        self._put_at = time.monotonic()

    def close(self) -> None:
        """Put what waits; of many records make one."""
        self.put()
        if len(self._objects) > 1:
            rows = [
                {"slide_id": slide_id, "fingerprint": fingerprint, "files": dict(files), "at": time.time()}
                for slide_id, (fingerprint, files) in self.rows.items()
            ]
            whole = self._write(rows)
            objects.delete_all(self._objects)
            self._objects = [whole]

    def _write(self, rows: list[dict[str, Any]]) -> str:
        uri = objects.join(self.folder, RECORDS, f"{secrets.token_hex(8)}.parquet")
        columns = {name: [row[name] for row in rows] for name in ("slide_id", "fingerprint", "at")}
        files = pa.array([list(row["files"].items()) for row in rows], _ROWS.field("files").type)
        sink = io.BytesIO()
        pq.write_table(pa.table(columns | {"files": files}).select(_ROWS.names).cast(_ROWS), sink, compression="zstd")
        objects.write_bytes(uri, sink.getvalue())
        return uri


def _read(uri: str) -> list[dict[str, Any]]:
    """The rows of one record; none of one that cannot be read, whose files are then made again."""
    try:
        table = pq.read_table(pa.BufferReader(objects.read_bytes(uri)))
        return table.select(_ROWS.names).cast(_ROWS).to_pylist()  # type: ignore[no-any-return]
    except (pa.ArrowException, KeyError, ValueError):
        return []
