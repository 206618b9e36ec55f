"""The batch job: an archive -> decisions, slide by slide, resumable.

Each result is judged and committed (see `ledger`), then the summary for people is written. Kill it at any moment and
run it again: slides with a decision are left as they are.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from uadray import metrics, provenance
from uadray.cluster.read_tasks import ReadTask
from uadray.cluster.workers import StreamConfig
from uadray.config import Config
from uadray.decisions.verdict import Verdict
from uadray.detectors.description import BundleDescription
from uadray.errors import AccessError, ClusterLostError, UadrayError, UnreachableError, WorkError
from uadray.screening import ledger
from uadray.screening.bundles import ScreeningBundle, arranged
from uadray.screening.leases import NOT_OURS
from uadray.screening.progress import Progress
from uadray.screening.slide_reader import ReadSlide, claimed_read_tasks, read_slide
from uadray.screening.slide_result import SlideResult
from uadray.screening.summary import pages, state_of_slide
from uadray.screening.verdicts import verdicts_of
from uadray.slides.identity import warn_of_same_files
from uadray.slides.manifest import SlideRow

if TYPE_CHECKING:
    from uadray.cluster.nodes import Nodes
    from uadray.screening.scorer import LoadDetector

log = logging.getLogger(__name__)

SEARCHED = 16
"""Tiles of which it is measured how long a search for their latents takes: as many as a search does at once."""

COMMITS = 16
"""Slides whose results are written at the same time: each is four small objects, three of them one after the other."""


class ScreenConfig(Config):
    """How a screening runs; what it computes follows from bundle and calibration alone."""

    stream: StreamConfig = Field(default_factory=StreamConfig)


def dry_run(rows: list[SlideRow], *, bundles: Mapping[str, BundleDescription]) -> dict[str, Any]:
    """What `screen` would take on this cluster's CPUs, see `estimate`. Scoring is measured here, on one CPU.

    Args:
        rows: the slides.
        bundles: the bundles' descriptions by their URI.
    """
    from uadray.screening.estimate import estimate

    seconds = sum(_seconds_per_tile(uri, bundle) for uri, bundle in bundles.items())
    tiles = next(iter(bundles.values())).tiles
    return estimate(rows, tiles, job="screen", seconds_per_tile=seconds)


def _seconds_per_tile(uri: str, bundle: BundleDescription) -> float:
    import torch

    from uadray.detectors.bundle import load_detector
    from uadray.detectors.detector import BATCH
    from uadray.detectors.precision import CHECK_TILES, check_tiles

    torch.set_num_threads(1)
    detector, side = load_detector(uri, bundle), bundle.tiles.tile_px
    if detector.searches:  # for seconds a tile: once is enough, and not of noise, for which none ends early
        images = check_tiles(side).repeat(SEARCHED // CHECK_TILES, axis=0)
        began = time.perf_counter()
        detector(images)
        return (time.perf_counter() - began) / len(images)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), dtype=np.uint8)
    detector(images)  # the first call is slower than those that follow
    began = time.perf_counter()
    detector(images)
    return (time.perf_counter() - began) / BATCH


def screen(
    rows: list[SlideRow], *, bundles: Sequence[ScreeningBundle], out: str, config: ScreenConfig | None = None,
    retry_failed: bool = False, progress: Progress | None = None, load: "LoadDetector | None" = None,
    read: ReadSlide = read_slide, join: "Callable[[], Nodes] | None" = None, viewer: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Screen an archive into `out`; what is decided there already stays as it is.

    Any number of processes may do so at the same time: each slide is screened by one of them, and each process returns
    when all slides are decided. What a process leaves that dies is taken over by the others.

    Args:
        rows: the slides.
        bundles: that decide. Tiles are read and decoded once, and each bundle makes a decision of its own.
        out: folder or s3:// URI.
        config: how the cluster is shared.
        retry_failed: try slides again that ended as failed.
        progress: told how far it is.
        load: makes the detectors, in the actors; `load_detector` unless given.
        read: reads a slide, in a read task. Benchmarks give one that costs nothing.
        join: joins the cluster and returns the nodes that are used; called once there is something to do. Unless given,
            Ray runs in this process already, and all nodes are used.
        viewer: address of an endpoint's page that shows the slides, for links of the worklist.

    Returns:
        Counts by state (with `open` they add up to the manifest), slides, tiles and tiles a second of this run, and
        where the page is. `open` are slides that the system failed at, and that the next run will try. With several
        bundles the states are those of slides, `anomalous` and `worklist` are by bundle, and so is `bundles`.

    Raises:
        InputError: `out` holds a screening with other bundles or calibrations; or these cannot be screened together.
        WorkError: the job cannot go on; what was decided stands in the worklist.
    """
    bundles = arranged(bundles)
    committer = Committer(len(rows), progress=progress)
    cluster = _Cluster(join, provenance.fingerprint([out, str(time.time())])[:8], bundles)
    config = config or ScreenConfig()
    warn_of_same_files(rows)
    with ledger.open_ledger(out, bundles, viewer=viewer) as book:
        book.describe = lambda: committer.state(book)
        try:
            for todo in book.rounds(rows, retry_failed=retry_failed, waiting=lambda: committer.tick(book)):
                nodes = cluster.nodes()
                screen_round(todo, book, committer, config=config.stream, load=load, read=read, nodes=nodes)
            summary = book.finish(rows)
            if summary["open"]:
                summary["why_open"] = _first_three(list(book.given_back.items()))
        except (WorkError, AccessError, UnreachableError) as error:
            if cluster.is_refused:
                raise
            raise _stopped(error, book, rows, out) from error
        finally:
            metrics.end_run()
    return summary | committer.facts()


def screen_round(
    todo: Sequence[SlideRow], book: ledger.Ledger, committer: "Committer", *, config: StreamConfig, nodes: "Nodes",
    load: "LoadDetector | None" = None, read: ReadSlide = read_slide, stop: Callable[[], bool] = lambda: False,
) -> None:  # fmt: skip
    """Screen and commit the slides of a round: each is claimed by its reader, or passed over.

    `stop` is asked every second and after every part; then the round ends with what is being committed.
    """
    from uadray.screening.results import scored_slides  # imports Ray

    def reads(batch: Sequence[SlideRow]) -> list[ReadTask]:
        return claimed_read_tasks(
            batch, book.bundles[0].bundle.tiles, owner=book.owner, withdrawn=book.withdrawn, read=read
        )

    committer.cores, committer.gpus = nodes.cores(), nodes.gpus()
    results = scored_slides(
        todo, bundles={each.uri: each.bundle for each in book.bundles}, config=config, load=load, nodes=nodes,
        reads=reads, say=lambda note: committer.tick(book, note), stop=stop,
    )  # fmt: skip
    with closing(results):
        committer.take(results, book)


def start_run(run: str, nodes: "Nodes", bundles: Sequence[ScreeningBundle]) -> None:
    """Count for the run of this name in this process, from now on."""
    info = {
        "bundle": "+".join(each.name for each in bundles),
        "detector": "+".join(each.bundle.detector.kind for each in bundles),
        "calibration": "+".join(each.calibration.id for each in bundles),
    }
    metrics.start_run(run, info=info)
    for kind, n in (("cpu", nodes.cores()), ("gpu", nodes.gpus())):
        metrics.set_gauge(metrics.CORES, n, kind=kind)


def _first_three(reasons: list[tuple[str, str]]) -> str:
    """Why slides are open: the first three, and how many more."""
    named = "; ".join(f"{slide_id}: {why}" for slide_id, why in reasons[:3])
    return named + (f" and {len(reasons) - 3} more" if len(reasons) > 3 else "")


def _stopped(error: UadrayError, book: ledger.Ledger, rows: list[SlideRow], out: str) -> WorkError:
    """The error that ends a job, with what has been done by then; the worklist of that is written if it can be."""
    done = ""
    with suppress(UadrayError):
        summary = book.finish(rows)
        n_decided = summary["slides"] - summary["open"]
        done = f"; {n_decided} of {summary['slides']} slides are decided, see {pages(summary)}"
    kind = ClusterLostError if isinstance(error, ClusterLostError) else WorkError
    return kind(f"{error}{done}; the same command goes on from there")


class _Cluster:
    """The nodes of this job, joined when they are first asked for: a job with nothing to do needs none.

    Attributes:
        is_refused: the cluster was asked for and cannot be joined.
    """

    def __init__(self, join: "Callable[[], Nodes] | None", run: str, bundles: Sequence[ScreeningBundle]) -> None:
        self._join, self._run, self._bundles = join, run, bundles
        self._nodes: Nodes | None = None
        self.is_refused = False

    def nodes(self) -> "Nodes":
        """The nodes that are used."""
        if self._nodes is None:
            from uadray.cluster.nodes import Nodes  # imports Ray

            self.is_refused = True
            self._nodes = Nodes() if self._join is None else self._join()
            self.is_refused = False
            start_run(self._run, self._nodes, self._bundles)
        return self._nodes


class Committer:
    """Judges results and commits them, some at a time; counts what this process has done.

    Attributes:
        n_slides: of this run, those that are open included.
        cores: CPU cores of the nodes that are used.
        gpus: their GPUs.
    """

    def __init__(self, n_slides: int, *, progress: Progress | None) -> None:
        self.n_slides, self._progress = n_slides, progress
        self._began, self._slides, self._tiles, self._noted = time.perf_counter(), 0, 0, 0
        self._note, self._started = "", provenance.now_iso()
        self.cores, self.gpus = 0, 0.0
        self._stages: dict[str, float] = {}

    def take(self, results: Iterator[SlideResult], book: ledger.Ledger) -> None:
        """Judge and commit each result."""
        writing: deque[tuple[Future[bool], list[Verdict]]] = deque()
        with ThreadPoolExecutor(COMMITS, thread_name_prefix="uadray-commit") as pool:
            for result in results:
                slide_id = result.row.slide_id
                if result.failure is not None and result.failure[0] in NOT_OURS:
                    book.pass_over(slide_id, result.failure[0])
                elif result.is_open:
                    book.give_back(slide_id, *(result.failure or ("", "")))
                else:
                    verdicts = verdicts_of(result, book.bundles)
                    writing.append((pool.submit(_committed, book, result, verdicts), verdicts))
                while len(writing) > COMMITS or (writing and writing[0][0].done()):
                    self._count(*writing.popleft())
                self.tick(book)
                metrics.set_gauge(metrics.QUEUE, len(writing), queue="committing")
            while writing:
                self._count(*writing.popleft())
                self.tick(book)
            metrics.set_gauge(metrics.QUEUE, 0, queue="committing")
        self._stages = metrics.stage_seconds() or self._stages

    def tick(self, book: ledger.Ledger, note: str | None = None) -> None:
        """Tell how far it is."""
        self._note = self._note if note is None else note
        if self._progress is not None:
            self._progress(self.n_slides - len(book.open), self.n_slides, self._tiles, self._note)

    def state(self, book: ledger.Ledger) -> dict[str, Any]:
        """How far this process is, as its heartbeat says it, see `progress_record`."""
        oldest_s = book.open.oldest
        self._stages = metrics.stage_seconds() or self._stages  # a run that has ended counts no more
        return {
            "at": provenance.now_iso(),
            "started": self._started,
            "slides": self.n_slides,
            "open": len(book.open) if book.has_listed else None,
            "oldest_open": None if oldest_s is None else datetime.fromtimestamp(oldest_s, UTC).isoformat(),
            "slides_now": self._slides,
            "tiles_now": self._tiles,
            "stages": self._stages,
            "cores": self.cores,
            "gpus": self.gpus,
            "note": self._note[:300],
        }

    def facts(self) -> dict[str, Any]:
        """What this run did."""
        if self._noted:
            log.warning(
                "%d slides were used to train or calibrate: their p-values are no news, see `note`", self._noted
            )
        seconds = time.perf_counter() - self._began
        rate = self._tiles / max(seconds, 1e-9)
        return {"slides_now": self._slides, "tiles_now": self._tiles, "tiles_per_second": rate}

    def _count(self, commit: Future[bool], verdicts: list[Verdict]) -> None:
        if commit.result():
            state = state_of_slide([verdict["state"] for verdict in verdicts])
            metrics.count_slide(state, next(v.get("reason") for v in verdicts if v["state"] == state))
            self._slides += 1
            self._noted += any(verdict["note"] is not None for verdict in verdicts)
            self._tiles += max(int(verdict.get("n_scored") or 0) for verdict in verdicts)


def _committed(book: ledger.Ledger, result: SlideResult, verdicts: list[Verdict]) -> bool:
    """Commit a result, and count how long that takes."""
    began = time.perf_counter()
    try:
        return book.commit(result, verdicts)
    finally:
        metrics.count(metrics.STAGE_SECONDS, time.perf_counter() - began, stage="commit")
