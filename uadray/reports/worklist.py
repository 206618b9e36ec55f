"""The ranked worklist of a screening run: one HTML page and one CSV, both written to be read by people.

The page stands alone (no script, font or style from elsewhere) and points at pictures beside it, under
`evidence/<slide folder>/`: `thumbnail.jpg`, `heatmap.jpg`, and for the i-th evidence tile, best first, one picture a
kind: `tile_0.jpg`, `reconstruction_0.jpg`, ... Slides that were not screened are counted at the top and never left out.
"""

import base64
import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, TypedDict
from urllib.parse import quote

import jinja2
import pyarrow as pa
from markupsafe import Markup

from uadray.errors import InputError
from uadray.reports import pictures

GROUPS = {"anomalous": "Anomalous", "normal": "Normal", "not_assessable": "Not assessable", "failed": "Failed"}
"""What a slide ends as, in the order of the worklist, with the words people read."""

PICTURE_KINDS = {"tile": "Tile", "reconstruction": "Reconstruction", "residual": "Difference"}
"""Pictures of one evidence tile, top to bottom: name of the file and the words people read."""

_UNKNOWN = "\N{EN DASH}"
_BOX_PX = (300, 340)
_TILE_PX = 112


class Run(TypedDict, total=False):
    """What the page says about the run. Whatever is absent is left out.

    `tile_um` draws the evidence tiles to scale on the thumbnail; `score_low` and `score_high` are the ends of the
    heatmap's colour scale and `tile_threshold` the tile score ringed in black; `n_manifest` is how many slides were
    asked for; times are text as they should be read.
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


@dataclass(frozen=True, kw_only=True)
class _Tile:
    rank: int
    score: float | None
    x_level0_px: int
    y_level0_px: int
    marker: tuple[float, float, float]  # x, y, side in level-0 px; large enough to be seen
    label: tuple[float, float]  # middle of its number
    pictures: Sequence[tuple[str, str]]  # words, address


@dataclass(frozen=True, kw_only=True)
class _Slide:
    rank: int
    group: str
    facts: Mapping[str, Any]  # the row of SLIDE_DECISIONS
    flags: Sequence[tuple[str, int]]  # tiles left out for their quality, the most first
    n_good: int | None  # tissue tiles that are not
    width_px: int  # of its pictures on the page
    height_px: int
    thumbnail: str | None
    heatmap: str | None
    tiles: Sequence[_Tile]


def rank(decisions: pa.Table) -> pa.Table:
    """Order slides as they should be read: anomalous, normal, not assessable, failed.

    Scored slides go by p-value, lowest first, then by score, highest first; the others by reason; then by slide id.

    Args:
        decisions: rows of `SLIDE_DECISIONS`.

    Raises:
        InputError: a row has a state and a decision that do not belong together.
    """
    rows = decisions.select(["slide_id", "state", "decision", "reason", "p_value", "score"]).to_pylist()
    keys = [_rank_key(row) for row in rows]
    return decisions.take(pa.array(sorted(range(len(rows)), key=keys.__getitem__), pa.int64()))


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
    decisions: pa.Table,
    *,
    title: str,
    run: Run,
    max_rows: int = 2000,
    picture_kinds: Sequence[str] = ("tile", "reconstruction"),
    folder: Callable[[str], str] = str,
    thumbnails: str = "evidence",
) -> str:
    """The ranked worklist as one HTML page.

    Args:
        decisions: rows of `SLIDE_DECISIONS`, in any order.
        title: what the page is called.
        run: what to say about the run.
        max_rows: slides listed at most. Normal slides are left out first, then the lowest ranks; the counts always
            cover all slides and the page says what it left out.
        picture_kinds: which pictures each evidence tile has, of `PICTURE_KINDS`; without a generator, only `tile`.
        folder: slide id -> the name of its folder under `evidence/`, as it was written; the page quotes it for URLs.
        thumbnails: where the slides' folders with `thumbnail.jpg` lie, if not under `evidence`.

    Raises:
        InputError: as `rank`.
    """
    rows = list(enumerate(rank(decisions).to_pylist(), start=1))
    counts = Counter(_group(row) for _, row in rows)
    slides = [
        _slide(row, place=place, run=run, picture_kinds=picture_kinds, folder=folder, thumbnails=thumbnails)
        for place, row in _shortened(rows, max_rows)
    ]
    left_out = counts - Counter(slide.group for slide in slides)
    script, style = _asset("worklist.js"), _asset("worklist.css")
    return _template().render(
        title=title,
        run=run,
        alpha=_alpha(decisions, run),
        slides=slides,
        total=len(rows),
        missing=max(0, run.get("n_manifest", len(rows)) - len(rows)),
        counts={group: counts[group] for group in GROUPS},
        left_out=left_out,
        groups=GROUPS,
        tile_words=[PICTURE_KINDS[kind] for kind in picture_kinds],
        tile_px=_TILE_PX,
        legend=pictures.legend_colours(),
        score_range=_score_range(rows),
        script=Markup(script),  # noqa: S704 - our own files
        style=Markup(style),  # noqa: S704
        script_hash=_csp_hash(script),
        style_hash=_csp_hash(style),
    )


def _group(row: Mapping[str, Any]) -> str:
    state, decision = row["state"], row["decision"]
    if state == "failed" and decision is None:
        return "failed"
    if state == "not_assessable" and decision in (None, "not_assessable"):
        return "not_assessable"
    if state == "scored" and decision in ("anomalous", "normal"):
        return str(decision)
    raise InputError(f"slide {row['slide_id']}: state {state!r} and decision {decision!r} do not belong together")


def _rank_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    group = _group(row)
    p_value = float("inf") if row["p_value"] is None else row["p_value"]
    score = float("inf") if row["score"] is None else -row["score"]
    reason = "" if group in ("anomalous", "normal") else row["reason"] or ""
    return (list(GROUPS).index(group), reason, p_value, score, row["slide_id"])


def _spreadsheet_safe(cell: Any) -> Any:
    if isinstance(cell, str) and (cell[:1] in "\t\r\n" or cell.lstrip()[:1] in tuple("=+-@＝＋－＠")):  # noqa: RUF001
        return f"'{cell}" if cell else cell
    return cell


def _shortened(rows: Sequence[tuple[int, dict[str, Any]]], max_rows: int) -> list[tuple[int, dict[str, Any]]]:
    if len(rows) <= max_rows:
        return list(rows)
    kept = sorted(rows, key=lambda item: (_group(item[1]) == "normal", item[0]))[:max_rows]
    return sorted(kept, key=lambda item: item[0])


def _slide(
    row: Mapping[str, Any], *, place: int, run: Run, picture_kinds: Sequence[str], folder: Callable[[str], str],
    thumbnails: str,
) -> _Slide:  # fmt: skip
    opened = row["width_level0_px"] is not None and row["height_level0_px"] is not None and row["state"] != "failed"
    size = (row["width_level0_px"], row["height_level0_px"]) if opened else (1, 1)
    scale = min(_BOX_PX[0] / size[0], _BOX_PX[1] / size[1])
    base = f"evidence/{quote(folder(row['slide_id']))}"
    side = run["tile_um"] / row["mpp_level0"] if run.get("tile_um") and row["mpp_level0"] else 0.0
    flags = sorted(json.loads(row["flags"] or "{}").items(), key=lambda item: -item[1])
    return _Slide(
        rank=place,
        group=_group(row),
        facts=row,
        flags=flags,
        n_good=None if row["n_tiles"] is None else row["n_tiles"] - sum(count for _, count in flags),
        width_px=max(1, round(size[0] * scale)),
        height_px=max(1, round(size[1] * scale)),
        thumbnail=f"{thumbnails}/{quote(folder(row['slide_id']))}/thumbnail.jpg" if opened else None,
        heatmap=f"{base}/heatmap.jpg" if opened and row["n_scored"] else None,
        tiles=list(_tiles(row, size=size, side=side, base=base, picture_kinds=picture_kinds)),
    )


def _tiles(
    row: Mapping[str, Any], *, size: tuple[int, int], side: float, base: str, picture_kinds: Sequence[str]
) -> Iterable[_Tile]:
    tiles = json.loads(row["evidence"] or "[]")
    corners = [(int(tile["x_level0_px"]), int(tile["y_level0_px"])) for tile in tiles]
    seen = max(side, 0.016 * max(size))
    markers = [(x + (side - seen) / 2, y + (side - seen) / 2, seen) for x, y in corners]
    labels = pictures.label_places(
        [(x + side / 2, y + side / 2) for x, y in corners], size=size, roomy=seen > 0.055 * max(size)
    )
    for index, (tile, corner) in enumerate(zip(tiles, corners, strict=True)):
        yield _Tile(
            rank=index + 1,
            score=tile["score"],
            x_level0_px=corner[0],
            y_level0_px=corner[1],
            marker=markers[index],
            label=labels[index],
            pictures=[(PICTURE_KINDS[kind], f"{base}/{kind}_{index}.jpg") for kind in picture_kinds],
        )


def _alpha(decisions: pa.Table, run: Run) -> float | None:
    stated = {value for value in decisions["alpha"].to_pylist() if value is not None}
    return run.get("alpha", stated.pop() if len(stated) == 1 else None)


def _score_range(rows: Sequence[tuple[int, Mapping[str, Any]]]) -> tuple[float, float]:
    known = [row[name] for _, row in rows for name in ("score", "threshold") if row[name] is not None]
    return (min(known), max(known)) if known else (0.0, 0.0)


def _number(value: float | None, digits: int = 3) -> str:
    """Significant digits without an exponent where people can read it, a dash for nothing.

    >>> _number(0.03226), _number(12.5), _number(None), _number(0.00001234)
    ('0.0323', '12.5', '–', '1.23e-05')
    """
    return _UNKNOWN if value is None else f"{value:#.{digits}g}".rstrip(".")


def _percent(value: float | None) -> str:
    """A share as per cent, never rounded up to 100 or down to 0.

    >>> _percent(0.0323), _percent(0.9996), _percent(1), _percent(None), _percent(0.0002)
    ('3.2 %', '99.9 %', '100 %', '–', '0.02 %')
    """
    if value is None:
        return _UNKNOWN
    if 0 < 100 - value * 100 < 0.1:
        return "99.9 %"
    return f"{value * 100:.2g} %" if value < 0.1 else f"{value * 100:.3g} %"


def _thousands(value: int | None) -> str:
    """Digits in groups of three, with narrow spaces that do not break."""
    return _UNKNOWN if value is None else f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=_number, percent=_percent, thousands=_thousands)
    return environment.from_string(_asset("worklist.html"))


@cache
def _asset(name: str) -> str:
    return (resources.files("uadray.reports") / "templates" / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
