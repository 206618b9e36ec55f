"""The batch job: slides -> decisions, slide by slide, resumable.

`scored_slides` streams an archive through the scoring actors and yields one `SlideResult` a slide, in whatever order
they end. `screen` judges and commits each (see `ledger`), then writes the summary for people. Kill it at any
moment and run it again: slides with a decision are left as they are.
"""

import json
import logging
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import Field

from uadray import metrics, provenance
from uadray.cluster.attempts import Attempts, is_there
from uadray.cluster.nodes import Nodes, head_address
from uadray.cluster.read_tasks import Read
from uadray.cluster.stream import (
    StreamConfig,
    StreamError,
    failed_part,
    flag_error,
    from_ipc,
    part_row,
    pixels_of,
    slide_reads,
    stream,
    to_ipc,
)
from uadray.cluster.waiting import Say, Waiting
from uadray.cluster.watch import DriversWatch
from uadray.config import Config
from uadray.decisions import aggregation
from uadray.decisions.aggregation import AggregationConfig, Calibration
from uadray.detectors.bundle import Bundle, load_detector
from uadray.detectors.detector import BATCH, Scored
from uadray.detectors.pixels import Pixels
from uadray.errors import (
    SYSTEM_REASONS,
    AccessError,
    ClusterLostError,
    UadrayError,
    UnreachableError,
    WorkError,
    reason_of,
    shown,
)
from uadray.reports import pictures
from uadray.schemas import TILE_SCORES
from uadray.screening import ledger
from uadray.screening.estimate import estimate
from uadray.screening.leases import NOT_OURS
from uadray.screening.slide_reader import claimed_reads
from uadray.slides.identity import Seen, is_seen, warn_of_same_files
from uadray.slides.manifest import SlideRow
from uadray.storage import objects, s3_client
from uadray.tiles.quality import QualityConfig, assess

log = logging.getLogger(__name__)

EVIDENCE_TILES = 5
SLIDES_AT_ONCE = 64
"""Slides whose best scores an actor remembers; parts of no more than some are on the way at once."""

EVIDENCE = pa.schema(
    [("tile_id", pa.string()), ("score", pa.float64()), ("tile", pa.binary()), ("reconstruction", pa.binary())]
)


class ScreenConfig(Config):
    """How a screening runs; what it computes follows from bundle and calibration alone."""

    stream: StreamConfig = Field(default_factory=StreamConfig)


@dataclass
class SlideResult:
    """All that was found on one slide.

    Attributes:
        row: the slide's line of the manifest.
        header: the slide's metadata (see `uadray.cluster.stream`); empty where it failed before it could be read.
        preview: JPEG of the whole slide.
        masks: GeoJSON of its tissue and flagged regions.
        tiles: rows of `TILE_SCORES`; None for a failed slide.
        evidence: the most abnormal tiles, best first, schema `EVIDENCE`.
        failure: (reason, message) of a failed slide.
        is_open: the failure is the system's and no verdict: a later run tries the slide again.
    """

    row: SlideRow
    header: dict[str, Any] = field(default_factory=dict)
    preview: bytes = b""
    masks: bytes = b""
    tiles: pa.Table | None = None
    evidence: pa.Table | None = None
    failure: tuple[str, str] | None = None
    is_open: bool = False


UNFIT = frozenset({"no_stain"})
"""Reasons of readers that are about the tissue, not the file: such a slide is not assessable, not failed."""

ScoreTiles = Callable[[npt.NDArray[np.uint8]], Scored]
"""What a scoring actor needs of a detector: RGB tiles [N, tile, tile, 3] -> `Scored`."""

LoadDetector = Callable[..., ScoreTiles]
"""Called as `load_detector` is, in the actor. Benchmarks give one whose cost they know."""


class PartScorer:
    """The scoring actor: map, reconstruct and score fused, so that pixels arrive once and never leave."""

    def __init__(
        self, bundle_uri: str, bundle: Bundle, device: str, threads: int, load: LoadDetector = load_detector,
        batch_tiles: int | None = None,
    ) -> None:  # fmt: skip
        self._threads = threads if device == "cpu" else 1
        torch.set_num_threads(1 if self._threads > 1 else threads)
        if objects.is_s3(bundle_uri):
            s3_client.known_to_answer()  # the driver has read the bundle's description there
        self.detector = load(bundle_uri, bundle, device=device, **({"batch_tiles": batch_tiles} if batch_tiles else {}))
        self._known = known_tiles(bundle)
        self.detector(self._known)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="uadray-score")
        self._shown: OrderedDict[int, dict[int, list[float]]] = OrderedDict()

    def __call__(self, table: pa.Table) -> pa.Table:
        """A row of the reader -> a row of the scorer (columns: see `uadray.cluster.stream`)."""
        (row,) = table.drop_columns(["pixels"]).to_pylist()
        if row["part"] < 0:
            return table
        began = time.perf_counter()
        try:
            return self._scored(row, pixels_of(table), began)
        except Exception as error:  # names the slide, or the device, instead of ending the job
            word, message = reason_of(error)
            if word not in SYSTEM_REASONS:
                word = "device" if self._is_broken() else "scoring"
            return failed_part(row["slide"], word, f"the detector failed: {message}")

    def _is_broken(self) -> bool:
        """Whether tiles that were scored when this actor began cannot be scored any more: it is not the slide, then."""
        try:
            self.detector(self._known)
        except Exception:
            return True
        return False

    def _scored(self, row: dict[str, Any], pixels: pa.Buffer, began: float) -> pa.Table:
        tiles, errors, flags = from_ipc(row["tiles"]), json.loads(row["errors"]), json.loads(row["flags"])
        floor = self._floor(row["slide"], row["part"])
        scores, pictures = score_tiles(self._detect, tiles, pixels, errors, flags, floor=floor)
        self._shown[row["slide"]][row["part"]] = pictures["score"].to_pylist()
        header = json.loads(row["header"]) | {
            "score_s": time.perf_counter() - began,
            "errors": sum(e is not None for e in errors),
        }
        return part_row(
            row["slide"], row["part"], header=header, preview=row["preview"], masks=row["masks"],
            flagged=row["flagged"], tiles=scores, evidence=to_ipc(pictures),
        )  # fmt: skip

    def _detect(self, images: Pixels) -> Scored:
        """On CPUs a thread scores some tiles of its own: 1.2 times as fast as all threads in each operation of one."""
        if self._threads == 1:
            return self.detector(images)
        batch_tiles = getattr(self.detector, "batch_tiles", BATCH)
        step = max(4, batch_tiles // self._threads)  # together no more activations than one batch has
        parts = list(self._pool.map(self.detector, [images[i : i + step] for i in range(0, len(images), step)]))

        def pictures(rows: Sequence[int]) -> tuple[Pixels, Pixels | None]:
            x, x_hat = zip(*(parts[row // step].pictures([row % step]) for row in rows), strict=True)
            shown = [picture for picture in x_hat if picture is not None]
            return np.concatenate(x), np.concatenate(shown) if shown else None

        score, residual = (np.concatenate([getattr(p, name) for p in parts]) for name in ("score", "residual"))
        return Scored(score, residual, pictures)

    def _floor(self, slide: int, part: int) -> float:
        """A tile of this part that scores no more will not be among the slide's evidence: others are, sent before."""
        parts = self._shown.setdefault(slide, {})
        if len(self._shown) > SLIDES_AT_ONCE:
            self._shown.popitem(last=False)
        others = sorted(score for other, scores in parts.items() if other != part for score in scores)
        return others[-EVIDENCE_TILES] if len(others) >= EVIDENCE_TILES else -math.inf


def score_tiles(
    detector: ScoreTiles, tiles: pa.Table, pixels: pa.Buffer, errors: list[str | None], flags: list[str | None],
    *, floor: float = -math.inf,
) -> tuple[pa.Table, pa.Table]:  # fmt: skip
    """Score one part; returns rows of `TILE_SCORES` and of `EVIDENCE`. A tile with an error or a flag has no score.

    Evidence is of tiles that score more than `floor`: pictures cost as much as a third of the decoding.
    """
    n = len(tiles)
    errors = [error or (flag and flag_error(flag)) for error, flag in zip(errors, flags, strict=True)]
    good = np.array([e is None for e in errors], dtype=bool)
    side = int(np.sqrt(pixels.size / (3 * n))) if n else 0
    images = np.frombuffer(pixels, np.uint8).reshape(n, side, side, 3)
    score = np.full(n, np.nan)
    scored = detector(images if good.all() else images[good]) if good.any() else None
    if scored is not None:
        score[good] = scored.score
    texts = [e or (None if np.isfinite(s) else "the score is not finite") for e, s in zip(errors, score, strict=True)]
    saturation, green = trivial_scores(images)
    columns = {
        "score": pa.array(score, mask=~np.isfinite(score)),
        "mean_saturation": pa.array(saturation, pa.float32(), mask=~good),
        "mean_green": pa.array(green, pa.float32(), mask=~good),
        "flag": pa.array(flags, pa.string()),
        "error": pa.array(texts, pa.string()),
    }
    table = pa.table({**{name: tiles[name] for name in tiles.column_names}, **columns}, schema=TILE_SCORES)
    return table, _pictures(table.filter(pa.array(good)), scored, floor)


def trivial_scores(images: npt.NDArray[np.uint8]) -> tuple[Any, Any]:
    """Mean HSV saturation and mean green of RGB tiles [N, h, w, 3], each [N] in 0 to 1.

    Of larger tiles every second, third, ... pixel a side is looked at, so that 64 x 64 to 127 x 127 remain: on 256 px
    tiles these two numbers cost fifteen times the decoding of the tile before.
    """
    n, height, width, _ = images.shape
    step = max(1, height // 64)
    size = (max(1, width // step), max(1, height // step))
    saturation, green = np.zeros((2, n), np.float32)
    for i, image in enumerate(images):
        some = image if step == 1 else cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
        saturation[i] = cv2.mean(cv2.cvtColor(some, cv2.COLOR_RGB2HSV))[1] / 255
        green[i] = cv2.mean(some)[1] / 255
    return saturation, green


def _pictures(tiles: pa.Table, scored: Scored | None, floor: float) -> pa.Table:
    if scored is None:
        return EVIDENCE.empty_table()
    best = np.argsort(-scored.score)[:EVIDENCE_TILES]
    order = [int(i) for i in best if np.isfinite(scored.score[i]) and scored.score[i] > floor]
    if not order:
        return EVIDENCE.empty_table()
    x, x_hat = scored.pictures(order)
    return pa.table(
        {
            "tile_id": [tiles["tile_id"][i].as_py() for i in order],
            "score": [float(scored.score[i]) for i in order],
            "tile": [pictures.encode_jpeg(picture) for picture in x],
            "reconstruction": [None] * len(x)
            if x_hat is None
            else [pictures.encode_jpeg(picture) for picture in x_hat],
        },
        schema=EVIDENCE,
    )


SLIDES_A_STREAM = 4000
"""Slides of one Ray Data execution: Ray puts each read task before the first one runs, 0.6 to 2 ms each."""


def known_tiles(bundle: Bundle | None) -> Pixels:
    """[2, tile, tile, 3], always the same: what every device must be able to score."""
    side = bundle.tiles.tile_px if bundle is not None else 64
    return np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)


def _nothing(_: str) -> None:
    """Says nothing."""


def scored_slides(
    rows: Sequence[SlideRow], *, bundle_uri: str, bundle: Bundle, config: StreamConfig,
    reads: Callable[[Sequence[SlideRow]], list[Read]] | None = None, load: LoadDetector = load_detector,
    nodes: Nodes | None = None, say: Say = _nothing,
) -> Generator[SlideResult]:  # fmt: skip
    """Read and score every slide; yields each, once, as soon as its last part is there.

    What the system fails at is tried again, see `uadray.cluster.attempts`. A node that is left out ends the stream: it
    starts again without that node, with the slides that have not ended.

    Args:
        rows: the slides.
        bundle_uri: where the bundle is.
        bundle: its description.
        config: how the cluster is shared.
        reads: makes read tasks of rows; `slide_reads` unless given.
        load: makes the detector, in the actor.
        nodes: that are used.
        say: takes what is waited for, in a line; the empty text where nothing is.

    Raises:
        WorkError: the system fails at slide after slide, nothing moves, or the cluster is gone.
    """
    attempts = Attempts(nodes or Nodes())
    make = reads or (lambda some: slide_reads(some, bundle.tiles))
    arguments = scorer_arguments(bundle_uri, bundle, config) | {"load": load}
    todo = list(rows)
    while todo:
        batch = todo[:SLIDES_A_STREAM]
        ended: set[str] = set()
        left_out = len(attempts.nodes.left_out)
        streamed = _streamed(batch, make(batch), arguments=arguments, config=config, nodes=attempts.nodes, say=say)
        with closing(streamed):
            try:
                for result in streamed:
                    final = _settled(result, attempts)
                    if final is not None:
                        ended.add(final.row.slide_id)
                        yield final
                    if len(attempts.nodes.left_out) > left_out:
                        break
            except StreamError as error:
                attempts.broke(str(error))
        left = [row for row in batch if row.slide_id not in ended]
        todo = todo[len(batch) :] + left  # what was given back comes last


def _settled(result: SlideResult, attempts: Attempts) -> SlideResult | None:
    """The result, or None where the slide is tried again."""
    if result.failure is None:
        attempts.worked(result.row)
        return result
    word, message = result.failure
    if word == "missing" and not objects.is_s3(result.row.uri) and is_there(result.row.uri):
        word, message = "node", f"{result.row.uri} is not there, and on the driver's machine it is"
    if word not in SYSTEM_REASONS:
        if word not in NOT_OURS:
            attempts.ended()
        return result
    where = {name: str(result.header.get(name) or "") for name in ("node_id", "address")}
    outcome = attempts.failed(result.row, word, message, **where)
    if outcome.again:
        return None
    return replace(result, failure=outcome.failure, is_open=not outcome.is_verdict)


def _streamed(
    rows: Sequence[SlideRow], reads: Sequence[Read], *, arguments: dict[str, Any], config: StreamConfig, nodes: Nodes,
    say: Say,
) -> Generator[SlideResult]:  # fmt: skip
    """One stream: results as they come; a slide whose reader ended without an answer is given back as `node`."""
    parts: dict[int, dict[int, dict[str, Any]]] = {}
    done: set[int] = set()
    watch = DriversWatch()
    names = [shown(row.slide_id) for row in rows]
    waiting = Waiting(
        names, done, watch=watch, nodes=nodes, timeout_s=config.no_progress_timeout_s, say=say, head=head_address()
    )
    source = stream(reads, scorer=PartScorer, arguments=arguments, config=config, nodes=nodes, watch=watch)
    try:
        with closing(source):
            for part in source:
                yield from _crashed(rows, watch.look().crashed, done)
                if part is None:
                    if waiting.idle():
                        return
                    continue
                index = part["slide"]
                waiting.row(index, 1 + len(parts.get(index, ())), json.loads(part["header"]).get("n_parts", 1))
                if index in done:
                    continue
                if part["part"] >= 0:
                    if part["part"] not in parts.setdefault(index, {}):
                        count_part(part)
                    parts[index][part["part"]] = part
                result_or_none = _assembled(rows[index], part, parts.get(index, {}))
                if result_or_none is not None:
                    done.add(index)
                    parts.pop(index, None)
                    yield result_or_none
        yield from _crashed(rows, watch.look(LAST_LOOK_S).crashed, done)
        for index in sorted(set(range(len(rows))) - done):  # cannot be; if it is, it is tried again, and said
            yield SlideResult(rows[index], failure=("unreachable", "its reader ended without an answer"))
    finally:
        watch.close()


def count_part(part: dict[str, Any]) -> None:
    """Count a part's reading and scoring, once, here: series of processes that live shortly cannot be added up."""
    header = json.loads(part["header"])
    n_tiles = len(from_ipc(part["tiles"]))
    for stage, seconds in (("screen_read", header["read_s"]), ("screen_score", header["score_s"])):
        meter = metrics.Meter(stage)
        meter.add(tiles=n_tiles, bytes_=header["bytes"], errors=header["errors"], seconds=seconds)


LAST_LOOK_S = 10.0
"""For so long the end of a stream waits to hear which slides have crashed."""


def _crashed(rows: Sequence[SlideRow], crashed: dict[int, str], done: set[int]) -> Iterator[SlideResult]:
    for index in crashed.keys() - done:
        done.add(index)
        yield SlideResult(rows[index], failure=("crashed", crashed[index]))


def _assembled(row: SlideRow, part: dict[str, Any], parts: dict[int, dict[str, Any]]) -> SlideResult | None:
    header = json.loads(part["header"])
    if part["part"] < 0:
        return SlideResult(row, header=header, failure=(header["reason"], header["message"]))
    if len(parts) < header["n_parts"]:
        return None
    ordered = [parts[i] for i in range(header["n_parts"])]
    pictures = pa.concat_tables([from_ipc(p["evidence"]) for p in ordered])
    tables = [*(p["tiles"] for p in ordered), ordered[0]["flagged"]]
    return SlideResult(
        row,
        header=json.loads(ordered[0]["header"]),
        preview=ordered[0]["preview"],
        masks=ordered[0]["masks"],
        tiles=pa.concat_tables(from_ipc(data) for data in tables if data),
        evidence=pictures.sort_by([("score", "descending")]).slice(0, EVIDENCE_TILES),
    )


def scorer_arguments(bundle_uri: str, bundle: Bundle, config: StreamConfig) -> dict[str, Any]:
    """For `PartScorer`: every actor checks its weights against the description that the driver read."""
    device = "cuda" if config.gpus else "cpu"
    return {"bundle_uri": bundle_uri, "bundle": bundle, "device": device, "batch_tiles": config.batch_tiles}


def judge(
    result: SlideResult, config: AggregationConfig, calibration: Calibration | None = None, *,
    quality: QualityConfig | None = None,
) -> dict[str, Any]:  # fmt: skip
    """State, score and decision of a slide, as fields of `SLIDE_DECISIONS`.

    Without a calibration (while one is made) there is a score and no decision.
    """
    if result.failure is not None or result.tiles is None:
        reason, message = result.failure or ("lost", "no tiles came")
        if reason in UNFIT:
            return {"state": "not_assessable", "reason": reason, "message": message} | _undecided()
        return {"state": "failed", "reason": reason, "message": message}
    scores = result.tiles["score"].drop_null().to_numpy()
    flags = Counter(flag for flag in result.tiles["flag"].to_pylist() if flag is not None)
    n_tiles, n_scored = len(result.tiles), len(scores)
    n_good = n_tiles - flags.total()
    counts: dict[str, Any] = {"n_tiles": n_tiles, "n_scored": n_scored, "flags": json.dumps(flags)}
    counts["coverage"] = n_scored / n_good if n_good else None
    if n_tiles < config.min_tiles:
        what = f"{n_tiles} tiles with enough tissue, at least {config.min_tiles} are needed"
        return counts | {"state": "not_assessable", "reason": "too_little_tissue", "message": what} | _undecided()
    needed = max(config.min_tiles, (quality or QualityConfig()).min_good_tiles)
    poor = assess(n_tiles, flags, (quality or QualityConfig()).model_copy(update={"min_good_tiles": needed}))
    if poor is not None:
        return counts | {"state": "not_assessable", "reason": poor[0], "message": poor[1]} | _undecided()
    if n_scored == 0:
        read = result.tiles.filter(pc.is_null(result.tiles["flag"]))
        first = read["error"].drop_null()[0].as_py()
        return counts | {"state": "failed", "reason": "unreadable", "message": f"no tile can be read: {first}"}
    if n_scored < config.min_tiles or n_scored / n_good < config.min_coverage:
        needed = max(config.min_tiles, math.ceil(n_good * config.min_coverage))
        what = f"only {n_scored} of {n_good} tissue tiles could be read, {needed} are needed"
        return counts | {"state": "not_assessable", "reason": "low_coverage", "message": what} | _undecided()
    score = aggregation.slide_score(scores, config)
    return counts | {"state": "scored", "score": score} | (_decided(score, calibration) if calibration else {})


def note(result: SlideResult, trained_on: Seen, calibrated_on: Seen) -> str | None:
    """What a slide was used for before, as far as its id, place or etag tell; the field `note` of its decision."""
    etag = result.header.get("etag")
    for what, seen in (("training", trained_on), ("calibration", calibrated_on)):
        if is_seen(result.row, seen, etag=etag):
            return what
    return None


def _undecided() -> dict[str, Any]:
    return {"decision": "not_assessable"}


def _decided(score: float, calibration: Calibration) -> dict[str, Any]:
    p = aggregation.p_value(score, calibration.scores)
    return {
        "decision": "anomalous" if p <= calibration.alpha else "normal",
        "p_value": p,
        "threshold": aggregation.threshold(calibration),
        "alpha": calibration.alpha,
        "calibration_id": calibration.id,
    }


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


class Progress(Protocol):
    """Takes how far a job is."""

    def __call__(self, done: int, total: int, tiles: int, note: str = "") -> None:
        """Slides done, slides in all, tiles scored in this run, and what is waited for, if anything."""
        ...


COMMITS = 4
"""Slides whose results are written at the same time: each is some fifteen small objects."""


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
                    reads=lambda some: claimed_reads(
                        some, bundle.tiles, tenure=book.tenure, withdrawn=book.withdrawn
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
                        result, self._calibration.aggregation, self._calibration, quality=self._bundle.tiles.quality
                    ) | {"note": note(result, *self._seen)}
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
