"""The ranked worklist of a screening: one HTML page that has every slide, written to be read by people.

The page stands alone (no script, font or style from elsewhere) and points at pictures beside it: `thumbnail`,
`heatmap`, and for the i-th evidence tile, best first, one picture a kind: `tile_0`, `reconstruction_0`, ... They are
parts of one file a slide (`evidence_sheet`), or files in `evidence/<slide folder>/` in folders that are older.
Slides that were not screened are counted at the top and never left out.

Up to about a thousand slides stand in the page as they are shown. Of more, the page has the data of their rows, builds
those that are in view, and reads what an open slide shows, and small pictures, from files beside it (`Beside`).
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from uadray.reports.colours import legend_colours
from uadray.reports.entries import SlideEntry, slide_entry
from uadray.reports.page import asset, csp_hash, template
from uadray.reports.ranking import GROUPS, groups_of, rank
from uadray.reports.small_pictures import CELL, COLUMNS
from uadray.reports.viewer_links import slide_address
from uadray.reports.worklist_data import DETAILS, index_of

_TILE_PX = 112

_OPEN = 100
"""So many anomalous slides are shown with their pictures at once: laying out a thousand takes a browser seconds."""


SCRIPTS = ("worklist_model.js", "worklist_plain.js", "worklist.js")
"""Of a page with all of its slides; the last one begins."""

LONG_SCRIPTS = ("worklist_model.js", "worklist_rows.js", "worklist_long.js", "worklist.js")
"""Of a page that builds the rows in view."""

_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Files beside the page of many slides, by their address seen from the page.

    Attributes:
        details: one each `DETAILS` slides, in the order of the ranking, by name: see `details_file`.
        folder: that has them.
        sheets: of small pictures, by address.
        cells: for each slide, in the order of the ranking, its sheet and its cell there; None of one without.
    """

    details: Sequence[str]
    folder: str
    sheets: Sequence[str] = ()
    cells: Sequence[tuple[int, int] | None] = ()


class Run(TypedDict, total=False):
    """What the page says about the run. Whatever is absent is left out.

    `tile_um` draws the evidence tiles to scale on the thumbnail; `score_low` and `score_high` are the ends of the
    heatmap's colour scale, of which cells have a half where it `has_cells`, and `tile_threshold` the tile score ringed
    in black; `n_manifest` is how many slides were asked for; times are text as they should be read. `viewer` is the
    address of an endpoint's page, with screening and bundle behind its #: each slide has a link to itself there.
    """

    bundle: str
    detector: str
    alpha: float
    n_calibration: int
    calibration_id: str
    version: str
    fingerprint: str
    started: str
    finished: str
    n_manifest: int
    tile_um: float
    score_low: float
    score_high: float
    tile_threshold: float
    has_cells: bool
    viewer: str | None


def render_worklist(
    decisions: pa.Table, *, title: str, run: Run, picture_kinds: Sequence[str] = ("tile", "reconstruction"),
    folder: Callable[[str], str] = str, thumbnails: str = "evidence", beside: Beside | None = None,
) -> str:  # fmt: skip
    """The ranked worklist as one HTML page.

    Args:
        decisions: rows of `SLIDE_DECISIONS`, in any order.
        title: what the page is called.
        run: what to say about the run.
        picture_kinds: which pictures evidence tiles have, of `PICTURE_KINDS`. A tile whose entry in `evidence` says
            `"has_reconstruction": false` is shown alone.
        folder: slide id -> the name of its folder under `evidence/`, as it was written; the page quotes it for URLs.
        thumbnails: where the slides' folders with `thumbnail.jpg` lie, if not under `evidence`.
        beside: files that a page of many slides reads; without, all slides stand in the page.

    Raises:
        InputError: as `rank`.
    """
    ranked = rank(decisions)
    counts = Counter(groups_of(ranked).to_pylist()) if len(ranked) else Counter[str]()
    shown = ranked if beside is None else ranked.slice(0, _OPEN)
    entries = slide_entries(
        shown, tile_um=run.get("tile_um", 0.0), picture_kinds=picture_kinds, folder=folder, thumbnails=thumbnails
    )
    score_range = _score_range(ranked)
    script = "\n".join(map(asset, SCRIPTS if beside is None else LONG_SCRIPTS))
    style = asset("worklist.css")
    return template("worklist.html").render(
        title=title,
        run=run,
        alpha=_alpha(decisions, run),
        slides=entries,
        n_slides=len(shown),
        is_long=beside is not None,
        total=len(ranked),
        missing=max(0, run.get("n_manifest", len(ranked)) - len(ranked)),
        counts={group: counts[group] for group in GROUPS},
        groups=GROUPS,
        tile_px=_TILE_PX,
        n_open=_OPEN,
        legend=legend_colours(),
        score_range=score_range,
        link=partial(slide_address, run.get("viewer")),
        data=_data(ranked, run=run, score_range=score_range, beside=beside),
        script=Markup(script),  # noqa: S704 - our own files
        style=Markup(style),  # noqa: S704
        script_hash=csp_hash(script),
        style_hash=csp_hash(style),
    )


def slide_entries(
    ranked: pa.Table, *, tile_um: float, picture_kinds: Sequence[str], folder: Callable[[str], str] = str,
    thumbnails: str = "evidence",
) -> Iterator[SlideEntry]:  # fmt: skip
    """What the page shows of each slide, in order; some hundred rows in memory at a time. See `slide_entry`."""
    entry = partial(slide_entry, tile_um=tile_um, picture_kinds=picture_kinds, folder=folder, thumbnails=thumbnails)
    place = 0
    for batch in ranked.to_batches(max_chunksize=_BATCH):
        for row in batch.to_pylist():
            place += 1
            yield entry(row, place=place)


def _data(ranked: pa.Table, *, run: Run, score_range: tuple[float, float], beside: Beside | None) -> Markup:
    """What the script reads, as JSON that can stand in a page."""
    data: dict[str, Any] = {
        "groups": GROUPS,
        "index": index_of(ranked),
        "low": score_range[0],
        "high": score_range[1],
        "viewer": slide_address(run.get("viewer"), ""),
        "has_cells": run.get("has_cells", False),
    }
    if beside is not None:
        placed = [cell or (-1, 0) for cell in beside.cells] or [(-1, 0)] * len(ranked)
        data |= {
            "details": {"folder": beside.folder, "names": beside.details, "each": DETAILS},
            "tile_px": _TILE_PX,
            "small": {
                "sheets": beside.sheets, "sheet": [sheet for sheet, _ in placed], "cell": [cell for _, cell in placed],
                "columns": COLUMNS, "side": CELL,
            },
        }  # fmt: skip
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - nothing in it ends a script element


def _alpha(decisions: pa.Table, run: Run) -> float | None:
    stated = {value for value in decisions["alpha"].to_pylist() if value is not None}
    return run.get("alpha", stated.pop() if len(stated) == 1 else None)


def _score_range(ranked: pa.Table) -> tuple[float, float]:
    """The lowest and the highest of scores and thresholds."""
    ends = [pc.min_max(ranked[name]).as_py() for name in ("score", "threshold")]
    known = [value for each in ends for value in each.values() if value is not None and math.isfinite(value)]
    return (min(known), max(known)) if known else (0.0, 0.0)
