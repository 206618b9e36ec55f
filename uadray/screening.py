"""The batch job: slides -> decisions, slide by slide, resumable.

`scored_slides` streams an archive through the scoring actors and yields one `SlideResult` a slide, in whatever order
they end. `screen` judges and commits each (see `uadray.ledger`), then writes the summary for people. Kill it at any
moment and run it again: slides with a decision are left as they are.
"""

import json
import logging
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import Field

from uadray import aggregation, evidence, ledger, s3, storage
from uadray.aggregation import AggregationConfig, Calibration
from uadray.bundle import Bundle, load_detector
from uadray.config import Config
from uadray.data.claims import claimed_reads
from uadray.data.datasource import Read
from uadray.data.estimate import estimate
from uadray.data.stream import (
    StreamConfig,
    failed_part,
    flag_error,
    from_ipc,
    part_row,
    pixels_of,
    slide_reads,
    stream,
    to_ipc,
)
from uadray.detector import BATCH, Scored
from uadray.identity import Seen, is_seen, warn_of_same_files
from uadray.leases import NOT_OURS
from uadray.manifest import SlideRow
from uadray.models.pixels import Pixels
from uadray.monitoring import metrics
from uadray.quality import QualityConfig, assess
from uadray.schemas import TILE_SCORES

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
        header: the slide's metadata (see `uadray.data.stream`); empty where it failed before it could be read.
        preview: JPEG of the whole slide.
        masks: GeoJSON of its tissue and flagged regions.
        tiles: rows of `TILE_SCORES`; None for a failed slide.
        evidence: the most abnormal tiles, best first, schema `EVIDENCE`.
        failure: (reason, message) of a failed slide.
    """

    row: SlideRow
    header: dict[str, Any] = field(default_factory=dict)
    preview: bytes = b""
    masks: bytes = b""
    tiles: pa.Table | None = None
    evidence: pa.Table | None = None
    failure: tuple[str, str] | None = None


UNFIT = frozenset({"no_stain"})
"""Reasons of readers that are about the tissue, not the file: such a slide is not assessable, not failed."""

ScoreTiles = Callable[[npt.NDArray[np.uint8]], Scored]
"""What a scoring actor needs of a detector: RGB tiles [N, tile, tile, 3] -> `Scored`."""

LoadDetector = Callable[..., ScoreTiles]
"""Called as `load_detector` is, in the actor. Benchmarks give one whose cost they know."""


class PartScorer:
    """The scoring actor: map, reconstruct and score fused, so that pixels arrive once and never leave."""

    def __init__(
        self, bundle_uri: str, bundle: Bundle, device: str, threads: int, load: LoadDetector = load_detector
    ) -> None:
        self._threads = threads if device == "cpu" else 1
        torch.set_num_threads(1 if self._threads > 1 else threads)
        if storage.is_s3(bundle_uri):
            s3.known_to_answer()  # the driver has read the bundle's description there
        self.detector = load(bundle_uri, bundle, device=device)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="uadray-score")
        self._shown: OrderedDict[int, dict[int, list[float]]] = OrderedDict()

    def __call__(self, table: pa.Table) -> pa.Table:
        """A row of the reader -> a row of the scorer (columns: see `uadray.data.stream`)."""
        (row,) = table.drop_columns(["pixels"]).to_pylist()
        if row["part"] < 0:
            return table
        with metrics.stage("screen_score") as meter:
            try:
                return self._scored(row, pixels_of(table), meter)
            except Exception as error:  # names the slide instead of ending the job
                meter.add(errors=1)
                return failed_part(row["slide"], "scoring", f"the detector failed: {type(error).__name__}: {error}")

    def _scored(self, row: dict[str, Any], pixels: pa.Buffer, meter: metrics.Meter) -> pa.Table:
        tiles, errors, flags = from_ipc(row["tiles"]), json.loads(row["errors"]), json.loads(row["flags"])
        floor = self._floor(row["slide"], row["part"])
        scores, pictures = score_tiles(self._detect, tiles, pixels, errors, flags, floor=floor)
        self._shown[row["slide"]][row["part"]] = pictures["score"].to_pylist()
        n_errors = sum(e is not None for e in errors)
        meter.add(tiles=len(tiles) - n_errors, bytes_=pixels.size, errors=n_errors)
        return part_row(
            row["slide"], row["part"], header=json.loads(row["header"]), preview=row["preview"], masks=row["masks"],
            flagged=row["flagged"], tiles=scores, evidence=to_ipc(pictures),
        )  # fmt: skip

    def _detect(self, images: Pixels) -> Scored:
        """On CPUs a thread scores some tiles of its own: 1.2 times as fast as all threads in each operation of one."""
        if self._threads == 1:
            return self.detector(images)
        step = max(4, BATCH // self._threads)  # together no more activations than one batch has
        parts = list(self._pool.map(self.detector, [images[i : i + step] for i in range(0, len(images), step)]))
        columns = ([getattr(part, each.name) for part in parts] for each in fields(Scored))
        return Scored(*(np.concatenate(column) for column in columns))

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
    return pa.table(
        {
            "tile_id": [tiles["tile_id"][i].as_py() for i in order],
            "score": [float(scored.score[i]) for i in order],
            "tile": [evidence.encode_jpeg(scored.x[i]) for i in order],
            "reconstruction": [evidence.encode_jpeg(scored.x_hat[i]) for i in order],
        },
        schema=EVIDENCE,
    )


def scored_slides(
    rows: list[SlideRow], *, bundle_uri: str, bundle: Bundle, config: StreamConfig, reads: Sequence[Read] | None = None,
    load: LoadDetector = load_detector,
) -> Iterator[SlideResult]:  # fmt: skip
    """Read and score every slide; yields each as soon as its last part is there. `reads`: other than `slide_reads`."""
    parts: dict[int, dict[int, dict[str, Any]]] = {}
    done: set[int] = set()
    arguments = scorer_arguments(bundle_uri, bundle, config) | {"load": load}
    reads = slide_reads(rows, bundle.tiles) if reads is None else reads
    for part in stream(reads, scorer=PartScorer, arguments=arguments, config=config):
        index = part["slide"]
        if index in done:
            continue
        if part["part"] >= 0:
            parts.setdefault(index, {})[part["part"]] = part
        result = _assembled(rows[index], part, parts.get(index, {}))
        if result is not None:
            done.add(index)
            parts.pop(index, None)
            yield result
    for index in sorted(set(range(len(rows))) - done):  # cannot be; if it is, it is said
        yield SlideResult(rows[index], failure=("lost", "its reader ended without an answer; run the command again"))


def _assembled(row: SlideRow, part: dict[str, Any], parts: dict[int, dict[str, Any]]) -> SlideResult | None:
    header = json.loads(part["header"])
    if part["part"] < 0:
        return SlideResult(row, failure=(header["reason"], header["message"]))
    if len(parts) < header["n_parts"]:
        return None
    ordered = [parts[i] for i in range(header["n_parts"])]
    pictures = pa.concat_tables([from_ipc(p["evidence"]) for p in ordered])
    return SlideResult(
        row,
        header=json.loads(ordered[0]["header"]),
        preview=ordered[0]["preview"],
        masks=ordered[0]["masks"],
        tiles=pa.concat_tables(from_ipc(data) for data in (*(p["tiles"] for p in ordered), ordered[0]["flagged"])),
        evidence=pictures.sort_by([("score", "descending")]).slice(0, EVIDENCE_TILES),
    )


def scorer_arguments(bundle_uri: str, bundle: Bundle, config: StreamConfig) -> dict[str, Any]:
    """For `PartScorer`: every actor checks its weights against the description that the driver read."""
    return {"bundle_uri": bundle_uri, "bundle": bundle, "device": "cuda" if config.gpus else "cpu"}


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


Progress = Callable[[int, int, int], None]
"""Called with slides done, slides in all, tiles scored in this run."""


def screen(
    rows: list[SlideRow], *, bundle_uri: str, bundle: Bundle, calibration: Calibration, out: str,
    config: ScreenConfig | None = None, retry_failed: bool = False, progress: Progress | None = None,
    load: LoadDetector = load_detector,
) -> dict[str, Any]:  # fmt: skip
    """Screen an archive into `out`; what is decided there already stays as it is.

    Any number of drivers may do so at the same time: each slide is screened by one of them, and each driver returns
    when all slides are decided. What a driver leaves that dies is taken over by the others.

    Returns:
        Counts by state (they add up to the manifest), slides, tiles and tiles a second of this run, and where the page
        is.

    Raises:
        InputError: `out` holds a screening with another bundle or calibration.
    """
    config = config or ScreenConfig()
    began, slides, tiles, noted = time.perf_counter(), 0, 0, 0
    trained_on, calibrated_on = bundle.trained_on, calibration.seen
    warn_of_same_files(rows)
    with ledger.open_ledger(out, bundle=bundle, calibration=calibration) as book:

        def tick() -> None:
            if progress is not None:
                progress(len(rows) - len(book.open), len(rows), tiles)

        for todo in book.rounds(rows, retry_failed=retry_failed, waiting=tick):
            reads = claimed_reads(todo, bundle.tiles, tenure=book.tenure, withdrawn=book.withdrawn)
            results = scored_slides(
                todo, bundle_uri=bundle_uri, bundle=bundle, config=config.stream, reads=reads, load=load
            )
            for result in results:
                if result.failure is not None and result.failure[0] in NOT_OURS:
                    book.pass_over(result.row.slide_id, result.failure[0])
                    continue
                verdict = judge(result, calibration.aggregation, calibration, quality=bundle.tiles.quality)
                verdict["note"] = note(result, trained_on, calibrated_on)
                if book.commit(result, verdict):
                    metrics.count_slide(verdict["state"])
                    slides += 1
                    noted += verdict["note"] is not None
                    tiles += int(verdict.get("n_scored") or 0)
                tick()
        seconds = time.perf_counter() - began
        summary = book.finish(rows)
    if noted:
        log.warning("%d slides were used to train or calibrate: their p-values are no news, see the column note", noted)
    return summary | {"slides_now": slides, "tiles_now": tiles, "tiles_per_second": tiles / max(seconds, 1e-9)}
