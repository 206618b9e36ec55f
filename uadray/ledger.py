"""What has been decided: one JSON a slide, written last and once, and the summary for people.

    run.json                          whose screening this is: bundle, calibration, fingerprint
    tiles/<slide_id>.parquet          tile scores
    evidence/<slide_id>/*.jpg         thumbnail, heatmap, the most abnormal tiles beside their reconstructions
    decisions/<slide_id>.json         the commit: a slide is done when this exists for this run and slide version
    decisions.parquet, worklist.html, worklist.csv, summary.json

A decision is put only where none is (a conditional put in S3), after everything it refers to.
"""

import io
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uadray import __version__, evidence, runs, storage, worklist
from uadray.aggregation import Calibration
from uadray.bundle import Bundle
from uadray.errors import InputError
from uadray.manifest import SlideRow
from uadray.schemas import SLIDE_DECISIONS

if TYPE_CHECKING:
    from uadray.screening import SlideResult

RUN, DECISIONS, WORKLIST = "run.json", "decisions.parquet", "worklist.html"
REQUESTS = 32
"""Small requests in flight while a screening is resumed."""

STATES = ("scored", "not_assessable", "failed")


class Ledger:
    """The output folder of one screening."""

    def __init__(self, out: str, *, run: dict[str, Any], bundle: Bundle, calibration: Calibration) -> None:
        self.out, self.run, self.bundle, self.calibration = out, run, bundle, calibration

    def pending(self, rows: Sequence[SlideRow], *, retry_failed: bool = False) -> list[SlideRow]:
        """The slides without a decision for this run and their present version, in order.

        A decision about an older version of a slide, and with `retry_failed` one of `failed`, is withdrawn.
        """
        folder = storage.join(self.out, "decisions")
        names = {storage.name(info.uri) for info in storage.list_objects(folder, suffixes=(".json",))}
        decided = [row for row in rows if f"{row.slide_id}.json" in names]
        with ThreadPoolExecutor(REQUESTS) as pool:
            stale = list(pool.map(lambda row: self._is_stale(row, retry_failed=retry_failed), decided))
        again = {row.slide_id for row, is_stale in zip(decided, stale, strict=True) if is_stale}
        for slide_id in again:
            storage.delete(self._decision_uri(slide_id))
        done = {row.slide_id for row in decided} - again
        return [row for row in rows if row.slide_id not in done]

    def commit(self, result: "SlideResult", verdict: dict[str, Any]) -> bool:
        """Write a slide's evidence and tile scores, then its decision. False where one was there already."""
        slide_id = result.row.slide_id
        tops: list[dict[str, Any]] = []
        if result.tiles is not None and result.evidence is not None:
            tops = _top_tiles(result)
            for name, data in self._pictures(result).items():
                storage.write_bytes(storage.join(self.out, "evidence", slide_id, name), data, content_type="image/jpeg")
            self._write_parquet(storage.join("tiles", f"{slide_id}.parquet"), result.tiles)
        header = result.header
        width, height = header.get("size_level0_px", (None, None))
        record = dict.fromkeys(SLIDE_DECISIONS.names) | verdict | {
            "slide_id": slide_id,
            "uri": result.row.uri,
            "etag": header.get("etag"),
            "mpp_level0": header.get("mpp_level0"),
            "width_level0_px": width,
            "height_level0_px": height,
            "fingerprint": self.slide_fingerprint(result.row, header.get("etag")),
            "evidence": json.dumps(tops),
        }  # fmt: skip
        return storage.put_if_absent(self._decision_uri(slide_id), json.dumps(record, indent=1).encode())

    def finish(self, rows: Sequence[SlideRow]) -> dict[str, Any]:
        """Write decisions.parquet, the worklist and summary.json; returns the summary."""
        with ThreadPoolExecutor(REQUESTS) as pool:
            records = list(pool.map(lambda row: json.loads(storage.read_bytes(self._decision_uri(row.slide_id))), rows))
        table = pa.Table.from_pylist(records, schema=SLIDE_DECISIONS)
        states, decisions = (Counter(table[name].to_pylist()) for name in ("state", "decision"))
        page = storage.join(self.out, WORKLIST)
        summary = {
            "slides": len(rows),
            **{state: states[state] for state in STATES},
            "anomalous": decisions["anomalous"],
        }
        self._write_parquet(DECISIONS, table)
        html = worklist.render_worklist(table, title=f"Worklist: {self.bundle.name}", run=self._page_facts(len(rows)))
        storage.write_bytes(page, html.encode(), content_type="text/html; charset=utf-8")
        storage.write_bytes(
            storage.join(self.out, "worklist.csv"), worklist.worklist_csv(table).encode(), content_type="text/csv"
        )
        storage.write_bytes(storage.join(self.out, "summary.json"), json.dumps(summary, indent=1).encode())
        return summary | {"worklist": page}

    def slide_fingerprint(self, row: SlideRow, etag: str | None) -> str:
        """Changes with the bundle, the calibration, the slide's file and its mpp."""
        return runs.fingerprint([self.run["fingerprint"], str(row.mpp), str(etag)])

    def _is_stale(self, row: SlideRow, *, retry_failed: bool) -> bool:
        record = json.loads(storage.read_bytes(self._decision_uri(row.slide_id)))
        if record["state"] == "failed":
            return retry_failed
        try:
            etag = storage.stat(row.uri).etag
        except storage.NotFoundError:
            return False  # what was screened stays screened
        return bool(record["fingerprint"] != self.slide_fingerprint(row, etag))

    def _decision_uri(self, slide_id: str) -> str:
        return storage.join(self.out, "decisions", f"{slide_id}.json")

    def _write_parquet(self, name: str, table: pa.Table) -> None:
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        storage.write_bytes(storage.join(self.out, name), sink.getvalue())

    def _pictures(self, result: "SlideResult") -> dict[str, bytes]:
        preview = cv2.imdecode(np.frombuffer(result.preview, np.uint8), cv2.IMREAD_COLOR_RGB)
        width, height = result.header["size_level0_px"]
        heat = evidence.heatmap(
            np.asarray(preview, dtype=np.uint8), result.tiles, level0_size=(width, height),
            low=self.calibration.tile_median, high=self.calibration.tile_high, threshold=self.calibration.tile_p99,
        )  # fmt: skip
        pictures = {"thumbnail.jpg": result.preview, "heatmap.jpg": evidence.encode_jpeg(heat)}
        for place, row in enumerate(result.evidence.to_pylist() if result.evidence is not None else ()):
            pictures |= {f"tile_{place}.jpg": row["tile"], f"reconstruction_{place}.jpg": row["reconstruction"]}
        return pictures

    def _page_facts(self, n_manifest: int) -> worklist.Run:
        return {
            "bundle": self.bundle.name,
            "detector": self.bundle.detector.kind,
            "alpha": self.calibration.alpha,
            "n_calibration": len(self.calibration.scores),
            "calibration_id": self.calibration.id,
            "version": __version__,
            "fingerprint": self.run["fingerprint"],
            "started": self.run["started"],
            "finished": _now(),
            "n_manifest": n_manifest,
            "tile_um": self.bundle.tiles.tile_px * self.bundle.tiles.mpp,
            "score_low": self.calibration.tile_median,
            "score_high": self.calibration.tile_high,
            "tile_threshold": self.calibration.tile_p99,
        }


def open_ledger(out: str, *, bundle: Bundle, calibration: Calibration) -> Ledger:
    """Claim an output folder for this bundle and calibration, or go on with it.

    Raises:
        InputError: it belongs to another.
    """
    run = {
        "fingerprint": runs.fingerprint([bundle.id, calibration.id]),
        "bundle_id": bundle.id,
        "bundle": bundle.name,
        "detector": bundle.detector.kind,
        "calibration_id": calibration.id,
        "tiles": bundle.tiles.model_dump(),
        "uadray_version": __version__,
        "commit": runs.commit(),
        "started": _now(),
    }
    where = storage.join(out, RUN)
    if not storage.put_if_absent(where, json.dumps(run, indent=1).encode()):
        before = json.loads(storage.read_bytes(where))
        if before["fingerprint"] != run["fingerprint"]:
            raise InputError(
                f"{out} holds a screening with bundle {before['bundle_id']}, calibration {before['calibration_id']}; "
                f"this is bundle {bundle.id} and calibration {calibration.id}: use another --out"
            )
        run = before
    return Ledger(out, run=run, bundle=bundle, calibration=calibration)


def _top_tiles(result: "SlideResult") -> list[dict[str, Any]]:
    if result.tiles is None or result.evidence is None:
        return []
    place = {tile_id: i for i, tile_id in enumerate(result.tiles["tile_id"].to_pylist())}
    names = ("tile_id", "x_level0_px", "y_level0_px", "score")
    rows = [place[tile_id] for tile_id in result.evidence["tile_id"].to_pylist()]
    return list(result.tiles.select(names).take(pa.array(rows, pa.int64())).to_pylist())


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
