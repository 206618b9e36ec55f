"""The ranked worklist of a screening: one HTML page and one CSV, both written to be read by people.

The page stands alone (no script, font or style from elsewhere) and points at pictures beside it: `thumbnail`,
`heatmap`, and for the i-th evidence tile, best first, one picture a kind: `tile_0`, `reconstruction_0`, ... They are
parts of one file a slide (`evidence_sheet`), or files in `evidence/<slide folder>/` in folders that are older.
Slides that were not screened are counted at the top and never left out.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict

import pyarrow as pa
from markupsafe import Markup

from uadray.reports.colours import legend_colours
from uadray.reports.entries import slide_entry
from uadray.reports.page import asset, csp_hash, template
from uadray.reports.ranking import GROUPS, group_of, rank

_TILE_PX = 112

_OPEN = 100
"""So many anomalous slides are shown with their pictures at once: laying out a thousand takes a browser seconds."""


class Run(TypedDict, total=False):
    """What the page says about the run. Whatever is absent is left out.

    `tile_um` draws the evidence tiles to scale on the thumbnail; `score_low` and `score_high` are the ends of the
    heatmap's colour scale, of which cells have a half where it `has_cells`, and `tile_threshold` the tile score ringed
    in black; `n_manifest` is how many slides were asked for; times are text as they should be read.
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


def worklist_csv(decisions: pa.Table) -> str:
    """The ranked worklist as CSV: `rank` and the columns of `SLIDE_DECISIONS`, every slide.

    Text is quoted. Text that a spreadsheet would take for a formula (it starts with = + - @, a tab or a line end) gets
    an apostrophe in front; so does a slide id, which is why machines should read `decisions.parquet` instead.

    Raises:
        InputError: as `rank`.
    """
    ranked = rank(decisions)
    page = io.StringIO()
    writer = csv.writer(page, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(["rank", *ranked.column_names])
    for place, row in enumerate(ranked.to_pylist(), start=1):
        writer.writerow([place, *(_spreadsheet_safe(cell) for cell in row.values())])
    return page.getvalue()


def render_worklist(
    decisions: pa.Table, *, title: str, run: Run, max_rows: int = 1000,
    picture_kinds: Sequence[str] = ("tile", "reconstruction"), folder: Callable[[str], str] = str,
    thumbnails: str = "evidence",
) -> str:  # fmt: skip
    """The ranked worklist as one HTML page.

    Args:
        decisions: rows of `SLIDE_DECISIONS`, in any order.
        title: what the page is called.
        run: what to say about the run.
        max_rows: slides listed at most. Normal slides are left out first, then the lowest ranks; the counts always
            cover all slides and the page says what it left out.
        picture_kinds: which pictures evidence tiles have, of `PICTURE_KINDS`. A tile whose entry in `evidence` says
            `"has_reconstruction": false` is shown alone.
        folder: slide id -> the name of its folder under `evidence/`, as it was written; the page quotes it for URLs.
        thumbnails: where the slides' folders with `thumbnail.jpg` lie, if not under `evidence`.

    Raises:
        InputError: as `rank`.
    """
    rows = list(enumerate(rank(decisions).to_pylist(), start=1))
    counts = Counter(group_of(row) for _, row in rows)
    entry = partial(
        slide_entry, tile_um=run.get("tile_um", 0.0), picture_kinds=picture_kinds, folder=folder, thumbnails=thumbnails
    )
    slides = [entry(row, place=place) for place, row in _shortened(rows, max_rows)]
    left_out = counts - Counter(slide.group for slide in slides)
    script, style = asset("worklist.js"), asset("worklist.css")
    return template("worklist.html").render(
        title=title,
        run=run,
        alpha=_alpha(decisions, run),
        slides=slides,
        total=len(rows),
        missing=max(0, run.get("n_manifest", len(rows)) - len(rows)),
        counts={group: counts[group] for group in GROUPS},
        left_out=left_out,
        groups=GROUPS,
        tile_px=_TILE_PX,
        n_open=_OPEN,
        legend=legend_colours(),
        score_range=_score_range(rows),
        script=Markup(script),  # noqa: S704 - our own files
        style=Markup(style),  # noqa: S704
        script_hash=csp_hash(script),
        style_hash=csp_hash(style),
    )


def _spreadsheet_safe(cell: Any) -> Any:
    if isinstance(cell, str) and (cell[:1] in "\t\r\n" or cell.lstrip()[:1] in tuple("=+-@＝＋－＠")):  # noqa: RUF001
        return f"'{cell}" if cell else cell
    return cell


def _shortened(rows: Sequence[tuple[int, dict[str, Any]]], max_rows: int) -> list[tuple[int, dict[str, Any]]]:
    if len(rows) <= max_rows:
        return list(rows)
    kept = sorted(rows, key=lambda item: (group_of(item[1]) == "normal", item[0]))[:max_rows]
    return sorted(kept, key=lambda item: item[0])


def _alpha(decisions: pa.Table, run: Run) -> float | None:
    stated = {value for value in decisions["alpha"].to_pylist() if value is not None}
    return run.get("alpha", stated.pop() if len(stated) == 1 else None)


def _score_range(rows: Sequence[tuple[int, Mapping[str, Any]]]) -> tuple[float, float]:
    known = [row[name] for _, row in rows for name in ("score", "threshold") if row[name] is not None]
    return (min(known), max(known)) if known else (0.0, 0.0)
