"""What has been decided: one JSON a slide, written last and once, and the summary for people.

    run.json                          whose screening this is: bundle, calibration, fingerprint
    tiles/<slide_id>.parquet          tile scores
    masks/<slide_id>.geojson          tissue and flagged regions, for QuPath; edited ones go in by `--mask-dir`
    evidence/<slide_id>/*.jpg         thumbnail, heatmap, the most abnormal tiles beside their reconstructions
    decisions/<slide_id>.json         the commit: a slide is done when this exists for this run and slide version
    segments/*.parquet                many decisions in one object, see `decision_segments`
    drivers/, leases/                 who is at work, and on what; see `heartbeats` and `leases`
    decisions.parquet, worklist.html, worklist.csv, summary.json

A decision is put only where none is (a conditional put in S3), after everything it refers to. Only the holder of a
slide's lease may put one in another's place (If-Match): where the slide's file was replaced, where a failed slide is
tried again, and where a driver that had lost the slide came late. Tile scores are written under the same conditions, so
that a decision stands beside the tile scores it was made from, whoever was paused between which two requests. Pictures
and masks are not: those of a driver that stood still while it wrote them may stay; they show the same tiles.
"""

import io
import json
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from uadray import __version__, provenance
from uadray.errors import InputError, NotFoundError, UadrayError, WorkError
from uadray.reports import pictures, worklist
from uadray.reports.heatmap import heatmap
from uadray.schemas import SLIDE_DECISIONS
from uadray.screening import decision_segments, heartbeats, leases, replaced_slides
from uadray.screening.leases import REQUESTS
from uadray.slides.manifest import SlideRow
from uadray.storage import objects
from uadray.tiles.mask_folder import SUFFIX, mask_uri

if TYPE_CHECKING:
    from uadray.decisions.aggregation import Calibration
    from uadray.detectors.bundle import Bundle
    from uadray.screening.job import SlideResult

RUN, DECISIONS, WORKLIST = "run.json", "decisions.parquet", "worklist.html"

FRUITLESS_ROUNDS = 5
"""Rounds in a row without an end of any slide. One is usual: a dead driver's slides are held until it is buried."""

log = logging.getLogger(__name__)

STATES = ("scored", "not_assessable", "failed")


class Ledger:
    """The output folder of one screening, and this driver's work on it. A context manager: inside, slides are claimed.

    Attributes:
        tenure: in whose name the present round's slides are claimed.
        withdrawn: slide -> etag of its decision that is to be made anew.
        open: slides of this run that are not known to be decided.
        given_back: slide -> why this driver leaves it undecided; another run may try it.
    """

    tenure: leases.Tenure

    def __init__(
        self, out: str, *, run: dict[str, Any], bundle: "Bundle", calibration: "Calibration", lease_s: float
    ) -> None:
        self.out, self.run, self.bundle, self.calibration = out, run, bundle, calibration
        self.withdrawn: dict[str, str] = {}
        self.open: set[str] = set()
        self.given_back: dict[str, str] = {}
        self._committing = threading.Lock()
        self._mask_etags: dict[str, str] = {}
        self._driver = heartbeats.Driver(out, lease_s=lease_s)
        self._pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="uadray-ledger")
        self._written: dict[str, bytes] = {}
        self._segment_rows = decision_segments.SEGMENT_ROWS

    def __enter__(self) -> Self:
        self._driver.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._driver.__exit__(*error)
        self._pool.shutdown()

    def pending(self, rows: Sequence[SlideRow], *, retry_failed: bool = False) -> list[SlideRow]:
        """The slides without a decision for this run and their present version, in order.

        A decision about an older version of a slide, and with `retry_failed` one of `failed`, is withdrawn: it stays
        where it is until the new one takes its place.
        """
        found = decision_segments.read_decisions(self.out)
        decision_segments.tidy(self.out, found, whole=False)
        names = ("slide_id", "state", "fingerprint", "mask", "decision_etag")
        known = {row["slide_id"]: row for row in found.table.select(names).to_pylist()}
        decided = [row for row in rows if row.slide_id in known]
        sound = [row for row in decided if known[row.slide_id]["state"] != "failed"]
        folder = self.bundle.tiles.mask_dir
        self._mask_etags = _mask_etags(folder) if folder else _kept_masks(sound, known)
        again = replaced_slides.replaced(
            sound, lambda row, etag: self.slide_fingerprint(row, etag) == known[row.slide_id]["fingerprint"]
        )
        if retry_failed:
            again += [row for row in decided if known[row.slide_id]["state"] == "failed"]
        self.withdrawn = {row.slide_id: known[row.slide_id]["decision_etag"] for row in again}
        if not folder:  # what is screened anew is screened without
            self._mask_etags = {key: etag for key, etag in self._mask_etags.items() if key not in self.withdrawn}
        return [row for row in rows if row.slide_id not in known or row.slide_id in self.withdrawn]

    def rounds(
        self, rows: Sequence[SlideRow], *, retry_failed: bool = False, waiting: Callable[[], None] = lambda: None
    ) -> Iterator[list[SlideRow]]:
        """Yield what there is to do until every slide is decided: first all that is pending, then what others leave.

        Each slide of a round is to be claimed (`leases.claim`, with `tenure` and `withdrawn`), then committed where it
        is ours, or passed over. In between this waits for other drivers as long as they live, and calls `waiting` at
        every look.
        """
        todo = self.pending(rows, retry_failed=retry_failed)
        self.open = {row.slide_id for row in todo}
        if not self._driver.alone:  # who comes later does not run after the others
            random.Random(self._driver.id).shuffle(todo)  # noqa: S311 - no secret
        fruitless = 0
        while todo:
            self.tenure = self._driver.tenure()
            before = len(self.open) - len(self.given_back)
            yield todo
            fruitless = fruitless + 1 if len(self.open) - len(self.given_back) == before else 0
            if fruitless == FRUITLESS_ROUNDS:
                raise WorkError(f"{self.out}: {before} slides can neither be claimed nor committed; see the log")
            todo = self._left(
                [row for row in todo if row.slide_id in self.open and row.slide_id not in self.given_back], waiting
            )

    def commit(self, result: "SlideResult", verdict: dict[str, Any]) -> bool:
        """Write a slide's tile scores and evidence, then its decision. False where the slide is another driver's.

        May be called by several threads, each with a slide of its own.
        """
        slide_id = result.row.slide_id
        if self._driver.in_doubt and not leases.holds(self.tenure, slide_id):
            return False
        tops: list[dict[str, Any]] = []
        if result.tiles is not None and result.evidence is not None:
            tops = _top_tiles(result)
            if not self._put(objects.join(self.out, "tiles", f"{slide_id}.parquet"), _parquet(result.tiles), slide_id):
                return False
            places = {f"evidence/{slide_id}/{name}": data for name, data in self._pictures(result).items()}
            places[f"masks/{slide_id}.geojson"] = result.masks
            list(self._pool.map(self._write, places, places.values()))
        elif slide_id in self.withdrawn:  # beside a failure there are no scores, those of an earlier version neither
            objects.delete(objects.join(self.out, "tiles", f"{slide_id}.parquet"))
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
            "mask": self._mask_etags.get(slide_id),
            "lease": self.tenure.id,
        }  # fmt: skip
        data = json.dumps(record, indent=1).encode()
        if not self._put(leases.decision_uri(self.out, slide_id), data, slide_id):
            return False
        if not self._driver.in_doubt or leases.holds(self.tenure, slide_id):
            leases.release(self.tenure, slide_id)
        with self._committing:
            self.open.discard(slide_id)
            self._written[slide_id] = data
            if len(self._written) >= self._segment_rows:
                self._compact()
        return True

    def give_back(self, slide_id: str, reason: str, message: str) -> None:
        """Leave a slide undecided, for what is no fault of its own: another driver, or the next run, may have it."""
        self.given_back[slide_id] = f"{reason}: {message}"
        with suppress(UadrayError):  # else its lease ends with this driver
            leases.release(self.tenure, slide_id)

    def pass_over(self, slide_id: str, outcome: str) -> None:
        """Take note of a slide that is not ours: `decided` is done, `held` is looked at again later."""
        if outcome == "decided":
            self.open.discard(slide_id)

    def finish(self, rows: Sequence[SlideRow]) -> dict[str, Any]:
        """Write decisions.parquet, the worklist and summary.json, of what is decided; returns the summary."""
        with self._committing:
            if self._written:
                self._compact()
        found = decision_segments.read_decisions(self.out)
        place = {slide_id: i for i, slide_id in enumerate(found.table["slide_id"].to_pylist())}
        decided = [row.slide_id for row in rows if row.slide_id in place and not self._is_outdated(row.slide_id)]
        decision_segments.tidy(self.out, found, whole=True)
        self._driver.sweep(set(place))
        order = pa.array([place[slide_id] for slide_id in decided], pa.int64())
        table = found.table.select(SLIDE_DECISIONS.names).take(order).cast(SLIDE_DECISIONS)
        states, verdicts = (Counter(table[name].to_pylist()) for name in ("state", "decision"))
        page = objects.join(self.out, WORKLIST)
        summary = {
            "slides": len(rows),
            **{state: states[state] for state in STATES},
            "open": len(rows) - len(decided),
            "anomalous": verdicts["anomalous"],
            "failures": _reasons(table),
        }
        why = {"why_failed": _first_failures(table)} if states["failed"] else {}
        objects.write_bytes(objects.join(self.out, DECISIONS), _parquet(table))
        html = worklist.render_worklist(table, title=f"Worklist: {self.bundle.name}", run=self._page_facts(len(rows)))
        objects.write_bytes(page, html.encode(), content_type="text/html; charset=utf-8")
        objects.write_bytes(
            objects.join(self.out, "worklist.csv"), worklist.worklist_csv(table).encode(), content_type="text/csv"
        )
        objects.write_bytes(objects.join(self.out, "summary.json"), json.dumps(summary, indent=1).encode())
        return summary | why | {"worklist": page}

    def slide_fingerprint(self, row: SlideRow, etag: str | None) -> str:
        """Changes with the bundle, the calibration, the slide's file, its mpp and its edited mask."""
        mask = [self._mask_etags[row.slide_id]] if row.slide_id in self._mask_etags else []
        return provenance.fingerprint([self.run["fingerprint"], str(row.mpp), str(etag), *mask])

    def _is_outdated(self, slide_id: str) -> bool:
        """Whether the decision that is there is about an older version of the slide."""
        return slide_id in self.withdrawn and slide_id in self.open

    def _left(self, rows: list[SlideRow], waiting: Callable[[], None]) -> list[SlideRow]:
        """Wait until slides that others were at are left undecided, and return these; empty where all are decided."""
        while rows:
            free = self._driver.free([row.slide_id for row in rows])
            undecided = self._undecided(free)
            self.open -= free - undecided
            rows = [row for row in rows if row.slide_id in self.open]
            if undecided:
                return [row for row in rows if row.slide_id in undecided]
            waiting()
            if rows:
                self._driver.pause()
        return []

    def _undecided(self, slide_ids: set[str]) -> set[str]:
        """Those without a decision, or with the one that was withdrawn: by a listing, or singly where they are few."""
        if len(slide_ids) > REQUESTS:
            etags = {slide_id: info.etag for slide_id, info in decision_segments.list_decisions(self.out).items()}
        else:
            uris = {slide_id: leases.decision_uri(self.out, slide_id) for slide_id in slide_ids}
            found = zip(uris, self._pool.map(leases.version, uris.values()), strict=True)
            etags = {slide_id: there[0] for slide_id, there in found if there is not None}
        return {i for i in slide_ids if i not in etags or etags[i] == self.withdrawn.get(i)}

    def _put(self, uri: str, data: bytes, slide_id: str) -> bool:
        """Put an object where none is, or in place of one that is there, if the slide is still ours then."""
        while not objects.put_if_absent(uri, data):
            try:
                etag = objects.stat(uri).etag  # before the lease: whoever has taken it since writes after this version
            except NotFoundError:
                continue
            if not leases.holds(self.tenure, slide_id):
                return False
            if objects.replace_if_match(uri, data, etag):
                break
        return True

    def _write(self, place: str, data: bytes) -> None:
        kind = "image/jpeg" if place.endswith(".jpg") else "application/geo+json"
        objects.write_bytes(objects.join(self.out, *place.split("/")), data, content_type=kind)

    def _compact(self) -> None:
        n_decided = decision_segments.compact(self.out, self._written)
        self._written = {}
        self._segment_rows = max(decision_segments.SEGMENT_ROWS, int(decision_segments.SEGMENT_SHARE * n_decided))

    def _pictures(self, result: "SlideResult") -> dict[str, bytes]:
        preview = cv2.imdecode(np.frombuffer(result.preview, np.uint8), cv2.IMREAD_COLOR_RGB)
        width, height = result.header["size_level0_px"]
        heat = heatmap(
            np.asarray(preview, dtype=np.uint8), result.tiles, level0_size=(width, height),
            low=self.calibration.tile_median, high=self.calibration.tile_high, threshold=self.calibration.tile_p99,
        )  # fmt: skip
        files = {"thumbnail.jpg": result.preview, "heatmap.jpg": pictures.encode_jpeg(heat)}
        for place, row in enumerate(result.evidence.to_pylist() if result.evidence is not None else ()):
            files |= {f"tile_{place}.jpg": row["tile"], f"reconstruction_{place}.jpg": row["reconstruction"]}
        return files

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


def open_ledger(
    out: str, *, bundle: "Bundle", calibration: "Calibration", lease_s: float = heartbeats.LEASE_S
) -> Ledger:
    """Claim an output folder for this bundle and calibration, or go on with it. `lease_s`: see `heartbeats`.

    Raises:
        InputError: it belongs to another, or its store does not honour conditional puts.
    """
    run = {
        "fingerprint": provenance.fingerprint([bundle.id, calibration.id]),
        "bundle_id": bundle.id,
        "bundle": bundle.name,
        "detector": bundle.detector.kind,
        "calibration_id": calibration.id,
        "tiles": bundle.tiles.model_dump(),
        "uadray_version": __version__,
        "commit": provenance.commit(),
        "started": _now(),
    }
    where = objects.join(out, RUN)
    if not objects.exists(where):
        objects.check_conditional_puts(out)  # all that follows rests on them
    if not objects.put_if_absent(where, json.dumps(run, indent=1).encode()):
        before = json.loads(objects.read_bytes(where))
        if before["fingerprint"] != run["fingerprint"]:
            raise InputError(
                f"{out} holds a screening with bundle {before['bundle_id']}, calibration {before['calibration_id']}; "
                f"this is bundle {bundle.id} and calibration {calibration.id}: use another --out"
            )
        run = before
    return Ledger(out, run=run, bundle=bundle, calibration=calibration, lease_s=lease_s)


def _reasons(table: pa.Table) -> dict[str, int]:
    """How many slides failed, by reason, the most frequent first."""
    failed = table.filter(pc.equal(table["state"], "failed"))
    return dict(Counter(failed["reason"].to_pylist()).most_common())


def _first_failures(table: pa.Table, n: int = 3) -> str:
    """The first slides that failed, each with its reason, and how many more."""
    failed = table.filter(pc.equal(table["state"], "failed")).select(["slide_id", "reason", "message"]).to_pylist()
    named = "; ".join(f"{row['slide_id']}: {row['reason']}: {row['message']}"[:300] for row in failed[:n])
    return named + (f" and {len(failed) - n} more" if len(failed) > n else "")


def _mask_etags(folder: str) -> dict[str, str]:
    """Etags of the masks that a run uses, by slide."""
    found = {objects.name(info.uri).removesuffix(SUFFIX): info for info in objects.list_objects(folder)}
    return {key: info.etag for key, info in found.items() if info.uri == mask_uri(folder, key)}


def _kept_masks(rows: Sequence[SlideRow], known: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Etags of the masks with which slides were decided: a run without masks leaves such decisions as they are."""
    kept = {row.slide_id: known[row.slide_id]["mask"] for row in rows if known[row.slide_id]["mask"]}
    if kept:
        log.warning(
            "%d slides were decided with edited masks and stay as they are; name the folder by --mask-dir to use it",
            len(kept),
        )
    return kept


def _top_tiles(result: "SlideResult") -> list[dict[str, Any]]:
    if result.tiles is None or result.evidence is None:
        return []
    place = {tile_id: i for i, tile_id in enumerate(result.tiles["tile_id"].to_pylist())}
    names = ("tile_id", "x_level0_px", "y_level0_px", "score")
    rows = [place[tile_id] for tile_id in result.evidence["tile_id"].to_pylist()]
    return list(result.tiles.select(names).take(pa.array(rows, pa.int64())).to_pylist())


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
