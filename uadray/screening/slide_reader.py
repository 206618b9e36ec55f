"""The reader of slides: one read task a slide, which claims it, plans its tiles and reads them, part by part."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from uadray.cluster.place import here
from uadray.cluster.read_tasks import ReadTask, bind_read_task
from uadray.errors import SYSTEM_REASONS, reason_of
from uadray.reports.pictures import encode_jpeg
from uadray.schemas import TILE_SCORES, TILES
from uadray.screening import leases
from uadray.screening.leases import ClaimOwner
from uadray.screening.parts import failed_part, flag_error, part_row, to_ipc
from uadray.slides.identity import slide_etag
from uadray.slides.manifest import SlideRow
from uadray.slides.opening import open_slide
from uadray.stage_seconds import WorkRecord, recording, timed
from uadray.tiles.chunks import TileChunk, chunk_tiles, normalizer_of, read_chunk, read_chunks
from uadray.tiles.plan import SlidePlan, plan_slide
from uadray.tiles.spec import TileSpec

ReadSlide = Callable[[int, SlideRow, TileSpec], Iterator[pa.Table]]
"""Reads a slide: its index into the rows of the stream, its row, and how tiles are cut -> rows of `PARTS`."""


def slide_read_tasks(rows: Sequence[SlideRow], spec: TileSpec) -> list[ReadTask]:
    """One read task a slide."""
    return [bind_read_task(read_slide, index, row, spec) for index, row in enumerate(rows)]


def claimed_read_tasks(
    rows: Sequence[SlideRow], spec: TileSpec, *, owner: ClaimOwner, withdrawn: Mapping[str, str],
    read: ReadSlide | None = None,
) -> list[ReadTask]:  # fmt: skip
    """One read task a slide, which claims it; a slide that is not ours gives one row of part -1, `NOT_OURS`.

    `read` is in the place of `read_slide`.
    """
    return [
        bind_read_task(_read_claimed, index, row, spec, owner, withdrawn.get(row.slide_id), read or read_slide)
        for index, row in enumerate(rows)
    ]


def _read_claimed(
    index: int, row: SlideRow, spec: TileSpec, owner: ClaimOwner, replaces: str | None, read: ReadSlide
) -> Iterator[pa.Table]:
    try:
        outcome = leases.claim(owner, row.slide_id, replaces=replaces)
    except Exception as error:  # what keeps a node from the leases says nothing about the slide
        word, message = reason_of(error)
        yield failed_part(index, word if word in SYSTEM_REASONS else "node", f"its lease cannot be had: {message}")
        return
    if outcome == "ours":
        yield from read(index, row, spec)
    else:
        yield failed_part(index, outcome, f"another driver {'is at' if outcome == 'held' else 'has done'} this slide")


def read_slide(index: int, row: SlideRow, spec: TileSpec) -> Iterator[pa.Table]:
    """All parts of one slide; whatever goes wrong ends in one row with part -1, so that no slide is missing."""
    etag: str | None = None
    began = time.perf_counter()
    with recording() as record:
        try:
            with timed("stat"):
                etag = slide_etag(row)
            yield from _parts(index, row, spec, etag, record)
        except Exception as error:  # a slide that fails must not end the job, nor go missing
            read_s, measured = time.perf_counter() - began, record.taken()
            yield failed_part(index, *reason_of(error), etag=etag, read_s=read_s, measured=measured)


def _parts(index: int, row: SlideRow, spec: TileSpec, etag: str, record: WorkRecord) -> Iterator[pa.Table]:
    began = time.perf_counter()
    with timed("plan"):
        opened = open_slide(row.uri, slide_id=row.slide_id, mpp=row.mpp, etag=etag)
    with opened as slide:
        with timed("plan", whole=True):
            plan = plan_slide(slide, etag=etag, spec=spec)
        n_parts = max(1, -(-len(plan.tiles) // chunk_tiles(spec)))
        chunks = (
            read_chunks(slide, plan.tiles, spec=spec, normalise=normalizer_of(plan.stain, spec))
            if len(plan.tiles)
            else [read_chunk(slide, plan.tiles, spec=spec)]
        )
        for part, chunk in enumerate(chunks):
            header = {
                "n_parts": n_parts, "read_s": time.perf_counter() - began, "bytes": chunk.pixels.nbytes,
                "focus": good_focus(chunk), **record.taken(),
            }  # fmt: skip
            yield _chunk_row(index, part, header, plan, chunk)
            began = time.perf_counter()  # the time of whoever takes the rows does not count


def good_focus(chunk: TileChunk) -> list[float]:
    """The sharpness of the tiles that are fit to be scored, of those that are not too flat; with three decimals."""
    faults = zip(chunk.errors, chunk.flags, strict=True)
    is_good = np.array([error is None and flag is None for error, flag in faults], np.bool_)
    values: list[float] = chunk.focus[is_good & np.isfinite(chunk.focus)].round(3).tolist()
    return values


def _chunk_row(index: int, part: int, header: dict[str, Any], plan: SlidePlan, chunk: TileChunk) -> pa.Table:
    if part == 0:
        header = header | {
            "address": here()[1],
            "etag": plan.etag,
            "mpp_level0": plan.mpp_level0,
            "size_level0_px": plan.size_level0_px,
            "bounds_level0_px": plan.bounds_level0_px,
            "n_tiles": len(plan.tiles),
            "n_grid": plan.n_grid,
        }
    first: dict[str, Any] = {}
    if part == 0:
        first = {"preview": encode_jpeg(plan.preview), "masks": plan.masks, "flagged": to_ipc(_flagged(plan))}
    return part_row(
        index, part, header=header, tiles=chunk.tiles, pixels=chunk.pixels, errors=json.dumps(chunk.errors),
        flags=json.dumps(chunk.flags), **first,
    )  # fmt: skip


def _flagged(plan: SlidePlan) -> pa.Table:
    """The tiles that are not read, as rows of `TILE_SCORES` without a score."""
    n = len(plan.flagged)
    columns = {name: plan.flagged[name] for name in TILES.names} | {
        "score": pa.nulls(n, pa.float64()),
        "mean_saturation": pa.nulls(n, pa.float32()),
        "mean_green": pa.nulls(n, pa.float32()),
        "flag": pa.array(plan.flags, pa.string()),
        "error": pa.array([flag_error(flag) for flag in plan.flags], pa.string()),
    }
    return pa.table(columns, schema=TILE_SCORES)
