"""`uadray tile`: tiles of many slides, cut once on the cluster and kept as Parquet shards.

One slide is one task. What is committed is not cut again (see `uadray.tilesets.commits`), so the same command goes on
where it was stopped. What the system fails at is tried again (see `uadray.cluster.attempts`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from uadray import metrics
from uadray.cluster.attempts import Attempts, Outcome
from uadray.cluster.nodes import Nodes
from uadray.cluster.place import here
from uadray.cluster.tasks import Crashed, in_parallel
from uadray.commands.cluster import join_cluster
from uadray.commands.progress import progress
from uadray.errors import SYSTEM_REASONS, reason_of
from uadray.provenance import fingerprint
from uadray.screening.estimate import estimate
from uadray.screening.part_counts import count_work
from uadray.slides.manifest import SlideRow, read_manifest
from uadray.stage_seconds import recording
from uadray.tiles.mask_folder import check_folder
from uadray.tiles.spec import TileSpec
from uadray.tilesets import commits
from uadray.tilesets.cutting import cut_slide
from uadray.tilesets.records import CutOptions, SlideTiles, TileSet

Progress = Callable[[int, int, int], None]
"""Called with slides done, slides in all, tiles written in this run."""


def run(
    slides_uri: str, spec: TileSpec, *, out: str, tiles_per_slide: int | None, quality: int, seed: int, dry_run: bool
) -> dict[str, Any]:
    """Join the cluster and cut the tiles, or with `dry_run` say from a sample what cutting them would take.

    Args:
        slides_uri: of the manifest.
        spec: which tiles.
        out: folder or s3:// URI for the tile set.
        tiles_per_slide: random tiles of each slide; None takes all.
        quality: of JPEGs that have to be encoded anew.
        seed: of the random choice.
        dry_run: write nothing.

    Returns:
        The summary of `tile_set` or of `estimate`, and `masks_used`.
    """
    rows = read_manifest(slides_uri)
    masks_used = len(check_folder(spec.mask_dir, [row.slide_id for row in rows]).used)
    options: dict[str, Any] = {"tiles_per_slide": tiles_per_slide, "quality": quality, "seed": seed}
    with progress("tile") as tick:
        nodes = join_cluster(out_uri=None if dry_run else out)
        if dry_run:
            summary = estimate(rows, spec, job="tile", **options)
        else:
            summary = tile_set(
                rows, spec, out, nodes=nodes, **options,
                progress=lambda done, total, tiles: tick(done, total, f"{tiles} tiles"),
            )  # fmt: skip
    return summary | {"masks_used": masks_used}


@dataclass(frozen=True)
class _Cut:
    """A slide that was cut, how many seconds that took, and what for: see `WorkRecord.taken`."""

    tiles: SlideTiles
    seconds: float
    measured: dict[str, dict[str, float]]


@dataclass(frozen=True)
class _Fault:
    """Why a slide was not cut, and on which node."""

    reason: str
    message: str
    node_id: str
    address: str


def tile_set(
    rows: Sequence[SlideRow], spec: TileSpec, out: str, *, tiles_per_slide: int | None = None, seed: int = 0,
    quality: int = 90, progress: Progress | None = None, nodes: Nodes | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Cut the tiles of all slides into the folder `out`; slides that are finished there stay as they are.

    Args:
        rows: the slides.
        spec: how tiles are cut.
        out: URI of a folder.
        tiles_per_slide: random tiles of each slide; None for all.
        seed: of the random choice.
        quality: of JPEG (4:4:4), where the bytes of the slide's file cannot be kept.
        progress: told of every slide.
        nodes: that are used.

    Returns:
        Counts: `slides`, `finished`, `failed`, `tiles`, `kept` (with the bytes of the slide's file), `unreadable` and
        `flagged` (both left out, see `TileSpec.quality`), `bytes`, `slides_now` and `tiles_now` (of this run), and
        `failures` by slide id.

    Raises:
        InputError: `out` holds another tile set.
        WorkError: the system fails at slide after slide; slides that were committed stay.
    """
    options = CutOptions(tiles_per_slide=tiles_per_slide, seed=seed, quality=quality)
    spec = commits.claim(out, spec, options)
    finished = commits.committed_slides(rows, spec, options, out)
    pending = [row for row in rows if row.slide_id not in finished]
    tiles_now = 0
    failed: dict[str, str] = {}
    for row, result in _cut_all(pending, spec, options, out, nodes or Nodes()):
        if isinstance(result, SlideTiles):
            finished[row.slide_id] = result
            tiles_now += result.n_tiles
        else:
            failed[row.slide_id] = result
        if progress is not None:
            progress(len(finished) + len(failed), len(rows), tiles_now)
    slides = [finished[row.slide_id] for row in rows if row.slide_id in finished]
    counts = _counts(commits.finish(out, spec, options, slides=slides, failed=failed))
    now = {"slides_now": len(pending), "tiles_now": tiles_now}
    return {"out": out, "slides": len(rows), **counts, **now, "failures": failed}


def _counts(tile_set: TileSet) -> dict[str, int]:
    slides = tile_set.slides
    return {
        "finished": len(slides),
        "failed": len(tile_set.failed),
        "tiles": tile_set.n_tiles,
        "kept": sum(s.kept for s in slides),
        "unreadable": sum(s.unreadable for s in slides),
        "flagged": sum(s.flagged for s in slides),
        "bytes": sum(s.bytes for s in slides),
    }


def _cut_all(
    rows: list[SlideRow], spec: TileSpec, options: CutOptions, out: str, nodes: Nodes
) -> Iterator[tuple[SlideRow, SlideTiles | str]]:
    """Each slide's tiles, or why there are none, once for each slide."""
    attempts = Attempts(nodes)
    metrics.start_run(fingerprint([out, str(time.time())])[:8], kind="tile")
    for kind, n in (("cpu", nodes.cores()), ("gpu", nodes.gpus())):
        metrics.set_gauge(metrics.CORES, n, kind=kind)
    todo = rows
    try:
        while todo:
            given_back: list[SlideRow] = []
            for row, answer in in_parallel(_cut, todo, spec, options, out, nodes=nodes):
                result = _result(row, answer, attempts)
                if result is None:
                    given_back.append(row)
                else:
                    yield row, result
            todo = given_back
    finally:
        metrics.end_run()


def _result(row: SlideRow, answer: _Cut | _Fault | Crashed, attempts: Attempts) -> SlideTiles | str | None:
    """A slide's tiles, or why there are none; None where it is tried again."""
    meter = metrics.Meter("tile")
    match answer:
        case Crashed(message):
            attempts.ended()
            return f"crashed: {message}"
        case _Fault():
            outcome = _outcome(row, answer, attempts)
            if outcome.again:
                return None
            meter.add(errors=1)
            return ": ".join(outcome.failure)
        case _Cut(tiles, seconds, measured):
            attempts.worked(row)
            count_work(measured, stage="tile")
            meter.add(tiles=tiles.n_tiles, bytes_=tiles.bytes, errors=tiles.unreadable, seconds=seconds)
            return tiles


def _outcome(row: SlideRow, fault: _Fault, attempts: Attempts) -> Outcome:
    """Whether a slide that was not cut is tried again."""
    if fault.reason in SYSTEM_REASONS:
        return attempts.failed(row, fault.reason, fault.message, node_id=fault.node_id, address=fault.address)
    attempts.ended()
    return Outcome(again=False, failure=(fault.reason, fault.message), is_verdict=True)


def _cut(row: SlideRow, spec: TileSpec, options: CutOptions, out: str) -> _Cut | _Fault:
    """The task: cut one slide. Every error is an answer, so that one slide does not end the job."""
    began = time.perf_counter()
    try:
        with recording() as record:
            tiles = cut_slide(row, spec, options, out)
        return _Cut(tiles, time.perf_counter() - began, record.taken())
    except Exception as error:
        reason, message = reason_of(error)
        return _Fault(reason, " ".join(message.split())[:500], *here())
