"""The batch job: an archive -> decisions, slide by slide, resumable.

Each result is judged and committed (see `ledger`), then the summary for people is written. Kill it at any moment and
run it again: slides with a decision are left as they are.
"""

import logging
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import numpy as np
import torch
from pydantic import Field

from uadray import metrics, provenance
from uadray.cluster.nodes import Nodes
from uadray.cluster.workers import StreamConfig
from uadray.config import Config
from uadray.decisions.conformal import Calibration
from uadray.decisions.verdict import judge, used_before
from uadray.detectors.bundle import Bundle, load_detector
from uadray.detectors.detector import BATCH
from uadray.errors import AccessError, ClusterLostError, UadrayError, UnreachableError, WorkError
from uadray.screening import ledger
from uadray.screening.estimate import estimate
from uadray.screening.leases import NOT_OURS
from uadray.screening.results import Progress, scored_slides
from uadray.screening.scorer import LoadDetector
from uadray.screening.slide_reader import claimed_read_tasks
from uadray.screening.slide_result import SlideResult
from uadray.slides.identity import warn_of_same_files
from uadray.slides.manifest import SlideRow

log = logging.getLogger(__name__)

COMMITS = 4
"""Slides whose results are written at the same time: each is some fifteen small objects."""


class ScreenConfig(Config):
    """How a screening runs; what it computes follows from bundle and calibration alone."""

    stream: StreamConfig = Field(default_factory=StreamConfig)


def dry_run(rows: list[SlideRow], *, bundle_uri: str, bundle: Bundle) -> dict[str, Any]:
    """What `screen` would take on this cluster's CPUs, see `estimate`. Scoring is measured here, on one CPU."""
    torch.set_num_threads(1)
    detector = load_detector(bundle_uri, bundle)
    side = bundle.tiles.tile_px
    images = np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), dtype=np.uint8)
    detector(images)  # what comes first is slower
    began = time.perf_counter()
    detector(images)
    return estimate(rows, bundle.tiles, job="screen", seconds_per_tile=(time.perf_counter() - began) / BATCH)


def screen(
    rows: list[SlideRow], *, bundle_uri: str, bundle: Bundle, calibration: Calibration, out: str,
    config: ScreenConfig | None = None, retry_failed: bool = False, progress: Progress | None = None,
    load: LoadDetector = load_detector, nodes: Nodes | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Screen an archive into `out`; what is decided there already stays as it is.

    Any number of drivers may do so at the same time: each slide is screened by one of them, and each driver returns
    when all slides are decided. What a driver leaves that dies is taken over by the others.

    Returns:
        Counts by state (with `open` they add up to the manifest), slides, tiles and tiles a second of this run, and
        where the page is. `open` are slides that the system failed at, and that the next run will try.

    Raises:
        InputError: `out` holds a screening with another bundle or calibration.
        WorkError: the job cannot go on; what was decided stands in the worklist.
    """
    run = _Screening(rows, bundle=bundle, calibration=calibration, progress=progress)
    config, nodes = config or ScreenConfig(), nodes or Nodes()
    metrics.start_run(provenance.fingerprint([out, str(time.time())])[:8])
    warn_of_same_files(rows)
    with ledger.open_ledger(out, bundle=bundle, calibration=calibration) as book:
        try:
            for todo in book.rounds(rows, retry_failed=retry_failed, waiting=lambda: run.tick(book)):
                results = scored_slides(
                    todo, bundle_uri=bundle_uri, bundle=bundle, config=config.stream, load=load, nodes=nodes,
                    reads=lambda some: claimed_read_tasks(
                        some, bundle.tiles, owner=book.owner, withdrawn=book.withdrawn
                    ),
                    say=lambda note: run.tick(book, note),
                )  # fmt: skip
                with closing(results):
                    run.take(results, book)
            summary = book.finish(rows)
            if summary["open"]:
                summary["why_open"] = _some(list(book.given_back.items()))
        except (WorkError, AccessError, UnreachableError) as error:
            raise _stopped(error, book, rows, out) from error
    return summary | run.facts()


def _some(reasons: list[tuple[str, str]]) -> str:
    """Why slides are open: the first three, and how many more."""
    named = "; ".join(f"{slide_id}: {why}" for slide_id, why in reasons[:3])
    return named + (f" and {len(reasons) - 3} more" if len(reasons) > 3 else "")


def _stopped(error: UadrayError, book: ledger.Ledger, rows: list[SlideRow], out: str) -> WorkError:
    """The error that ends a job, with what has been done by then; the worklist of that is written if it can be."""
    done = ""
    with suppress(UadrayError):
        summary = book.finish(rows)
        n_decided = summary["slides"] - summary["open"]
        done = f"; {n_decided} of {summary['slides']} slides are decided, see {summary['worklist']}"
    kind = ClusterLostError if isinstance(error, ClusterLostError) else WorkError
    return kind(f"{error}{done}; the same command goes on from there")


class _Screening:
    """One driver's results on their way into the ledger."""

    def __init__(
        self, rows: list[SlideRow], *, bundle: Bundle, calibration: Calibration, progress: Progress | None
    ) -> None:
        self._rows, self._bundle, self._calibration, self._progress = rows, bundle, calibration, progress
        self._began, self._slides, self._tiles, self._noted = time.perf_counter(), 0, 0, 0
        self._seen = (bundle.trained_on, calibration.seen)
        self._note = ""

    def take(self, results: Iterator[SlideResult], book: ledger.Ledger) -> None:
        """Judge and commit each result, some at a time."""
        writing: deque[tuple[Future[bool], dict[str, Any]]] = deque()
        with ThreadPoolExecutor(COMMITS, thread_name_prefix="uadray-commit") as pool:
            for result in results:
                slide_id = result.row.slide_id
                if result.failure is not None and result.failure[0] in NOT_OURS:
                    book.pass_over(slide_id, result.failure[0])
                elif result.is_open:
                    book.give_back(slide_id, *(result.failure or ("", "")))
                else:
                    verdict = judge(
                        result.tiles, result.failure, self._calibration.aggregation, self._calibration,
                        quality=self._bundle.tiles.quality,
                    ) | {"note": used_before(result.row, result.header.get("etag"), *self._seen)}  # fmt: skip
                    writing.append((pool.submit(book.commit, result, verdict), verdict))
                while len(writing) > COMMITS or (writing and writing[0][0].done()):
                    self._written(*writing.popleft())
                self.tick(book)
            while writing:
                self._written(*writing.popleft())
                self.tick(book)

    def tick(self, book: ledger.Ledger, note: str | None = None) -> None:
        """Tell how far it is."""
        self._note = self._note if note is None else note
        if self._progress is not None:
            self._progress(len(self._rows) - len(book.open), len(self._rows), self._tiles, self._note)

    def facts(self) -> dict[str, Any]:
        """What this run did."""
        if self._noted:
            log.warning(
                "%d slides were used to train or calibrate: their p-values are no news, see `note`", self._noted
            )
        seconds = time.perf_counter() - self._began
        rate = self._tiles / max(seconds, 1e-9)
        return {"slides_now": self._slides, "tiles_now": self._tiles, "tiles_per_second": rate}

    def _written(self, commit: Future[bool], verdict: dict[str, Any]) -> None:
        if commit.result():
            metrics.count_slide(verdict["state"])
            self._slides += 1
            self._noted += verdict["note"] is not None
            self._tiles += int(verdict.get("n_scored") or 0)
